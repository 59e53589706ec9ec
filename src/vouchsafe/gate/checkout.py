"""The gate as checkouts use it: look a code up, claim a request id, decide. All of it goes through lanes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from vouchsafe.domain.campaign import Campaign, CodeEntry
from vouchsafe.domain.reasons import Refusal
from vouchsafe.domain.redemption import Event, Position, Redemption
from vouchsafe.gate.attempts import (
    CROWDED,
    Attempt,
    Crowded,
    Moved,
    Redeemable,
    Reserved,
    Stale,
    Standing,
    Tried,
    Waiting,
    decode_answer,
    decode_for,
    reused,
)
from vouchsafe.gate.codes import decode_entry, resolve_keys
from vouchsafe.gate.connection import Command, function_call
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.guesses import Guesses
from vouchsafe.gate.holds import Holds
from vouchsafe.gate.lanes import Function, Lanes
from vouchsafe.gate.outbox import event_from_fields
from vouchsafe.gate.returns import Returns
from vouchsafe.gate.statuses import decode_definition, definition_call
from vouchsafe.gate.transactions import Part, campaign_call
from vouchsafe.settings import Settings

# What redeeming comes to.
Decided = Redemption | Refusal | Standing | Stale | Moved | Waiting


class Checkout:
    """Decides redemptions. Every method raises Overloaded when too much waits, Unavailable when Valkey is out of
    reach or the partition is not open; after Unavailable it is not known what was decided, and repeating the same
    request finds out. `holds`, `returns` and `guesses` are what else they ask for, over the same lanes.
    """

    def __init__(self, gate: Gate, settings: Settings) -> None:
        self._gate = gate
        self._ttl_ms = settings.request_ttl_ms
        self._lanes = Lanes(gate, settings)
        self.holds = Holds(gate, self._lanes, settings.request_ttl_ms)
        self.returns = Returns(gate, self._lanes, settings.request_ttl_ms)
        self.guesses = Guesses(gate, self._lanes)
        self._resolve = Function(self._encode_resolve, _decode_resolve, decides=False)
        self._definition = Function(self._encode_definition, decode_definition, decides=False)
        self._claim = Function(self._encode_claim, _decode_claim)
        self._redeem = Function(self._encode_redeem, self._decode_redeem)
        self._validate = Function(self._encode_validate, self._decode_validate, decides=False)
        self._trial = Function(self._encode_trial, _decode_trial, decides=False)
        self._event = Function(self._encode_event, _decode_event, decides=False)

    async def close(self) -> None:
        """Answers what waits, then closes the connection."""
        await self._lanes.close()

    @property
    def is_one_node(self) -> bool:
        """Whether everything lies on one Valkey."""
        return not self._gate.routes.is_cluster

    def now_ms(self) -> int:
        """What the gate's clock says, within a round trip."""
        return self._gate.clock.now_ms()

    def home(self, id_: str) -> int:
        """The partition in which a request id is remembered, or in which a campaign lies."""
        return self._gate.partition_of(id_)

    async def resolve(self, code: str) -> CodeEntry | None:
        """Where a code leads, or None when no campaign has it."""
        return await self._lanes.submit(self._resolve, self._gate.partition_of(code), code)

    async def definition(self, campaign_id: str) -> Campaign | None:
        """The definition that decides now, or None when the gate has no such campaign."""
        return await self._lanes.submit(self._definition, self._gate.partition_of(campaign_id), campaign_id)

    async def claim_id(
        self, request_id: str, fingerprint: str, partition: int | None = None
    ) -> Standing | Refusal | Reserved | None:
        """Makes sure that the request id is this request's and no other's, and answers what it was told in a partition
        (None: that of the id), if anything. Raises RequestIdReused.

        A request id has a partition of its own, so that it is caught even when the other request went to a campaign
        elsewhere."""
        home = self.home(request_id) if partition is None else partition
        return await self._lanes.submit(self._claim, home, (request_id, fingerprint))

    async def redeem(self, attempt: Attempt) -> Decided:
        """Decides in one atomic step, and takes the use if nothing speaks against it. Raises RequestIdReused."""
        claim = attempt.claim
        partition = self._gate.partition_of(claim.campaign_id)
        if not self.is_one_node and self.home(claim.request_id) != partition:
            told = await self.claim_id(claim.request_id, claim.fingerprint)
            assert not isinstance(told, Reserved)  # a request to reserve has another fingerprint
            if told is not None:
                return told
        while isinstance(answer := await self._lanes.submit(self._redeem, partition, attempt), Crowded):
            pass
        return answer

    async def redeem_each(self, attempts: Sequence[Attempt]) -> list[Decided | Crowded | Exception]:
        """The same for each of many, on one Valkey, or what went wrong with it. Crowded has to be asked again."""
        places: dict[int, list[int]] = {}
        for place, attempt in enumerate(attempts):
            places.setdefault(self._gate.partition_of(attempt.claim.campaign_id), []).append(place)
        asked = (
            self._lanes.ask_each(self._redeem, partition, [attempts[place] for place in found])
            for partition, found in places.items()
        )
        answers: list[Decided | Crowded | Exception] = [CROWDED] * len(attempts)
        for found, told in zip(places.values(), await asyncio.gather(*asked), strict=True):
            for place, answer in zip(found, told, strict=True):
                answers[place] = answer
        return answers

    async def validate(
        self, attempt: Attempt, others: Sequence[str] = ()
    ) -> Redeemable | Refusal | Stale | Moved | Waiting:
        """What `redeem` would decide now. Takes nothing; looks at no request id. `others` are codes of the campaign
        that are to be taken together with this one: what is reserved of them gives way, so it does not count."""
        partition = self._gate.partition_of(attempt.claim.campaign_id)
        item = attempt, " ".join(others)
        while isinstance(answer := await self._lanes.submit(self._validate, partition, item), Crowded):
            pass
        return answer

    async def try_out(self, attempt: Attempt, others: Sequence[str], at_ms: int) -> Tried:
        """What `validate` would answer at a time, by the counters as they are now and as if the campaign were active.
        The attempt is one that was judged for that time. Changes nothing at all."""
        partition = self._gate.partition_of(attempt.claim.campaign_id)
        return await self._lanes.submit(self._trial, partition, (attempt, " ".join(others), at_ms))

    async def settle_by_decision(self, part: Part) -> None:
        """Settles a part of a transaction by what was decided of it, and if that is nothing, then for ever."""
        await self._gate.settle([part])

    async def event(self, position: Position) -> Event | None:
        """The event at a position, or None when the outbox does not hold it (any more)."""
        if position.partition >= self._gate.partitions:
            return None
        event = await self._lanes.submit(self._event, position.partition, position)
        return event if event is not None and event.position == position else None

    # -- the wire format; each function's contract stands in its .lua file ---------------------------------------------

    def _encode_resolve(self, partition: int, codes: Sequence[str]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        names = resolve_keys(keys, self._gate.partitions, codes)
        return function_call("resolve", [keys.meta, *names], [token, *codes])

    def _encode_definition(self, partition: int, campaign_ids: Sequence[str]) -> Command:
        return definition_call(*self._gate.keys_and_token(partition), campaign_ids)

    def _encode_claim(self, partition: int, claims: Sequence[tuple[str, str]]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        names = [keys.request(request_id) for request_id, _ in claims]
        fingerprints = [fingerprint for _, fingerprint in claims]
        return function_call("claim", [keys.meta, *names], [token, self._ttl_ms, *fingerprints])

    def _encode_redeem(self, partition: int, attempts: Sequence[Attempt]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        # On one Valkey a call may touch all partitions, so that an exchange of its own for the claim is saved.
        homes: dict[int, int] = {}
        requests: list[str] = []
        items: list[tuple[str, Sequence[bytes | str | int]]] = []
        for attempt in attempts:
            request_id = attempt.claim.request_id
            home, index = self.home(request_id), 0
            requests.append(keys.request(request_id))
            if self.is_one_node and home != partition:
                index = homes.setdefault(home, len(homes) + 1)
                requests.append(self._gate.keys(home).request(request_id))
            campaign_id, fields = attempt.part
            items.append((campaign_id, (index, *fields)))
        own_keys = [keys.outbox, *(self._gate.keys(home).meta for home in homes)]
        first: list[str | int] = [token, self._ttl_ms, len(homes), *(self._gate.token_if_open(home) for home in homes)]
        return campaign_call("redeem", keys, own_keys, first, items, requests)

    def _encode_validate(self, partition: int, asked: Sequence[tuple[Attempt, str]]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        items = [
            (campaign_id, (others, *fields))
            for others, (campaign_id, fields) in ((others, attempt.part) for attempt, others in asked)
        ]
        return campaign_call("validate", keys, (keys.outbox,), (token,), items)

    def _encode_trial(self, partition: int, tried: Sequence[tuple[Attempt, str, int]]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        items = [
            (campaign_id, (at_ms, others, *fields))
            for at_ms, others, (campaign_id, fields) in ((at_ms, others, one.part) for one, others, at_ms in tried)
        ]
        return campaign_call("trial", keys, (keys.outbox,), (token,), items)

    def _encode_event(self, partition: int, positions: Sequence[Position]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        ids = (str(position.stream_id) for position in positions)
        return function_call("event", [keys.meta, keys.outbox], [token, *ids])

    def _decode_redeem(self, partition: int, attempt: Attempt, answer: bytes) -> Decided | Crowded:
        if answer.startswith(b"P "):
            partition, answer = self.home(attempt.claim.request_id), answer[2:]
        match decode_for(attempt, partition, answer, self._gate.clock.set, claimed=True):
            case Redemption() | Refusal() | Standing() | Stale() | Moved() | Waiting() | Crowded() as found:
                return found
            case found:
                raise ValueError(f"unexpected answer {found}")

    def _decode_validate(
        self, partition: int, asked: tuple[Attempt, str], answer: bytes
    ) -> Redeemable | Refusal | Stale | Moved | Waiting | Crowded:
        match decode_for(asked[0], partition, answer, self._gate.clock.set):
            case Redeemable() | Refusal() | Stale() | Moved() | Waiting() | Crowded() as found:
                return found
            case found:
                raise ValueError(f"unexpected answer {found}")


def _decode_resolve(_partition: int, code: str, entry: bytes | None) -> CodeEntry | None:
    return None if entry is None else decode_entry(code, entry.decode())


def _decode_trial(partition: int, tried: tuple[Attempt, str, int], answer: bytes) -> Tried:
    activity, _, foretold = answer.partition(b" ")
    # The clock is left alone: its time is not the one that is pretended.
    match decode_for(tried[0], partition, foretold, lambda _: None):
        case Redeemable() | Refusal() | Stale() | Waiting() as found:
            return Tried(found, activity == b"1")
        case found:
            raise ValueError(f"unexpected answer {found}")


def _decode_event(_partition: int, position: Position, fields: list[bytes] | None) -> Event | None:
    return event_from_fields(position.partition, position.stream_id, fields) if fields else None


def _decode_claim(partition: int, item: tuple[str, str], answer: bytes) -> Standing | Refusal | Reserved | None:
    if answer == b"K":
        return None
    match decode_answer(partition, "", answer.decode()):
        case Standing() | Refusal() | Reserved() as found:
            return found
        case _:
            raise reused(item[0])
