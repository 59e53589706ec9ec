"""The gate as checkouts use it: look a code up, claim a request id, decide. All of it goes through lanes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from vouchsafe.domain.campaign import Campaign, CodeEntry
from vouchsafe.domain.errors import RequestIdReused, Unavailable
from vouchsafe.domain.reasons import Reason, Refusal
from vouchsafe.domain.redemption import Claim, Event, Position, Redemption
from vouchsafe.domain.rules import ALWAYS
from vouchsafe.gate.connection import Command, Connection, function_call
from vouchsafe.gate.gate import Gate, decode_status, describe_call
from vouchsafe.gate.lanes import Function, Lane
from vouchsafe.gate.outbox import event_from_fields
from vouchsafe.settings import Settings


class Attempt:
    """One item to decide: what it would take, the code's own limit, and what the campaign's rules object to, true in
    [from_ms, until_ms) by the gate's clock."""

    __slots__ = ("body", "claim", "code_use_limit", "digest", "from_ms", "objection", "until_ms")

    def __init__(
        self,
        claim: Claim,
        code_use_limit: int | None,
        objection: Refusal | None,
        from_ms: int = ALWAYS[0],
        until_ms: int = ALWAYS[1],
    ) -> None:
        self.claim = claim
        self.code_use_limit = code_use_limit
        self.objection = objection
        self.from_ms = from_ms
        self.until_ms = until_ms
        self.body = claim.to_json()
        self.digest = zlib.crc32(self.body)


@dataclass(frozen=True, slots=True)
class Standing:
    """The redemption that stands: this request has taken it before, or this order with the same contents has."""

    position: Position


@dataclass(frozen=True, slots=True)
class Stale:
    """The campaign's definition has changed since it was read; nothing was decided."""


@dataclass(frozen=True, slots=True)
class Moved:
    """By the gate's clock, what was judged is not true now; nothing was decided. The clock is set right already."""


@dataclass(frozen=True, slots=True)
class Redeemable:
    """Nothing speaks against it, now."""


