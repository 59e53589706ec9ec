"""What a campaign is: its definition as an operator gave it, and its state."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class PercentDiscount:
    """A share off the order's lines, in hundredths of a percent (1 to 10,000)."""

    basis_points: int


@dataclass(frozen=True, slots=True)
class AmountDiscount:
    """A sum off the order's lines, in minor units of one currency."""

    currency_code: str
    amount_minor: int


Discount = PercentDiscount | AmountDiscount


@dataclass(frozen=True, slots=True)
class Limits:
    """How often a campaign may be used; None is no limit."""

    total: int | None = None
    per_customer: int | None = None


@dataclass(frozen=True, slots=True)
class Definition:
    """What an operator says about a campaign. Times are milliseconds since 1970 UTC, usable in [start_ms, end_ms)."""

    display_name: str
    discount: Discount
    limits: Limits = Limits()
    start_ms: int | None = None
    end_ms: int | None = None

    def to_json(self) -> str:
        """The form in which ledger and gate keep it; `from_json` reads it back."""
        match self.discount:
            case PercentDiscount(basis_points):
                discount: dict[str, Any] = {"percent": {"basis_points": basis_points}}
            case AmountDiscount(currency_code, amount_minor):
                discount = {"amount": {"currency_code": currency_code, "amount_minor": amount_minor}}
        return json.dumps(
            {
                "display_name": self.display_name,
                "discount": discount,
                "limits": {"total": self.limits.total, "per_customer": self.limits.per_customer},
                "start_ms": self.start_ms,
                "end_ms": self.end_ms,
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Definition:
        """Reads what `to_json` wrote. Raises KeyError or ValueError on anything else."""
        data = json.loads(text)
        ((kind, fields),) = data["discount"].items()
        discount = {"percent": PercentDiscount, "amount": AmountDiscount}[kind](**fields)
        return cls(
            display_name=data["display_name"],
            discount=discount,
            limits=Limits(**data["limits"]),
            start_ms=data["start_ms"],
            end_ms=data["end_ms"],
        )


class CampaignState(StrEnum):
    """Where a campaign is in its life. The stores keep ACTIVE and PAUSED; the others follow from the clock."""

    SCHEDULED = "scheduled"
    ACTIVE = "active"
    PAUSED = "paused"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Campaign:
    """A campaign as the ledger defines it. `create_time_ms` is milliseconds since 1970 UTC."""

    id: str
    version: int
    definition: Definition
    create_time_ms: int


@dataclass(frozen=True, slots=True)
class CampaignStatus:
    """A campaign with what the gate knows of it at `now_ms`, the gate's clock."""

    campaign: Campaign
    paused: bool
    pause_reason: str
    redeemed_count: int
    now_ms: int

    @property
    def state(self) -> CampaignState:
        """In the order of precedence that refusals have, too: paused outweighs the clock."""
        definition = self.campaign.definition
        if self.paused:
            return CampaignState.PAUSED
        if definition.end_ms is not None and self.now_ms >= definition.end_ms:
            return CampaignState.ENDED
        if definition.start_ms is not None and self.now_ms < definition.start_ms:
            return CampaignState.SCHEDULED
        return CampaignState.ACTIVE


@dataclass(frozen=True, slots=True)
class CodeEntry:
    """Where a code leads: its campaign, and how often the code itself may be used (None: no limit of its own)."""

    code: str
    campaign_id: str
    use_limit: int | None


def normalise_code(code: str) -> str:
    """The form in which codes are stored and compared: capitals and small letters are the same."""
    return code.upper()
