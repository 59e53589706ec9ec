"""Taking a redemption back, whole or in part: what a campaign allows, what is left afterwards, what is written down.

Amounts are minor units of the redemption's currency. Lines are named by their index in the order that was redeemed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from vouchsafe.domain.redemption import Position


class OnPartial(StrEnum):
    """What becomes of a discount when some units of the order come back."""

    PRORATE = "PRORATE"  # each unit takes its share with it
    EVALUATE_AGAIN = "EVALUATE_AGAIN"  # what is left of the order gets what it would have got
    KEEP = "KEEP"  # the shopper keeps it until everything comes back


class RollbackPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a campaign does not get back when a redemption of it is taken back: the use (of code, customer, campaign and
    all else that counts uses), the money, the uses within days, weeks, months and windows."""

    keeps_use: bool = False
    keeps_budget: bool = False
    keeps_periods: bool = False
    on_partial: OnPartial = OnPartial.PRORATE

    def given_back(self, takes: Mapping[str, int], discount_minor: int, *, is_ended: bool) -> dict[str, int]:
        """What of a redemption's counters comes back with so much of its discount, and at its end."""
        found = {}
        for field, amount in takes.items():
            kind = field.partition(":")[0]
            if kind == "money":
                if discount_minor and not self.keeps_budget:
                    found[field] = discount_minor
            elif is_ended and not (self.keeps_periods if _is_period(kind) else self.keeps_use):
                found[field] = amount
        return found


def _is_period(kind: str) -> bool:
    return kind in ("day", "week", "month") or kind.startswith("~")


class ReturnedLine(msgspec.Struct, frozen=True):
    """What of one line comes back: so many units, or so much of its discount; the other is None."""

    line: int
    quantity: int | None = None
    discount_minor: int | None = None


class Left(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is left of one code's discount: by line, and on the shipping. Nothing more comes back of an ended one."""

    lines: Mapping[int, int] = {}
    shipping_minor: int = 0
    is_ended: bool = False

    @property
    def total_minor(self) -> int:
        """All of it."""
        return sum(self.lines.values()) + self.shipping_minor


class Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is left of a redemption: of each code in the order in which they are applied, and the units that have come
    back, by line."""

    codes: tuple[Left, ...]
    quantities: Mapping[int, int] = {}

    def to_json(self) -> bytes:
        """The form in which the gate keeps it; `from_json` reads it back."""
        return _encode(self)

    @classmethod
    def from_json(cls, text: bytes) -> Kept:
        """Reads what `to_json` wrote. Raises ValueError on anything else."""
        return _decode_kept(text)


class ReturnedCode(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What comes back of one code. `takes` are the counters that come back, each by so much; `taken_ms` is when they
    were taken, by the gate's clock. `place` is that of the redemption as the order has it. `uses` is 1 when the code's
    use ends with it and comes back: then the order may redeem the code again."""

    campaign_id: str
    code: str
    order_id: str
    customer_id: str
    redemption_id: str
    discount_minor: int
    left_minor: int
    takes: Mapping[str, int] = {}
    taken_ms: int = 0
    place: str = ""
    uses: int = 0
    is_ended: bool = False
    rollback_id: str = ""

    @property
    def order_and_code(self) -> str:
        """What an order has at most once."""
        return f"{self.order_id} {self.code}"

    def to_json(self) -> bytes:
        """The body of its event."""
        return _encode(self)


class RollbackClaim(msgspec.Struct, frozen=True, kw_only=True):
    """What a request to roll back comes to: one entry for each code of which something comes back, and what is kept of
    the redemption then."""

    request_id: str
    fingerprint: str
    redemption_id: str
    order_id: str
    currency_code: str
    reason: str
    codes: tuple[ReturnedCode, ...]
    left_minor: int
    kept: Kept = Kept(())

    def to_json(self) -> bytes:
        """The body of its event."""
        return _encode(self)

    @classmethod
    def from_json(cls, body: bytes | str) -> RollbackClaim:
        """Reads what `to_json` wrote. Raises ValueError on anything else."""
        return _decode_claim(body)


_encode = msgspec.json.Encoder().encode
_decode_kept = msgspec.json.Decoder(Kept).decode
_decode_claim = msgspec.json.Decoder(RollbackClaim).decode


@dataclass(frozen=True, slots=True)
class Rollback:
    """A rollback that was decided. `at_ms` is the gate's clock."""

    position: Position
    at_ms: int
    claim: RollbackClaim

    @property
    def id(self) -> str:
        """The rollback's id."""
        return str(self.position)

    @property
    def discount_minor(self) -> int:
        """What comes back of all codes."""
        return sum(code.discount_minor for code in self.claim.codes)
