"""Uses that are held: parts of transactions over several codes, and reservations. All of it goes through the lanes of
the checkout; the contracts stand in transaction.lua and reservation.lua."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import msgspec

from vouchsafe.domain.errors import Unavailable
from vouchsafe.domain.reasons import Refusal
from vouchsafe.domain.redemption import CombinedClaim, Position, Redemption
from vouchsafe.domain.reservation import Reservation, ReservedEvent
from vouchsafe.gate.attempts import (
    Answer,
    Attempt,
    Crowded,
    Gone,
    Held,
    Missing,
    Moved,
    Released,
    Reserved,
    Reused,
    Stale,
    Standing,
    Undone,
    Waiting,
    decode_answer,
    decode_for,
    decode_place,
    encode_refusal,
    reused,
)
from vouchsafe.gate.connection import Command, function_call
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.keys import Keys
from vouchsafe.gate.lanes import Function, Lanes
from vouchsafe.gate.transactions import Part, campaign_call, forget_call, home_of, settle_call

# How long a reservation can last, as the protos say.
MAX_TTL_MS = 86_400_000

# Why a part is not held.
Hindrance = Refusal | Standing | Reserved | Stale | Moved | Waiting


@dataclass(frozen=True, slots=True)
class Hold:
    """Parts of a transaction, of one campaign, to be held until they are settled; its deadline is milliseconds by the
    gate's clock."""

    attempts: Sequence[Attempt]
    transaction_id: str
    deadline_ms: int


@dataclass(frozen=True, slots=True)
class Reserve:
    """Parts of a reservation, of one campaign, to be held for `ttl_ms`."""

    attempts: Sequence[Attempt]
    reservation_id: str
    ttl_ms: int


@dataclass(frozen=True, slots=True)
class Pin:
    """A part of a reservation to be made one of a transaction, too."""

    part: Part
    transaction_id: str
    deadline_ms: int


class Decision:
    """A transaction to be decided before its deadline by the gate's clock; remembered as the end of the reservation
    that it is of, else as the answer to its request. `epochs` are those in which its parts are held, by partition."""

    __slots__ = ("body", "claim", "deadline_ms", "digest", "epochs", "transaction_id")

    def __init__(self, claim: CombinedClaim, transaction_id: str, deadline_ms: int, epochs: Mapping[int, int]) -> None:
        self.claim = claim
        self.transaction_id = transaction_id
        self.deadline_ms = deadline_ms
        self.epochs = epochs
        self.body = msgspec.structs.replace(claim, transaction_id=transaction_id).to_json()
        self.digest = zlib.crc32(self.body)


@dataclass(frozen=True, slots=True)
class Note:
    """A reservation to be noted, as the answer to the request that made it."""

    reservation: Reservation
    request_fingerprint: str
    ttl_ms: int


@dataclass(frozen=True, slots=True)
class _Remembered:
    """An answer to be remembered, under a request id or, if that is not empty, as the end of a reservation."""

    request_id: str
    reservation_id: str
    fingerprint: str
    answer: bytes


@dataclass(frozen=True, slots=True)
class Noted:
    """A reservation, where its event lies, and how it has ended, if that was decided."""

    reservation: Reservation
    position: Position
    end: Standing | Released | None


