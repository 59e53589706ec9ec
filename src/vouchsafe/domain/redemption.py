"""A use that was taken, and the event that records it.

A redemption is named after its place in its partition's outbox: `r<partition>-<epoch>-<ms>-<seq>`. The name is unique
without a second index, and the order of the names of one partition is the order of the decisions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import msgspec

from vouchsafe.domain.pricing import Discount
from vouchsafe.domain.reasons import Refusal


class StreamId(NamedTuple):
    """The id of an outbox entry: milliseconds and a sequence number; compares in the order of the stream."""

    ms: int
    seq: int

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"

    @classmethod
    def parse(cls, text: str) -> StreamId:
        """Reads `<ms>-<seq>`. Raises ValueError."""
        ms, seq = text.split("-")
        return cls(int(ms), int(seq))


STREAM_START = StreamId(0, 0)
# What a column of the ledger can hold; no stream will ever get there.
MAX_PART = 2**63 - 1


class Position(NamedTuple):
    """A place in the history of one partition."""

    partition: int
    epoch: int
    stream_id: StreamId

    def __str__(self) -> str:
        return f"r{self.partition:02}-{self.epoch}-{self.stream_id}"

    @classmethod
    def parse(cls, redemption_id: str) -> Position:
        """Reads a redemption's id. Raises ValueError when it is not one."""
        match = re.fullmatch(r"r(\d{2})-(\d{1,20})-(\d{1,20})-(\d{1,20})", redemption_id)
        if match is None:
            raise ValueError(f"{redemption_id!r} is not the id of a redemption; one looks like r03-1-1700000000000-0")
        partition, epoch, ms, seq = map(int, match.groups())
        if max(epoch, ms, seq) > MAX_PART:
            raise ValueError(f"{redemption_id!r} is not the id of a redemption; its numbers are too large")
        return cls(partition, epoch, StreamId(ms, seq))


class EventKind(StrEnum):
    """What happened in a partition."""

    REDEEMED = "redeemed"
    COMBINED = "combined"
    HELD = "held"  # a reservation's part; then one of REDEEMED, RELEASED and EXPIRED follows
    RESERVED = "reserved"  # all parts of a reservation are held
    RELEASED = "released"
    EXPIRED = "expired"
    ROLLED_BACK = "rolled_back"
    RETURNED = "returned"  # what came back of one code
    PAUSED = "paused"
    RESUMED = "resumed"
    SCHEDULED = "scheduled"  # a draft goes live
    ARCHIVED = "archived"
    KILL_ENGAGED = "kill_engaged"  # of no campaign: for a scope (domain/kill_switch.py), in every partition
    KILL_RELEASED = "kill_released"
    CODE_DISABLED = "code_disabled"
    CODE_ENABLED = "code_enabled"


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of an outbox. `at_ms` is the gate's clock; `body` is JSON whose form depends on the kind."""

    position: Position
    kind: EventKind
    at_ms: int
    campaign_id: str
    body: bytes


class Claim(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a request to redeem asks the gate to take: everything of a redemption but its place and time.

    `fingerprint` is 32 hex digits over the whole request except its id. `takes` are the counters that it moves, each by
    so much. `combined_id` is the redemption that this one is a part of, empty for none; then `taken_ms` is when it was
    held, by the gate's clock. `reservation_id` is the reservation that it was held by, empty for none.
    """

    request_id: str
    fingerprint: str
    campaign_id: str
    campaign_version: int
    code: str
    customer_id: str
    order_id: str
    currency_code: str
    order_amount_minor: int
    discount: Discount
    takes: Mapping[str, int] = {}
    combined_id: str = ""
    taken_ms: int = 0
    reservation_id: str = ""

    def to_json(self) -> bytes:
        """The body of its event."""
        return _encode(self)

    @classmethod
    def from_json(cls, body: bytes | str) -> Claim:
        """Reads what `to_json` wrote. Raises ValueError on anything else."""
        return _decode(body)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Claim).decode


class AppliedCode(msgspec.Struct, frozen=True, omit_defaults=True):
    """One code of a redemption, what it takes off, which counters it moves, and when it did, by the gate's clock."""

    code: str
    campaign_id: str
    campaign_version: int
    discount: Discount
    takes: Mapping[str, int] = {}
    taken_ms: int = 0


class CombinedClaim(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a request to redeem several codes, or to reserve some, asks for, as it is decided: all of them, in the order
    in which they are applied, with the codes that were left out. Each that applies has a claim and an event of its own
    beside this. `reservation_id` is empty for what was not reserved before. `transaction_id` is the one that decided
    it; it is in the event only."""

    request_id: str
    fingerprint: str
    customer_id: str
    order_id: str
    currency_code: str
    order_amount_minor: int
    applied: tuple[AppliedCode, ...]
    inapplicable: tuple[Refusal, ...] = ()
    skipped: tuple[Refusal, ...] = ()
    is_best: bool | None = None
    reservation_id: str = ""
    transaction_id: str = ""

    def to_json(self) -> bytes:
        """The body of its event."""
        return _encode(self)

    @classmethod
    def from_json(cls, body: bytes | str) -> CombinedClaim:
        """Reads what `to_json` wrote. Raises ValueError on anything else."""
        return _decode_combined(body)


_decode_combined = msgspec.json.Decoder(CombinedClaim).decode


class Redemption(msgspec.Struct, frozen=True):
    """A use that was taken. `at_ms` is the gate's clock."""

    position: Position
    at_ms: int
    claim: Claim | CombinedClaim

    @property
    def id(self) -> str:
        """The redemption's id."""
        return str(self.position)

    @property
    def applied(self) -> tuple[AppliedCode, ...]:
        """The codes, in the order in which they are applied."""
        claim = self.claim
        if isinstance(claim, CombinedClaim):
            return claim.applied
        return (
            AppliedCode(claim.code, claim.campaign_id, claim.campaign_version, claim.discount, claim.takes, self.at_ms),
        )

    @property
    def discount_minor(self) -> int:
        """What all codes take off."""
        return sum([one.discount.applied_minor for one in self.applied])

    @classmethod
    def from_event(cls, event: Event) -> Redemption | None:
        """The redemption that an event records, None for one that records none."""
        match event.kind:
            case EventKind.REDEEMED:
                return cls(event.position, event.at_ms, Claim.from_json(event.body))
            case EventKind.COMBINED:
                return cls(event.position, event.at_ms, CombinedClaim.from_json(event.body))
            case _:
                return None
