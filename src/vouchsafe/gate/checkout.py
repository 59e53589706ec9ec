"""The gate as checkouts use it: look a code up, claim a request id, decide. All of it goes through lanes."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from vouchsafe.domain.campaign import Campaign, CodeEntry
from vouchsafe.domain.errors import RequestIdReused, Unavailable
from vouchsafe.domain.reasons import Refusal
from vouchsafe.domain.redemption import Claim, CombinedClaim, Event, Position, Redemption
from vouchsafe.gate.attempts import (
    Answer,
    Attempt,
    Held,
    Missing,
    Moved,
    Redeemable,
    Reused,
    Stale,
    Standing,
    Undone,
    Waiting,
    decode_answer,
    encode_refusal,
    numbered,
)
from vouchsafe.gate.connection import Command, Connection, function_call
from vouchsafe.gate.gate import Gate, decode_status, describe_call
from vouchsafe.gate.lanes import Function, Lane
from vouchsafe.gate.outbox import event_from_fields
from vouchsafe.gate.transactions import Part, campaign_keys, forget_call, home_of, settle_call
from vouchsafe.settings import Settings


@dataclass(frozen=True, slots=True)
class Hold:
    """A part of a transaction to be held until its deadline, milliseconds by the gate's clock."""

    attempt: Attempt
    transaction_id: str
    deadline_ms: int


class Decision:
    """A transaction to be decided, before its deadline by the gate's clock."""

    __slots__ = ("body", "claim", "deadline_ms", "digest", "transaction_id")

    def __init__(self, claim: CombinedClaim, transaction_id: str, deadline_ms: int) -> None:
        self.claim = claim
        self.transaction_id = transaction_id
        self.deadline_ms = deadline_ms
        self.body = claim.to_json()
        self.digest = zlib.crc32(self.body)


