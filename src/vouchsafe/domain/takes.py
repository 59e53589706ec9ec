"""What a use takes of a campaign's counters, and how far each of them may go.

Counters are named by text without spaces. A plain one goes up by an amount. `?x:y` counts the different y for which the
plain counter `x:y`, taken in the same step, is above zero. `~x` keeps the moments of its uses, of which those within a
span of time count; its amount is that span in milliseconds.
"""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple
from urllib.parse import quote
from zoneinfo import ZoneInfo

from vouchsafe.domain.campaign import CodeEntry
from vouchsafe.domain.identities import attribute_value, identity
from vouchsafe.domain.limits import HonourQuoted, IdentityLimit, Limits, Period, PeriodLimit
from vouchsafe.domain.order import Customer, Order
from vouchsafe.domain.reasons import Reason
from vouchsafe.domain.rules import ALWAYS
from vouchsafe.domain.schedule import Weekday

_WEEKDAYS = list(Weekday)
_NO_OVERDRAFT = HonourQuoted(within_ms=0)


class Take(NamedTuple):
    """So much of one counter. `cap` is how far it may go, None for any distance; `reason` is the refusal beyond it."""

    field: str
    amount: int
    cap: int | None
    reason: Reason


class Taker:
    """The compiled limits of one campaign. `identity_key` keeps stored identities from being guessed back."""

    def __init__(self, limits: Limits, time_zone: str, identity_key: bytes) -> None:
        self._limits = limits
        self._zone = ZoneInfo(time_zone)
        self._identity_key = identity_key

    def takes(
        self,
        customer: Customer,
        order: Order,
        entry: CodeEntry,
        discount_minor: int,
        now_ms: int,
        *,
        is_quoted: bool = False,
    ) -> tuple[Take, ...]:
        """What one use takes at `now_ms`, in the order of the reasons; `span` says how long that is so. What a limit
        counts by is there: the rules ask for it before. One that is quoted may pass limits, as far as they say.

        Uses in all, by customer and by code, and the money are counted whether or not they are limited, so that a limit
        that comes later holds for what was used before. The others are counted from when they are first limited.
        """
        limits, customer_id = self._limits, customer.id
        overdraft = limits.honour_quoted if is_quoted and limits.honour_quoted is not None else _NO_OVERDRAFT
        code_limit = entry.use_limit if entry.use_limit is not None else limits.per_code
        found = [
            Take(f"code:{entry.code}", 1, code_limit, Reason.CODE_LIMIT_REACHED),
            Take(f"customer:{customer_id}", 1, limits.per_customer, Reason.CUSTOMER_LIMIT_REACHED),
        ]
        for period in limits.periods:
            field = f"{period.period.value.lower()}:{self._begin(period, now_ms).isoformat()}:{customer_id}"
            found.append(Take(field, 1, period.uses, Reason.CUSTOMER_PERIOD_LIMIT_REACHED))
        for window in limits.windows:
            field = f"~{window.window_ms}:{customer_id}"
            found.append(Take(field, window.window_ms, window.uses, Reason.CUSTOMER_PERIOD_LIMIT_REACHED))
        if limits.identities is not None:
            names, uses = self._identities(limits.identities, customer), limits.identities.uses
            found += [Take(name, 1, uses, Reason.IDENTITY_LIMIT_REACHED) for name in names]
        for attribute in limits.attributes:
            value = quote(attribute_value(attribute, customer, order))
            field = f"attribute:{attribute.source.value.lower()}:{quote(attribute.key)}={value}"
            found.append(Take(field, 1, attribute.uses, Reason.ATTRIBUTE_LIMIT_REACHED))
        if limits.customer_budget_minor is not None:
            field, cap = f"money:{customer_id}", limits.customer_budget_minor
            found.append(Take(field, discount_minor, cap, Reason.CUSTOMER_BUDGET_EXHAUSTED))
        total = _beyond(limits.total, overdraft.overdraft_uses)
        found.append(Take("uses", 1, total, Reason.CAMPAIGN_LIMIT_REACHED))
        if limits.distinct_customers is not None:
            # By a counter of its own: the customer's may stand above zero since before there was this limit.
            field, cap = f"distinct:{customer_id}", limits.distinct_customers
            found.append(Take(field, 1, None, Reason.DISTINCT_CUSTOMERS_REACHED))
            found.append(Take(f"?{field}", 1, cap, Reason.DISTINCT_CUSTOMERS_REACHED))
        budget_minor = _beyond(limits.budget_minor, overdraft.overdraft_minor)
        found.append(Take("money", discount_minor, budget_minor, Reason.BUDGET_EXHAUSTED))
        return tuple(found)

    def span(self, now_ms: int) -> tuple[int, int]:
        """In which time [from_ms, until_ms) the takes of `now_ms` are the right ones: calendar periods end."""
        from_ms, until_ms = ALWAYS
        for period in self._limits.periods:
            begin = self._begin(period, now_ms)
            from_ms = max(from_ms, self._midnight_ms(begin))
            until_ms = min(until_ms, self._midnight_ms(_following(period.period, begin)))
        return from_ms, until_ms

    def _begin(self, limit: PeriodLimit, now_ms: int) -> date:
        """The first day of the period that it is."""
        today = datetime.fromtimestamp(now_ms / 1000, self._zone).date()
        match limit.period:
            case Period.DAY:
                return today
            case Period.WEEK:
                return today - timedelta(days=(today.weekday() - _WEEKDAYS.index(limit.week_start)) % 7)
            case Period.MONTH:
                return today.replace(day=1)

    def _midnight_ms(self, day: date) -> int:
        """When a day begins on the clocks of the zone."""
        return int(datetime(day.year, day.month, day.day, tzinfo=self._zone).astimezone(UTC).timestamp() * 1000)

    def _identities(self, limit: IdentityLimit, customer: Customer) -> list[str]:
        """The counters of what is known of a shopper, each named by a keyed hash: 128 bits in hex."""
        return [
            f"identity:{kind.value.lower()}:{hmac.digest(self._identity_key, value.encode(), 'sha256').hex()[:32]}"
            for kind in limit.kinds
            if (value := identity(kind, customer))
        ]


