"""What a use takes of a campaign's counters, and how far each of them may go."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from vouchsafe.domain.campaign import CodeEntry, Limits
from vouchsafe.domain.reasons import Reason


class Take(NamedTuple):
    """So much of one counter. `cap` is how far it may go, None for any distance; `reason` is the refusal beyond it.

    Counters: `uses` in all, `money` in minor units, `customer:<id>` and `code:<code>` in uses. All of them are counted
    whether or not they are limited, so that a limit that comes later holds for what was used before.
    """

    field: str
    amount: int
    cap: int | None
    reason: Reason


def takes_of(limits: Limits, entry: CodeEntry, customer_id: str, discount_minor: int) -> tuple[Take, ...]:
    """What one use takes, in the order of the reasons."""
    return (
        Take(f"code:{entry.code}", 1, entry.use_limit, Reason.CODE_LIMIT_REACHED),
        Take(f"customer:{customer_id}", 1, limits.per_customer, Reason.CUSTOMER_LIMIT_REACHED),
        Take("uses", 1, limits.total, Reason.CAMPAIGN_LIMIT_REACHED),
        Take("money", discount_minor, None, Reason.CAMPAIGN_LIMIT_REACHED),
    )


def takes_text(takes: Iterable[Take]) -> str:
    """The takes as the gate reads them, in groups of four words (counters.lua)."""
    return " ".join(
        [f"{field} {amount} {'-' if cap is None else cap} {reason:d}" for field, amount, cap, reason in takes]
    )
