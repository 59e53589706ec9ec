"""What events say, as the gate keeps it: the same that its functions have written when they decided.

The events of one partition are read in order, some at a time, and added up before they are written: however many there
are, memory holds the changes of one piece. What expires is left out once its time is over.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

import msgspec

from vouchsafe.domain.redemption import EventKind
from vouchsafe.domain.takes import uncapped_text
from vouchsafe.gate.holds import MAX_TTL_MS
from vouchsafe.gate.keys import Keys, partition_of
from vouchsafe.gate.rebuilding import Changes
from vouchsafe.gate.transactions import home_of

NOT_WHOLE: Final = "-" * 32


class _Use(msgspec.Struct, gc=False):
    """What is read of an event about one use."""

    request_id: str
    fingerprint: str
    code: str
    order_id: str
    takes: dict[str, int] = {}
    combined_id: str = ""
    taken_ms: int = 0
    reservation_id: str = ""
    expire_ms: int = 0
    is_end: bool = False


class _Combined(msgspec.Struct, gc=False):
    request_id: str
    fingerprint: str
    reservation_id: str = ""
    transaction_id: str = ""


class _ReservedClaim(msgspec.Struct, gc=False):
    request_id: str


class _Reservation(msgspec.Struct, gc=False):
    id: str
    expire_ms: int
    claim: _ReservedClaim


class _Reserved(msgspec.Struct, gc=False):
    request_fingerprint: str
    reservation: msgspec.Raw


class _RolledBack(msgspec.Struct, gc=False):
    request_id: str
    fingerprint: str
    redemption_id: str
    kept: msgspec.Raw


class _Returned(msgspec.Struct, gc=False):
    code: str
    order_id: str
    rollback_id: str = ""
    takes: dict[str, int] = {}
    taken_ms: int = 0
    place: str = ""
    uses: int = 0


_use = msgspec.json.Decoder(_Use).decode
_combined = msgspec.json.Decoder(_Combined).decode
_reserved = msgspec.json.Decoder(_Reserved).decode
_reservation = msgspec.json.Decoder(_Reservation).decode
_rolled_back = msgspec.json.Decoder(_RolledBack).decode
_returned = msgspec.json.Decoder(_Returned).decode
_hold = msgspec.json.Encoder().encode


def _event_to_come(held: bytes) -> bytes:
    """The body of the redemption that a held use may become."""
    return held[: held.rindex(b',"expire_ms":')] + b"}"


# What is read of the bodies of each kind.
_READERS: Mapping[str, Callable[[bytes], object]] = {
    EventKind.REDEEMED: _use,
    EventKind.HELD: lambda body: (_use(body), _event_to_come(body)),
    EventKind.RELEASED: _use,
    EventKind.EXPIRED: _use,
    EventKind.RESERVED: lambda body: _reservation(_reserved(body).reservation),
    EventKind.COMBINED: _combined,
    EventKind.ROLLED_BACK: _rolled_back,
    EventKind.RETURNED: _returned,
}


def check_body(kind: str, body: bytes) -> None:
    """Raises ValueError on a body that could not be replayed, because it is not the kind's."""
    if (read := _READERS.get(kind)) is not None:
        read(body)


