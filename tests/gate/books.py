"""All that the gate has written, held against the model: counters, what orders have, what waits, and the outbox."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from tests.gate.model import GateModel
from tests.gate.model_uses import Counters, Use, window_ms
from tests.gate.stage import Stage
from vouchsafe.domain.redemption import STREAM_START, Claim, Event, EventKind, Position, StreamId
from vouchsafe.domain.rollback import ReturnedCode
from vouchsafe.gate.attempts import decode_place
from vouchsafe.gate.outbox import event_from_fields
from vouchsafe.gate.transactions import home_of

_read_returned = msgspec.json.Decoder(ReturnedCode).decode


class Books:
    """Reads everything, after every step."""

    def __init__(self, stage: Stage, model: GateModel, positions: Sequence[Position]) -> None:
        self._stage = stage
        self._model = model
        self._positions = positions
        self._last = [STREAM_START] * len(stage.keys)
        self._compared = 0
        self._tallies: dict[str, Tally] = {}

    async def compare(self) -> None:
        commands: list[tuple[str | int, ...]] = []
        for partition, keys in enumerate(self._stage.keys):
            commands += [
                ("XRANGE", keys.outbox, f"({self._last[partition]}", "+"),
                ("ZRANGE", keys.pending, 0, -1, "WITHSCORES"),
                ("ZRANGE", keys.holding, 0, -1, "WITHSCORES"),
            ]
        for campaign_id in self._model.campaigns:
            keys = self._stage.keys_of(campaign_id)
            commands += [
                ("HGETALL", keys.counters(campaign_id)),
                ("HGETALL", keys.orders(campaign_id)),
                ("ZRANGE", keys.holds(campaign_id), 0, -1, "WITHSCORES"),
            ]
        replies = iter(await self._stage.gate._execute_all(commands))
        waiting: dict[str, int] = {}
        holding: dict[str, int] = {}
        streams = []
        for _ in self._stage.keys:
            streams.append(next(replies))
            waiting |= _scores(next(replies))
            holding |= _scores(next(replies))
        self._compare_events(streams)
        assert waiting == {part: deadline_ms for deadline_ms, part, _ in self._model.pending()}
        assert holding == self._model.holding
        for campaign_id in self._model.campaigns:
            counters = _counters(next(replies), self._model.now_ms)
            assert counters == self._model.counters(campaign_id), campaign_id
            self._compare_orders(campaign_id, _pairs(next(replies)), _scores(next(replies)))
            self._compare_sums(campaign_id, counters)

    def _compare_orders(self, campaign_id: str, orders: dict[str, bytes], ends: dict[str, int]) -> None:
        partition = self._stage.gate.partition_of(campaign_id)
        mine = {order: use for (campaign, order), use in self._model.orders.items() if campaign == campaign_id}
        assert ends == {order: use.expire_ms for order, use in mine.items() if use.is_reserved}
        found = {order: _standing(partition, text) for order, text in orders.items()}
        assert found == {order: self._expected(use) for order, use in mine.items()}

    def _expected(self, use: Use) -> tuple[object, ...]:
        if use.number is not None:
            return use.ask.fingerprint if use.is_whole else "-" * 32, self._positions[use.number]
        return use.ask.fingerprint, use.taken_ms, use.transaction, use.deadline_ms, use.reservation, use.expire_ms

    # -- the outbox --------------------------------------------------------------------------------------------------

    def _compare_events(self, streams: Sequence[Any]) -> None:
        fresh = self._model.events[self._compared :]
        self._compared = len(self._model.events)
        for partition, entries in enumerate(streams):
            events = []
            for entry_id, fields in entries:
                stream_id = StreamId.parse(entry_id.decode())
                events.append(event_from_fields(partition, stream_id, fields))
                self._last[partition] = stream_id
            found = [(event.kind.value, event.campaign_id) for event in events]
            assert found == [
                (kind, about if kind not in ("combined", "reserved", "rolled_back") else "")
                for kind, about in fresh
                if self._partition_of(kind, about) == partition
            ]
            for event in events:
                assert event.at_ms == self._model.now_ms
                if event.campaign_id:
                    self._tallies.setdefault(event.campaign_id, Tally()).enter(event)

    def _partition_of(self, kind: str, about: str | int) -> int:
        if isinstance(about, int):
            return self._positions[about].partition
        return home_of(about) if kind in ("combined", "reserved") else self._stage.gate.partition_of(about)

    def _compare_sums(self, campaign_id: str, counters: Counters) -> None:
        """What events say was taken, and not given back, is what counts, but for parts of transactions: those have no
        event before they are settled."""
        tally = self._tallies.get(campaign_id, Tally())
        plain = [use for _, _, use in self._model.pending(campaign_id) if not use.reservation]
        found = tally.counters(plain, self._model.now_ms)
        assert found == {name: value for name, value in counters.items() if name not in ("held", "held_money")}


class Tally:
    """The sums over the events of a campaign."""

    def __init__(self) -> None:
        self._taken: Counter[tuple[str, int]] = Counter()  # by counter and moment
        self._held: dict[str, tuple[Claim, int]] = {}

    def enter(self, event: Event) -> None:
        match event.kind:
            case EventKind.HELD:
                claim = Claim.from_json(event.body)
                self._held[_order_and_code(claim)] = (claim, event.at_ms)
            case EventKind.RELEASED | EventKind.EXPIRED:
                del self._held[_order_and_code(Claim.from_json(event.body))]
            case EventKind.REDEEMED:
                claim = Claim.from_json(event.body)
                if claim.reservation_id:
                    del self._held[_order_and_code(claim)]
                for name in claim.takes:
                    self._taken[name, claim.taken_ms or event.at_ms] += _amount(name, claim.takes[name])
            case EventKind.RETURNED:
                back = _read_returned(event.body)
                for name in back.takes:
                    self._taken[name, back.taken_ms] -= _amount(name, back.takes[name])
            case _:
                pass

    def counters(self, more: Sequence[Use], now_ms: int) -> Counters:
        """With the uses that have no event yet."""
        taken = self._taken.copy()
        for claim, at_ms in self._held.values():
            taken.update({(name, at_ms): _amount(name, claim.takes[name]) for name in claim.takes})
        for use in more:
            taken.update({(name, use.taken_ms): amount for name, amount in use.counts.items()})
        sums: Counter[str] = Counter()
        moments: dict[str, list[int]] = {}
        for (name, at_ms), amount in taken.items():
            assert amount >= 0, name
            sums[name] += amount
            if name.startswith("~") and at_ms > now_ms - window_ms(name):
                moments.setdefault(name, []).extend([at_ms] * amount)
        found: Counters = {"uses": 0}
        found |= {name: value for name, value in sums.items() if value and name[0] not in "?~"}
        different = sum(1 for name, value in sums.items() if name[0] == "?" and value)
        if different:
            found["?distinct"] = different
        return found | {name: sorted(values) for name, values in moments.items() if values}


def _order_and_code(claim: Claim) -> str:
    return f"{claim.order_id} {claim.code}"


def _amount(name: str, amount: int) -> int:
    """Moments are taken one by one: the amount is the window's length."""
    return 1 if name.startswith("~") else amount


def _pairs(flat: Sequence[bytes]) -> dict[str, bytes]:
    return {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def _scores(flat: Sequence[bytes]) -> dict[str, int]:
    return {name: int(value) for name, value in _pairs(flat).items()}


def _counters(flat: Sequence[bytes], now_ms: int) -> Counters:
    """As they stand there, but for moments that do not count any more: those go when others of the counter come."""
    found: Counters = {}
    for name, value in _pairs(flat).items():
        if not name.startswith("~"):
            found[name] = int(value)
        elif moments := [at for at in map(int, value.split()) if at > now_ms - window_ms(name)]:
            found[name] = sorted(moments)
    return found


def _standing(partition: int, text: bytes) -> tuple[object, ...]:
    if text.startswith(b"R"):
        return text[1:33].decode(), decode_place(partition, text[33:].decode())
    fingerprint, _takes, _body, *rest = msgspec.msgpack.decode(text[1:], type=list[Any])
    return (fingerprint, *rest)