STALE: Final = Stale()
MOVED: Final = Moved()
REDEEMABLE: Final = Redeemable()


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
        self._claim = Function(self._encode_claim, _decode_claim)
        self._redeem = Function(self._encode_redeem, self._decode_redeem)
        self._validate = Function(self._encode_validate, self._decode_validate)
        self._event = Function(self._encode_event, _decode_event)

    async def close(self) -> None:
        """Answers what waits, then closes the connection."""
        await self._lane.close()

    def now_ms(self) -> int:
        """What the gate's clock says, within a round trip."""
        return self._gate.clock.now_ms()

    async def resolve(self, code: str) -> CodeEntry | None:
        """Where a code leads, or None when no campaign has it."""
        return await self._lane.submit(self._resolve, self._gate.partition_of(code), code)

    async def definition(self, campaign_id: str) -> Campaign | None:
        """The definition that decides now, or None when the gate has no such campaign."""
        return await self._lane.submit(self._describe, self._gate.partition_of(campaign_id), campaign_id)

    async def claim(self, claim: Claim) -> None:
        """Makes sure that the request id is this request's and no other's. Raises RequestIdReused.

        A request id has a partition of its own, so that it is caught even when the other request went to a campaign
        elsewhere. Where both partitions are the same, `redeem` does this by itself.
        """
        home = self._gate.partition_of(claim.request_id)
        if home != self._gate.partition_of(claim.campaign_id):
            await self._lane.submit(self._claim, home, claim)

    async def redeem(self, attempt: Attempt) -> Redemption | Refusal | Standing | Stale | Moved:
        """Decides in one atomic step, and takes the use if nothing speaks against it. Raises RequestIdReused."""
        return await self._lane.submit(self._redeem, self._gate.partition_of(attempt.claim.campaign_id), attempt)

    async def validate(self, attempt: Attempt) -> Redeemable | Refusal | Stale | Moved:
        """What `redeem` would decide now. Takes nothing; looks at no request id."""
        return await self._lane.submit(self._validate, self._gate.partition_of(attempt.claim.campaign_id), attempt)

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

    def _encode_claim(self, partition: int, claims: Sequence[Claim]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        return function_call(
            "claim",
            [keys.meta, *(keys.request(claim.request_id) for claim in claims)],
            [token, self._ttl_ms, *(claim.fingerprint for claim in claims)],
        )

    def _encode_redeem(self, partition: int, attempts: Sequence[Attempt]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        campaigns, campaign_keys = self._campaigns(partition, attempts)
        args: list[bytes | str | int] = [token, self._ttl_ms, len(campaigns), *campaigns]
        for attempt in attempts:
            claim = attempt.claim
            args += (campaigns[claim.campaign_id], *_item(attempt), attempt.digest, attempt.body)
        requests = [keys.request(attempt.claim.request_id) for attempt in attempts]
        return function_call("redeem", [keys.meta, keys.outbox, *campaign_keys, *requests], args)

    def _encode_validate(self, partition: int, attempts: Sequence[Attempt]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        campaigns, campaign_keys = self._campaigns(partition, attempts)
        args: list[bytes | str | int] = [token, len(campaigns)]
        for attempt in attempts:
            args += (campaigns[attempt.claim.campaign_id], *_item(attempt))
        return function_call("validate", [keys.meta, *campaign_keys], args)

    def _encode_event(self, partition: int, positions: Sequence[Position]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        ids = (str(position.stream_id) for position in positions)
        return function_call("event", [keys.meta, keys.outbox], [token, *ids])

    def _campaigns(self, partition: int, attempts: Sequence[Attempt]) -> tuple[dict[str, int], list[str]]:
        """The distinct campaigns with their index from 1, and the keys of all of them."""
        keys, _ = self._gate.keys_and_token(partition)
        indexes: dict[str, int] = {}
        campaign_keys: list[str] = []
        for attempt in attempts:
            id_ = attempt.claim.campaign_id
            if id_ not in indexes:
                indexes[id_] = len(indexes) + 1
                campaign_keys += (keys.campaign(id_), keys.customers(id_), keys.code_uses(id_), keys.orders(id_))
        return indexes, campaign_keys

    def _decode_redeem(
        self, partition: int, attempt: Attempt, answer: bytes
    ) -> Redemption | Refusal | Standing | Stale | Moved:
        kind, _, text = answer.decode().partition(" ")
        rest = text.split(" ")
        match kind:
            case "R":
                place, at_ms, digest = rest
                position = _position(partition, place)
                # A repetition may have been judged by another version of the definition; the first one stands.
                if int(digest) != attempt.digest:
                    return Standing(position)
                return Redemption(position, int(at_ms), attempt.claim)
            case "D":
                return Standing(_position(partition, rest[0]))
            case _:
                return self._decode_other(partition, attempt, kind, text)

    def _decode_validate(self, partition: int, attempt: Attempt, answer: bytes) -> Redeemable | Refusal | Stale | Moved:
        kind, _, text = answer.decode().partition(" ")
        return REDEEMABLE if kind == "V" else self._decode_other(partition, attempt, kind, text)

    def _decode_other(self, partition: int, attempt: Attempt, kind: str, text: str) -> Refusal | Stale | Moved:
        match kind:
            case "N":
                return _decode_refusal(partition, attempt.claim.code, text)
            case "S":
                return STALE
            case "T":
                self._gate.clock.set(int(text))
                return MOVED
            case "X":
                raise _reused(attempt.claim)
            case "U":
                raise Unavailable(f"campaign {attempt.claim.campaign_id} is being published; try again")
            case _:
                raise ValueError(f"unknown answer {kind!r}")


def _position(partition: int, place: str) -> Position:
    return Position.parse(f"r{partition:02}-{place}")


def _decode_refusal(partition: int, code: str, text: str) -> Refusal:
    """A refusal as redeem.lua has it: the caller's own in JSON, the gate's as pairs."""
    number, _, rest = text.partition(" ")
    if rest.startswith("{"):
        words = _read_words(rest)
        return Refusal(Reason(int(number)), code, words.metadata, words.message)
    pairs = dict(pair.split("=", 1) for pair in rest.split(" ")) if rest else {}
    if "place" in pairs:
        return Refusal(Reason(int(number)), code, {"redemption_id": str(_position(partition, pairs["place"]))})
    return Refusal(Reason(int(number)), code, pairs)


class _Words(msgspec.Struct, frozen=True):
    """What a refusal says beside its reason."""

    metadata: Mapping[str, str]
    message: str


_read_words = msgspec.json.Decoder(_Words).decode
_write_words = msgspec.json.Encoder().encode


def _item(attempt: Attempt) -> tuple[bytes | str | int, ...]:
    """The fields of an item that redeem and validate share, after the index of its campaign."""
    claim = attempt.claim
    return (
        claim.campaign_version,
        claim.fingerprint,
        claim.customer_id,
        claim.code,
        attempt.code_use_limit or 0,
        f"{claim.order_id} {claim.code}",
        "" if attempt.objection is None else _encode_refusal(attempt.objection),
        attempt.from_ms,
        attempt.until_ms,
    )


def _encode_refusal(refusal: Refusal) -> bytes:
    words = _write_words(_Words(refusal.metadata, refusal.own_message))
    return b"N %d %b" % (refusal.reason.value, words)


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


def _decode_claim(_partition: int, claim: Claim, answer: bytes) -> None:
    if answer != b"K":
        raise _reused(claim)


def _reused(claim: Claim) -> RequestIdReused:
    return RequestIdReused(
        f"request id {claim.request_id} was used for another request; make a new one for each attempt"
    )