class Holds:
    """Every method raises Overloaded and Unavailable as those of `Checkout` do."""

    def __init__(self, gate: Gate, lanes: Lanes, ttl_ms: int) -> None:
        self._gate = gate
        self._lanes = lanes
        self._ttl_ms = ttl_ms
        # The end of a reservation is known for longer than the reservation itself.
        self._end_ttl_ms = ttl_ms + 2 * MAX_TTL_MS
        self._hold = Function(self._encode_hold, self._decode_held)
        self._reserve = Function(self._encode_reserve, self._decode_held)
        self._pin = Function(self._encode_pin, _decode_pin)
        self._release = Function(self._encode_release, _decode_release)
        self._decide = Function(self._encode_decide, _decode_decision)
        self._settle = Function(self._encode_settle, _decode_nothing)
        self._forget = Function(self._encode_forget, _decode_nothing)
        self._answer = Function(self._encode_answer, _decode_answered)
        self._note = Function(self._encode_note, _decode_note)
        self._noted = Function(self._encode_noted, _decode_noted)

    # -- transactions ------------------------------------------------------------------------------------------------

    async def hold(self, hold: Hold) -> list[Held | Hindrance]:
        """Takes parts of a transaction in one step, until they are settled: all, or none. Doing so again changes
        nothing. Answers for each part, in order; the last may be why one is not held, and then none is."""
        partition = self._gate.partition_of(hold.attempts[0].claim.campaign_id)
        while isinstance(answers := await self._lanes.submit(self._hold, partition, hold), Crowded):
            pass
        return answers

    async def decide(self, decision: Decision) -> Redemption | Standing | Refusal | Released | Undone:
        """Makes all parts of a transaction one redemption, in one atomic step, unless it was undone or is late, a part
        may be lost, or the request has its answer already. Raises RequestIdReused."""
        return await self._lanes.submit(self._decide, home_of(decision.transaction_id), decision)

    async def settle(self, part: Part, redemption_id: str) -> None:
        """Makes a redemption of a part whose transaction is decided, or undoes it with ''. Safe to do twice."""
        partition = self._gate.partition_of(part.campaign_id)
        await self._lanes.submit(self._settle, partition, (part, redemption_id))

    async def forget(self, transaction_id: str) -> None:
        """All parts are settled: lets the decision expire."""
        await self._lanes.submit(self._forget, home_of(transaction_id), transaction_id)

    async def remember(self, request_id: str, fingerprint: str, outcome: Refusal | Reserved) -> Answer:
        """Remembers an outcome under a request id that has no answer yet, in the partition of the id. Answers what
        stands there now."""
        if isinstance(outcome, Reserved):
            answer = f"Y {outcome.reservation_id}".encode()
        else:
            answer = encode_refusal(outcome, with_code=True)
        item = _Remembered(request_id, "", fingerprint, answer)
        return await self._lanes.submit(self._answer, self._gate.partition_of(request_id), item)

    # -- reservations ------------------------------------------------------------------------------------------------

    async def reserve(self, reserve: Reserve) -> list[Held | Hindrance]:
        """Holds parts of a reservation in one step, until its time is over: all, or none. Doing so again changes
        nothing. Answers as `hold` does."""
        partition = self._gate.partition_of(reserve.attempts[0].claim.campaign_id)
        while isinstance(answers := await self._lanes.submit(self._reserve, partition, reserve), Crowded):
            pass
        return answers

    async def note(self, note: Note) -> Noted:
        """Notes a reservation under its id, and as the answer to its request."""
        return await self._lanes.submit(self._note, home_of(note.reservation.id), note)

    async def noted(self, reservation_id: str) -> Noted | None:
        """The reservation of this id, or None."""
        home = home_of(reservation_id)
        if home >= self._gate.partitions:
            return None
        return await self._lanes.submit(self._noted, home, reservation_id)

    async def pin(self, pin: Pin) -> Held | Gone | Waiting | Refusal:
        """Makes a part of a reservation one of a transaction, so that its time cannot end before that is settled."""
        return await self._lanes.submit(self._pin, self._gate.partition_of(pin.part.campaign_id), pin)

    async def end_released(self, reservation: Reservation) -> Standing | Released:
        """Decides that a reservation is given back, unless it was redeemed."""
        item = _Remembered("", reservation.id, reservation.claim.fingerprint, b"L")
        found = await self._lanes.submit(self._answer, home_of(reservation.id), item)
        assert isinstance(found, Standing | Released)
        return found

    async def release(self, part: Part, *, is_end: bool) -> Gone | Waiting:
        """Gives a part of a reservation back, unless it is one of a transaction at the moment. `is_end`: the whole
        reservation has ended, by `end_released`."""
        return await self._lanes.submit(self._release, self._gate.partition_of(part.campaign_id), (part, is_end))

    # -- the wire format ---------------------------------------------------------------------------------------------

    def _encode_hold(self, partition: int, holds: Sequence[Hold]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        items = [_held_item(hold.attempts, hold.transaction_id, hold.deadline_ms) for hold in holds]
        return campaign_call("hold", keys, (keys.outbox, keys.pending), (token,), items)

    def _encode_reserve(self, partition: int, reserves: Sequence[Reserve]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        items = [_held_item(reserve.attempts, reserve.reservation_id, reserve.ttl_ms) for reserve in reserves]
        return campaign_call("reserve", keys, (keys.outbox, keys.holding), (token,), items)

    def _encode_pin(self, partition: int, pins: Sequence[Pin]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        items = [
            (pin.part.campaign_id, (pin.part.order_and_code, pin.part.holder_id, pin.transaction_id, pin.deadline_ms))
            for pin in pins
        ]
        return campaign_call("pin", keys, (keys.outbox, keys.pending), (token,), items)

    def _encode_release(self, partition: int, released: Sequence[tuple[Part, bool]]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        items = [(part.campaign_id, (part.order_and_code, part.holder_id, int(is_end))) for part, is_end in released]
        return campaign_call("release", keys, (keys.outbox,), (token,), items)

    def _encode_decide(self, partition: int, decisions: Sequence[Decision]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        names: list[str] = []
        args: list[bytes | str | int] = [token]
        for decision in decisions:
            claim = decision.claim
            answer, ttl_ms = self._place_of_answer(keys, claim.request_id, claim.reservation_id)
            names += (keys.transaction(decision.transaction_id), answer)
            parts = "".join(f" {partition}={epoch}" for partition, epoch in decision.epochs.items())
            args += (claim.fingerprint, decision.deadline_ms, ttl_ms, decision.digest, decision.body, parts)
        return function_call("decide", [keys.meta, keys.outbox, keys.fences, *names], args)

    def _encode_settle(self, partition: int, settled: Sequence[tuple[Part, str]]) -> Command:
        return settle_call(*self._gate.keys_and_token(partition), settled)

    def _encode_forget(self, partition: int, transaction_ids: Sequence[str]) -> Command:
        return forget_call(*self._gate.keys_and_token(partition), transaction_ids, self._ttl_ms)

    def _encode_answer(self, partition: int, items: Sequence[_Remembered]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        names: list[str] = []
        args: list[bytes | str | int] = [token]
        for item in items:
            name, ttl_ms = self._place_of_answer(keys, item.request_id, item.reservation_id)
            names.append(name)
            args += (item.fingerprint, item.answer, ttl_ms)
        return function_call("answer", [keys.meta, *names], args)

    def _place_of_answer(self, keys: Keys, request_id: str, reservation_id: str) -> tuple[str, int]:
        """Under which key an answer is remembered, and for how long."""
        if reservation_id:
            return keys.reservation_end(reservation_id), self._end_ttl_ms
        return keys.request(request_id), self._ttl_ms

    def _encode_note(self, partition: int, notes: Sequence[Note]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        names: list[str] = []
        args: list[bytes | str | int] = [token, self._ttl_ms]
        for note in notes:
            reservation = note.reservation
            names += (keys.reservation(reservation.id), keys.request(reservation.claim.request_id))
            # Kept for as long after its end as requests are, so that a late confirmation gets its reason.
            kept_ms = note.ttl_ms + self._ttl_ms
            event = ReservedEvent(note.request_fingerprint, reservation)
            args += (note.request_fingerprint, kept_ms, f"Y {reservation.id}", reservation.to_json(), event.to_json())
        return function_call("note", [keys.meta, keys.outbox, *names], args)

    def _encode_noted(self, partition: int, reservation_ids: Sequence[str]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        names = [name for id_ in reservation_ids for name in (keys.reservation(id_), keys.reservation_end(id_))]
        return function_call("noted", [keys.meta, *names], [token])

    def _decode_held(
        self, partition: int, item: Hold | Reserve, answers: Sequence[bytes]
    ) -> list[Held | Hindrance] | Crowded:
        found: list[Held | Hindrance] = []
        # There are fewer answers than parts when one before the last is not held.
        for attempt, answer in zip(item.attempts, answers, strict=False):
            match decode_for(attempt, partition, answer, self._gate.clock.set):
                case Crowded() as crowded:
                    return crowded
                case Held() | Refusal() | Standing() | Reserved() | Stale() | Moved() | Waiting() as one:
                    found.append(one)
                case other:
                    raise _unexpected(other)
        return found


def _held_item(attempts: Sequence[Attempt], holder_id: str, time_ms: int) -> tuple[str, tuple[bytes | str | int, ...]]:
    """The id of the campaign, and the parts that are held together as transaction.lua and reservation.lua read them."""
    parts = [attempt.part for attempt in attempts]
    return parts[0][0], (holder_id, time_ms, len(parts), *chain.from_iterable(fields for _, fields in parts))


def _decode_pin(partition: int, pin: Pin, answer: bytes) -> Held | Gone | Waiting | Refusal:
    code = pin.part.order_and_code.split(" ")[1]
    match decode_answer(partition, code, answer.decode()):
        case Held() | Gone() | Waiting() | Refusal() as found:
            return found
        case Missing():
            raise Unavailable(f"campaign {pin.part.campaign_id} is being published; try again")
        case found:
            raise _unexpected(found)


def _decode_release(partition: int, _released: object, answer: bytes) -> Gone | Waiting:
    match decode_answer(partition, "", answer.decode()):
        case Gone() | Waiting() as found:
            return found
        case found:
            raise _unexpected(found)


def _decode_decision(
    partition: int, decision: Decision, answer: bytes
) -> Redemption | Standing | Refusal | Released | Undone:
    claim = decision.claim
    match decode_answer(partition, "", answer.decode(), (decision.digest, claim)):
        case Redemption() | Standing() | Refusal() | Released() | Undone() as found:
            return found
        case Reused():
            raise reused(claim.request_id)
        case found:
            raise _unexpected(found)


def _decode_answered(partition: int, _item: object, answer: bytes) -> Answer:
    return decode_answer(partition, "", answer.decode())


def _decode_note(partition: int, note: Note, place: bytes) -> Noted:
    return Noted(note.reservation, decode_place(partition, place.decode()), None)


def _decode_noted(partition: int, _reservation_id: str, reply: list[bytes | None]) -> Noted | None:
    text, answer = reply
    if text is None:
        return None
    place, _, note = text.partition(b" ")
    position = decode_place(partition, place.decode())
    match decode_answer(partition, "", answer.decode()) if answer else None:
        case Standing() | Released() | None as end:
            return Noted(Reservation.from_json(note), position, end)
        case found:
            raise _unexpected(found)


def _decode_nothing(_partition: int, _item: object, _answer: object) -> None:
    """Done is all there is to say."""


def _unexpected(found: object) -> ValueError:
    return ValueError(f"unexpected answer {found}")