def _beyond(limit: int | None, overdraft: int) -> int | None:
    return None if limit is None else limit + overdraft


def _following(period: Period, begin: date) -> date:
    match period:
        case Period.DAY:
            return begin + timedelta(days=1)
        case Period.WEEK:
            return begin + timedelta(days=7)
        case Period.MONTH:
            return (begin + timedelta(days=31)).replace(day=1)


def behind(takes: Iterable[Take], earlier: Counter[str]) -> tuple[Take, ...]:
    """The takes of one of several codes of a campaign as they count behind those of its earlier codes, which are noted
    in `earlier`: what fits alone may not fit beside them. Only for asking. Moments and different customers are left as
    they are: they do not add up."""
    found = []
    for take in takes:
        before = earlier[take.field]
        if take.field[0] == "~":
            # Its amount is a span of time: of its uses there are fewer left.
            found.append(take if take.cap is None else take._replace(cap=take.cap - before))
            earlier[take.field] = before + 1
        else:
            found.append(take._replace(amount=take.amount + before) if before else take)
            earlier[take.field] = before + take.amount * (take.field[0] != "?")
    return tuple(found)


def takes_text(takes: Iterable[Take]) -> str:
    """The takes as the gate reads them, in groups of four words (counters.lua)."""
    return " ".join(
        [f"{field} {amount} {'-' if cap is None else cap} {reason:d}" for field, amount, cap, reason in takes]
    )


def uncapped_text(takes: Mapping[str, int]) -> str:
    """The same of takes that were taken before: neither a cap nor a reason has a meaning for them any more."""
    return " ".join([f"{field} {amount} - 0" for field, amount in takes.items()])
