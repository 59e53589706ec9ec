"""The campaigns that are fought over, and how far each may go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.json_format import ParseDict

from vouchsafe.client import CampaignDefinition, Client


@dataclass(frozen=True)
class Contested:
    """A campaign with its codes; limits are None where there are none, money is minor units."""

    id: str
    codes: tuple[str, ...]
    total: int | None = None
    per_customer: int | None = None
    budget_minor: int | None = None
    partial_budget: bool = False
    per_code: int | None = None

    def definition(self, number: int = 0) -> CampaignDefinition:
        """`number` makes it another version."""
        wanted: dict[str, Any] = {
            "total": self.total,
            "per_customer": self.per_customer,
            "budget_minor": self.budget_minor,
            "partial_budget": self.partial_budget,
        }
        fields = {
            "display_name": f"{self.id} {number}",
            "currency_code": "EUR",
            "effects": [{"percent_off": {"basis_points": 1_000}}],
            "limits": {name: value for name, value in wanted.items() if value},
            "stacking": {"mode": "COMBINE_MODE_JOINT"},
        }
        return ParseDict(fields, CampaignDefinition())

    async def create(self, client: Client) -> None:
        """Creates it with its codes."""
        if self.per_code is None:
            await client.create_campaign(self.id, self.definition(), shared_codes=self.codes)
        else:
            await client.create_campaign(self.id, self.definition(), single_use_codes=self.codes)


def contested(seconds: float) -> list[Contested]:
    """Limits are such that they are reached before so many seconds are over."""
    much = int(10 + seconds)
    return [
        Contested("endless", ("ENDLESS",)),
        Contested("paused", ("PAUSED",)),
        Contested("capped", ("CAPPED",), total=2 * much),
        Contested("personal", ("PERSONAL",), per_customer=2),
        Contested("budget", ("BUDGET",), budget_minor=700 * much),
        Contested("rest", ("REST",), budget_minor=500 * much, partial_budget=True),
        Contested("single", tuple(f"SINGLE-{number}" for number in range(3 * much)), per_code=1),
    ]


def customers(seconds: float) -> int:
    """How many shoppers there are, so that some meet the limit of each and not all do at once."""
    return int(20 + seconds)