class Checkout:
    """Decides redemptions. Every method raises Overloaded when too much waits, Unavailable when Valkey is out of
    reach or the partition is not open; after Unavailable it is not known what was decided, and repeating the same
    request finds out.
    """

    def __init__(self, gate: Gate, settings: Settings) -> None:
        self._gate = gate
        self._ttl_ms = settings.request_ttl_ms
        self._lane = Lane(
            Connection(settings.valkey_url, settings.gate_timeout_ms),
            batch_size=settings.batch_size,
            max_waiting=settings.max_waiting,
        )
        self._resolve = Function(self._encode_resolve, _decode_resolve)
        self._describe = Function(self._encode_describe, _decode_definition)
        self._claim = Function(self._encode_claim, self._decode_claim)
        self._redeem = Function(self._encode_redeem, self._decode_redeem)
        self._validate = Function(self._encode_validate, self._decode_validate)
        self._hold = Function(self._encode_hold, self._decode_hold)
        self._decide = Function(self._encode_decide, _decode_decision)
        self._settle = Function(self._encode_settle, _decode_nothing)
        self._forget = Function(self._encode_forget, _decode_nothing)
        self._remember = Function(self._encode_remember, _decode_nothing)
        self._event = Function(self._encode_event, _decode_event)

    async def close(self) -> None:
        """Answers what waits, then closes the connection."""
        await self._lane.close()

    def now_ms(self) -> int:
        """What the gate's clock says, within a round trip."""
        return self._gate.clock.now_ms()

    def home(self, request_id: str) -> int:
        """The partition in which a request id is remembered."""
        return self._gate.partition_of(request_id)

    async def resolve(self, code: str) -> CodeEntry | None:
        """Where a code leads, or None when no campaign has it."""
        return await self._lane.submit(self._resolve, self._gate.partition_of(code), code)

    async def definition(self, campaign_id: str) -> Campaign | None:
        """The definition that decides now, or None when the gate has no such campaign."""
        return await self._lane.submit(self._describe, self._gate.partition_of(campaign_id), campaign_id)

    async def claim(self, claim: Claim) -> Standing | Refusal | None:
        """Makes sure that the request id is this request's and no other's, and answers what it was told there, if
        anything. Raises RequestIdReused.

        A request id has a partition of its own, so that it is caught even when the other request went to a campaign
        elsewhere. Where both partitions are the same, `redeem` does this by itself.
        """
        if self.home(claim.request_id) == self._gate.partition_of(claim.campaign_id):
            return None
        return await self.claim_id(claim.request_id, claim.fingerprint)

    async def claim_id(self, request_id: str, fingerprint: str) -> Standing | Refusal | None:
        """Makes sure that the request id is this request's and no other's, and answers what it was told in the
        partition of the id, if anything. Raises RequestIdReused."""
        return await self._lane.submit(self._claim, self.home(request_id), (request_id, fingerprint))

    async def redeem(self, attempt: Attempt) -> Redemption | Refusal | Standing | Stale | Moved | Waiting:
        """Decides in one atomic step, and takes the use if nothing speaks against it. Raises RequestIdReused."""
        return await self._lane.submit(self._redeem, self._gate.partition_of(attempt.claim.campaign_id), attempt)

    async def validate(self, attempt: Attempt) -> Redeemable | Refusal | Stale | Moved | Waiting:
        """What `redeem` would decide now. Takes nothing; looks at no request id."""
        return await self._lane.submit(self._validate, self._gate.partition_of(attempt.claim.campaign_id), attempt)

    async def hold(self, hold: Hold) -> Held | Refusal | Standing | Stale | Moved | Waiting:
        """Takes one part of a transaction, until it is settled. Doing so again changes nothing."""
        return await self._lane.submit(self._hold, self._gate.partition_of(hold.attempt.claim.campaign_id), hold)

    async def decide(self, decision: Decision) -> Redemption | Standing | Refusal | Undone:
        """Makes all parts of a transaction one redemption, in one atomic step, unless it was undone or is late. Raises
        RequestIdReused."""
        return await self._lane.submit(self._decide, home_of(decision.transaction_id), decision)

    async def settle(self, part: Part, redemption_id: str) -> None:
        """Makes a redemption of a part whose transaction is decided, or undoes it with ''. Safe to do twice."""
        partition = self._gate.partition_of(part.campaign_id)
        await self._lane.submit(self._settle, partition, (part, redemption_id))

    async def forget(self, transaction_id: str) -> None:
        """All parts are settled: lets the decision expire."""
        await self._lane.submit(self._forget, home_of(transaction_id), transaction_id)

    async def remember(self, request_id: str, fingerprint: str, refusal: Refusal) -> None:
        """Remembers a refusal under a request id that has no answer yet, in the partition of the id."""
        await self._lane.submit(self._remember, self.home(request_id), (request_id, fingerprint, refusal))

    async def event(self, position: Position) -> Event | None:
        """The event at a position, or None when the outbox does not hold it (any more)."""
        if position.partition >= self._gate.partitions or position.epoch != self._gate.epoch(position.partition):
            return None
        return await self._lane.submit(self._event, position.partition, position)

    # -- the wire format; each function's contract stands in its .lua file ---------------------------------------------

    def _encode_resolve(self, partition: int, codes: Sequence[str]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        return function_call("resolve", [keys.meta, keys.codes], [token, *codes])

    def _encode_describe(self, partition: int, campaign_ids: Sequence[str]) -> Command:
        return describe_call(*self._gate.keys_and_token(partition), campaign_ids)

    def _encode_claim(self, partition: int, claims: Sequence[tuple[str, str]]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        names = [keys.request(request_id) for request_id, _ in claims]
        fingerprints = [fingerprint for _, fingerprint in claims]
        return function_call("claim", [keys.meta, *names], [token, self._ttl_ms, *fingerprints])

    def _encode_redeem(self, partition: int, attempts: Sequence[Attempt]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        campaigns = numbered(attempts)
        args: list[bytes | str | int] = [token, self._ttl_ms, len(campaigns), *campaigns]
        for attempt in attempts:
            args += attempt.fields(campaigns[attempt.claim.campaign_id])
        requests = [keys.request(attempt.claim.request_id) for attempt in attempts]
        return function_call("redeem", [keys.meta, keys.outbox, *campaign_keys(keys, campaigns), *requests], args)

    def _encode_validate(self, partition: int, attempts: Sequence[Attempt]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        campaigns = numbered(attempts)
        args: list[bytes | str | int] = [token, len(campaigns)]
        for attempt in attempts:
            args += attempt.fields(campaigns[attempt.claim.campaign_id])
        return function_call("validate", [keys.meta, *campaign_keys(keys, campaigns)], args)

    def _encode_hold(self, partition: int, holds: Sequence[Hold]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        campaigns = numbered([hold.attempt for hold in holds])
        args: list[bytes | str | int] = [token, len(campaigns), *campaigns]
        for hold in holds:
            attempt = hold.attempt
            args += (hold.transaction_id, hold.deadline_ms, *attempt.fields(campaigns[attempt.claim.campaign_id]))
        return function_call("hold", [keys.meta, keys.pending, *campaign_keys(keys, campaigns)], args)

    def _encode_decide(self, partition: int, decisions: Sequence[Decision]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        names: list[str] = []
        args: list[bytes | str | int] = [token, self._ttl_ms]
        for decision in decisions:
            names += (keys.transaction(decision.transaction_id), keys.request(decision.claim.request_id))
            args += (decision.claim.fingerprint, decision.deadline_ms, decision.digest, decision.body)
        return function_call("decide", [keys.meta, keys.outbox, *names], args)

    def _encode_settle(self, partition: int, settled: Sequence[tuple[Part, str]]) -> Command:
        return settle_call(*self._gate.keys_and_token(partition), settled)

    def _encode_forget(self, partition: int, transaction_ids: Sequence[str]) -> Command:
        return forget_call(*self._gate.keys_and_token(partition), transaction_ids, self._ttl_ms)

    def _encode_remember(self, partition: int, items: Sequence[tuple[str, str, Refusal]]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        args: list[bytes | str | int] = [token, self._ttl_ms]
        for _, fingerprint, refusal in items:
            args += (fingerprint, encode_refusal(refusal, with_code=True))
        return function_call("answer", [keys.meta, *(keys.request(item[0]) for item in items)], args)

    def _encode_event(self, partition: int, positions: Sequence[Position]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        ids = (str(position.stream_id) for position in positions)
        return function_call("event", [keys.meta, keys.outbox], [token, *ids])

    def _decode_claim(self, partition: int, item: tuple[str, str], answer: bytes) -> Standing | Refusal | None:
        if answer == b"K":
            return None
        match decode_answer(partition, "", answer.decode()):
            case Standing() | Refusal() as found:
                return found
            case _:
                raise _reused(item[0])

    def _decode_redeem(
        self, partition: int, attempt: Attempt, answer: bytes
    ) -> Redemption | Refusal | Standing | Stale | Moved | Waiting:
        claim = attempt.claim
        match self._decoded(partition, attempt, answer, (attempt.digest, claim)):
            case Redemption() | Refusal() | Standing() | Stale() | Moved() | Waiting() as found:
                return found
            case found:
                raise ValueError(f"unexpected answer {found}")

    def _decode_validate(
        self, partition: int, attempt: Attempt, answer: bytes
    ) -> Redeemable | Refusal | Stale | Moved | Waiting:
        match self._decoded(partition, attempt, answer):
            case Redeemable() | Refusal() | Stale() | Moved() | Waiting() as found:
                return found
            case found:
                raise ValueError(f"unexpected answer {found}")

    def _decode_hold(
        self, partition: int, hold: Hold, answer: bytes
    ) -> Held | Refusal | Standing | Stale | Moved | Waiting:
        match self._decoded(partition, hold.attempt, answer):
            case Held() | Refusal() | Standing() | Stale() | Moved() | Waiting() as found:
                return found
            case found:
                raise ValueError(f"unexpected answer {found}")

    def _decoded(
        self, partition: int, attempt: Attempt, answer: bytes, claimed: tuple[int, Claim] | None = None
    ) -> Answer:
        """An answer; sets the clock when it is behind, and raises what is an error."""
        claim = attempt.claim
        found = decode_answer(partition, claim.code, answer.decode(), claimed)
        match found:
            case Moved(now_ms):
                self._gate.clock.set(now_ms)
            case Reused():
                raise _reused(claim.request_id)
            case Missing():
                raise Unavailable(f"campaign {claim.campaign_id} is being published; try again")
            case _:
                pass
        return found


def _decode_resolve(_partition: int, code: str, entry: bytes | None) -> CodeEntry | None:
    if entry is None:
        return None
    use_limit, campaign_id, *given = entry.decode().split(" ")
    if given:
        return CodeEntry(code, campaign_id, int(use_limit) or None, given[0], int(given[1]))
    return CodeEntry(code, campaign_id, int(use_limit) or None)


def _decode_definition(_partition: int, campaign_id: str, reply: list[bytes] | None) -> Campaign | None:
    status = decode_status(campaign_id, reply)
    return status.campaign if status else None


def _decode_event(_partition: int, position: Position, fields: list[bytes] | None) -> Event | None:
    return event_from_fields(position, fields) if fields else None


def _decode_decision(partition: int, decision: Decision, answer: bytes) -> Redemption | Standing | Refusal | Undone:
    claim = decision.claim
    match decode_answer(partition, "", answer.decode(), (decision.digest, claim)):
        case Redemption() | Standing() | Refusal() | Undone() as found:
            return found
        case Reused():
            raise _reused(claim.request_id)
        case found:
            raise ValueError(f"unexpected answer {found}")


def _decode_nothing(_partition: int, _item: object, _answer: object) -> None:
    """Done is all there is to say."""


def _reused(request_id: str) -> RequestIdReused:
    return RequestIdReused(f"request id {request_id} was used for another request; make a new one for each attempt")