class Replay:
    """The events of one partition. `rebuilt` are all that are being rebuilt: only they get what belongs elsewhere.
    `unfinished` are rollbacks of which something has not come back yet."""

    def __init__(
        self,
        partition: int,
        partitions: int,
        rebuilt: Collection[int],
        unfinished: Collection[str],
        *,
        ttl_ms: int,
        now_ms: int,
    ) -> None:
        self._partition = partition
        self._partitions = partitions
        self._rebuilt = rebuilt
        self._unfinished = unfinished
        self._ttl_ms = ttl_ms
        self._now_ms = now_ms
        self._keys = [Keys(number) for number in range(partitions)]
        self._changes = Changes()

    def read(self, rows: Iterable[Iterable[Any]]) -> Changes:
        """What the events that follow change: each is epoch, ms, seq, at_ms, kind, campaign id and body, as the ledger
        gives them. Raises ValueError on a body that is not the kind's."""
        changes = self._changes = Changes()
        counters, moments, distinct, orders = changes.counters, changes.moments, changes.distinct, changes.orders
        fresh_ms = self._now_ms - self._ttl_ms
        for epoch, ms, seq, at_ms, kind, campaign_id, body in rows:
            if kind != "redeemed":
                self._read_other(kind, f"{epoch}-{ms}-{seq}", at_ms, campaign_id, body)
                continue
            # Most events by far, so they are not dispatched; a use that was reserved has counted since it was held.
            use = _use(body)
            if use.reservation_id:
                self._end_hold(counters[campaign_id], use.takes)
            else:
                counts = counters[campaign_id]
                for counter, amount in use.takes.items():
                    mark = counter[0]
                    if mark == "?":
                        distinct[campaign_id].add(counter)
                    elif mark == "~":
                        moments[campaign_id][counter].append(f"+{use.taken_ms or at_ms}")
                    else:
                        counts[counter] += amount
            place = use.combined_id or f"{epoch}-{ms}-{seq}"
            orders[campaign_id][f"{use.order_id} {use.code}"] = f"R{use.fingerprint}{place}"
            if at_ms > fresh_ms and not use.combined_id:
                self._answer(use.request_id, use.fingerprint, _decided(place, at_ms, body), at_ms)
        return changes

    # -- events that are few -----------------------------------------------------------------------------------------

    def _read_other(self, kind: str, place: str, at_ms: int, campaign_id: str, body: bytes) -> None:
        match kind:
            case EventKind.HELD:
                self._held(campaign_id, at_ms, body)
            case EventKind.RELEASED | EventKind.EXPIRED:
                self._given_up(campaign_id, at_ms, body)
            case EventKind.RESERVED:
                self._reserved(place, at_ms, body)
            case EventKind.COMBINED:
                self._combined(place, at_ms, body)
            case EventKind.ROLLED_BACK:
                rolled = _rolled_back(body)
                self._changes.fields[self._keys[self._partition].rolled][rolled.redemption_id] = bytes(rolled.kept)
                self._answer(rolled.request_id, rolled.fingerprint, _decided(place, at_ms, body), at_ms)
            case EventKind.RETURNED:
                self._came_back(campaign_id, at_ms, body)
            case _:
                pass  # the state of a campaign stands beside its definition

    def _held(self, campaign_id: str, at_ms: int, body: bytes) -> None:
        use = _use(body)
        self._count(campaign_id, use.takes, 1, at_ms)
        counts = self._changes.counters[campaign_id]
        counts["held"] += 1
        counts["held_money"] += use.takes.get("money", 0)
        event_to_come = _event_to_come(body).decode()
        # In the order of HOLD_FIELDS (orders.lua).
        hold = (
            use.fingerprint,
            uncapped_text(use.takes),
            event_to_come,
            at_ms,
            "",
            0,
            use.reservation_id,
            use.expire_ms,
        )
        self._changes.orders[campaign_id][f"{use.order_id} {use.code}"] = b"H" + _hold(hold)

    def _given_up(self, campaign_id: str, at_ms: int, body: bytes) -> None:
        use = _use(body)
        self._count(campaign_id, use.takes, -1, use.taken_ms)
        self._end_hold(self._changes.counters[campaign_id], use.takes)
        self._changes.orders[campaign_id][f"{use.order_id} {use.code}"] = "D"
        home = home_of(use.reservation_id)
        if use.is_end and home in self._rebuilt:
            self._end_reservation(home, use.reservation_id, f"{use.fingerprint}L", at_ms)

    def _reserved(self, place: str, at_ms: int, body: bytes) -> None:
        told = _reserved(body)
        note = bytes(told.reservation)
        reservation = _reservation(note)
        key = self._keys[self._partition].reservation(reservation.id)
        self._keep(self._partition, key, place.encode() + b" " + note, reservation.expire_ms + self._ttl_ms)
        self._answer(reservation.claim.request_id, told.request_fingerprint, f"Y {reservation.id}", at_ms)

    def _combined(self, place: str, at_ms: int, body: bytes) -> None:
        decided = _combined(body)
        answer = _decided(place, at_ms, body)
        if decided.reservation_id:
            self._end_reservation(self._partition, decided.reservation_id, f"{decided.fingerprint}{answer}", at_ms)
        else:
            self._answer(decided.request_id, decided.fingerprint, answer, at_ms)
        key = self._keys[self._partition].transaction(decided.transaction_id)
        self._keep(self._partition, key, place, at_ms + self._ttl_ms)

    def _came_back(self, campaign_id: str, at_ms: int, body: bytes) -> None:
        back = _returned(body)
        self._count(campaign_id, back.takes, -1, back.taken_ms)
        order = f"{back.order_id} {back.code}"
        orders = self._changes.orders[campaign_id]
        standing = orders.get(order)
        if not isinstance(standing, str):
            if standing is None:  # before what is read now
                orders[order] = f"{'B' if back.uses else 'P'} {back.place}"
        elif standing[:1] == "R" and standing[33:] == back.place:
            orders[order] = "D" if back.uses else f"R{NOT_WHOLE}{back.place}"
        elif standing[:1] in "BP":
            orders[order] = f"{'B' if back.uses else 'P'} {back.place}"
        expire_ms = 0 if back.rollback_id in self._unfinished else at_ms + self._ttl_ms
        key = self._keys[self._partition].mark(back.rollback_id, back.code)
        self._keep(self._partition, key, "1", expire_ms)

    # -- steps -------------------------------------------------------------------------------------------------------

    def _count(self, campaign_id: str, takes: Mapping[str, int], sign: int, taken_ms: int) -> None:
        changes = self._changes
        counts = changes.counters[campaign_id]
        for counter, amount in takes.items():
            if counter[0] == "?":
                changes.distinct[campaign_id].add(counter)
            elif counter[0] == "~":
                changes.moments[campaign_id][counter].append(f"{'+' if sign > 0 else '-'}{taken_ms}")
            else:
                counts[counter] += sign * amount

    def _end_hold(self, counts: defaultdict[str, int], takes: Mapping[str, int]) -> None:
        counts["held"] -= 1
        counts["held_money"] -= takes.get("money", 0)

    def _answer(self, request_id: str, fingerprint: str, answer: str, at_ms: int) -> None:
        """What a request was told, here; and where it was claimed, that it is this request's."""
        expire_ms = at_ms + self._ttl_ms
        self._keep(self._partition, self._keys[self._partition].request(request_id), fingerprint + answer, expire_ms)
        home = partition_of(request_id, self._partitions)
        if home != self._partition and home in self._rebuilt:
            self._keep(home, self._keys[home].request(request_id), fingerprint, expire_ms)

    def _end_reservation(self, home: int, reservation_id: str, text: str, at_ms: int) -> None:
        # As gate/holds.py has it: known for longer than the reservation itself.
        self._keep(home, self._keys[home].reservation_end(reservation_id), text, at_ms + self._ttl_ms + 2 * MAX_TTL_MS)

    def _keep(self, partition: int, key: str, value: bytes | str, expire_ms: int) -> None:
        if not expire_ms or expire_ms > self._now_ms:
            self._changes.strings.append((partition, key, value, expire_ms))


def _decided(place: str, at_ms: int, body: bytes) -> str:
    return f"R {place} {at_ms} {zlib.crc32(body)}"
