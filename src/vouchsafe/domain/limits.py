"""How often and for how much a campaign may be used, as an operator says it. `domain.takes` makes counters of it; names
and bounds are those of the protos. None is no limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import msgspec

from vouchsafe.domain.conditions import AttributeSource
from vouchsafe.domain.errors import Violation
from vouchsafe.domain.schedule import Weekday


class Period(StrEnum):
    """A stretch of the calendar, in the zone of the campaign's schedule."""

    DAY = "DAY"
    WEEK = "WEEK"
    MONTH = "MONTH"


class PeriodLimit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """So many uses by one customer in each calendar day, week or month. `week_start` is the first day of a week."""

    period: Period
    uses: int
    week_start: Weekday = Weekday.MONDAY


class WindowLimit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """So many uses by one customer within any such span of time, looking back from each use."""

    window_ms: int
    uses: int


class AttributeLimit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """So many uses for each value of an attribute, a store say. An order without it is refused."""

    key: str
    uses: int
    source: AttributeSource = AttributeSource.ORDER


class IdentityKind(StrEnum):
    """By what a shopper may be known again."""

    CUSTOMER_ID = "CUSTOMER_ID"
    EMAIL = "EMAIL"
    CARD = "CARD"
    DEVICE = "DEVICE"


class IdentityLimit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """So many uses by each identity: a shopper who changes one of them is known by the others."""

    kinds: tuple[IdentityKind, ...]
    uses: int


class HonourQuoted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a use that was offered at most `within_ms` ago may pass the limits of uses in all and of the budget."""

    within_ms: int
    overdraft_uses: int = 0
    overdraft_minor: int = 0


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Any mix of limits, checked and taken in one step. Amounts are minor units of the definition's currency. With
    `partial_budget`, the rest of a budget is given when it does not cover a discount."""

    total: int | None = None
    per_customer: int | None = None
    per_code: int | None = None
    distinct_customers: int | None = None
    budget_minor: int | None = None
    customer_budget_minor: int | None = None
    periods: tuple[PeriodLimit, ...] = ()
    windows: tuple[WindowLimit, ...] = ()
    attributes: tuple[AttributeLimit, ...] = ()
    identities: IdentityLimit | None = None
    partial_budget: bool = False
    honour_quoted: HonourQuoted | None = None


def check(limits: Limits) -> Iterator[Violation]:
    """What contradicts itself, with field paths inside the limits."""
    for name, values, key in (
        ("periods", limits.periods, lambda one: one.period),
        ("windows", limits.windows, lambda one: one.window_ms),
        ("attributes", limits.attributes, lambda one: (one.source, one.key)),
    ):
        keys = [key(value) for value in values]
        for index in range(len(keys)):
            if keys[index] in keys[:index]:
                yield Violation(f"{name}[{index}]", "limits the same as one before it; give the lower of the two")
    if limits.partial_budget and not amounts_of(limits):
        yield Violation("partial_budget", "gives the rest of a budget; set budget_minor or customer_budget_minor, too")
    if limits.honour_quoted is not None:
        yield from _check_honour_quoted(limits, limits.honour_quoted)


def _check_honour_quoted(limits: Limits, honour: HonourQuoted) -> Iterator[Violation]:
    if honour.overdraft_uses <= 0 and honour.overdraft_minor <= 0:
        yield Violation("honour_quoted", "passes no limit; give overdraft_uses or overdraft_minor, or leave it out")
    if honour.overdraft_uses > 0 and limits.total is None:
        yield Violation(
            "honour_quoted.overdraft_uses", "is how far to pass limits.total, which is not set; set it, too"
        )
    if honour.overdraft_minor > 0 and limits.budget_minor is None:
        text = "is how far to pass limits.budget_minor, which is not set; set it, too"
        yield Violation("honour_quoted.overdraft_minor", text)


def amounts_of(limits: Limits) -> list[str]:
    """The fields that hold amounts of money, so that a currency is needed."""
    return [name for name in ("budget_minor", "customer_budget_minor") if getattr(limits, name) is not None]
