"""What an order has of a code, what that counts towards and how far it may go, in plain Python: the part of the model
that is about limits."""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from vouchsafe.domain.campaign import Definition
from vouchsafe.domain.conditions import AttributeSource
from vouchsafe.domain.limits import IdentityKind, Period, PeriodLimit
from vouchsafe.domain.order import Customer, Order
from vouchsafe.domain.reasons import Reason
from vouchsafe.domain.schedule import Weekday

IDENTITY_KEY = b"a key of the tests"

Answer = tuple[Any, ...]
Counters = dict[str, int | list[int]]
# A campaign's id, and "<order id> <code>": what an order has at most once.
Spot = tuple[str, str]


@dataclass(frozen=True)
class Ask:
    """A request as far as one code is concerned, judged by a version of its campaign and for a time. `minor` is what
    the code takes off."""

    request: str
    fingerprint: str
    spot: Spot
    code_limit: int | None
    customer: Customer
    order: Order
    minor: int
    version: int
    judged_ms: int


@dataclass(eq=False)
class Use:
    """What an order has, or had, of a code: a redemption when it has a `number`, else it is held."""

    ask: Ask
    taken_ms: int
    counts: dict[str, int]
    number: int | None = None
    transaction: str = ""
    deadline_ms: int = 0
    reservation: str = ""
    expire_ms: int = 0
    is_whole: bool = True  # nothing of the redemption has come back

    @property
    def is_reserved(self) -> bool:
        """It ends by itself: it is held by a reservation, and by no transaction."""
        return self.number is None and not self.transaction

    def held(self, replaced: str = "") -> Answer:
        return ("held", self.taken_ms, self.expire_ms, replaced)


class Count(NamedTuple):
    """So much of what the field names: uses, or money. `cap` is None for as much as there may be."""

    field: str
    amount: int
    cap: int | None
    reason: Reason


def counted(definition: Definition, ask: Ask, now_ms: int) -> Iterator[Count]:
    """What a use counts towards, in the order of the reasons."""
    limits, customer = definition.limits, ask.customer
    per_code = ask.code_limit or limits.per_code
    yield Count(f"code:{ask.spot[1].split()[1]}", 1, per_code, Reason.CODE_LIMIT_REACHED)
    yield Count(f"customer:{customer.id}", 1, limits.per_customer, Reason.CUSTOMER_LIMIT_REACHED)
    for period in limits.periods:
        name = f"{period.period.lower()}:{first_day(period, _today(definition, now_ms))}:{customer.id}"
        yield Count(name, 1, period.uses, Reason.CUSTOMER_PERIOD_LIMIT_REACHED)
    for window in limits.windows:
        yield Count(f"~{window.window_ms}:{customer.id}", 1, window.uses, Reason.CUSTOMER_PERIOD_LIMIT_REACHED)
    for kind in limits.identities.kinds if limits.identities else ():
        value = {
            IdentityKind.CUSTOMER_ID: customer.id,
            IdentityKind.EMAIL: customer.email,
            IdentityKind.CARD: customer.card_fingerprint,
            IdentityKind.DEVICE: customer.device_id,
        }[kind]
        if value and limits.identities:
            name = f"identity:{kind.lower()}:{hmac.digest(IDENTITY_KEY, value.encode(), 'sha256').hex()[:32]}"
            yield Count(name, 1, limits.identities.uses, Reason.IDENTITY_LIMIT_REACHED)
    for attribute in limits.attributes:
        values = ask.order.metadata if attribute.source is AttributeSource.ORDER else customer.attributes
        name = f"attribute:{attribute.source.lower()}:{attribute.key}={values[attribute.key]}"
        yield Count(name, 1, attribute.uses, Reason.ATTRIBUTE_LIMIT_REACHED)
    if limits.customer_budget_minor is not None:
        name, cap = f"money:{customer.id}", limits.customer_budget_minor
        yield Count(name, ask.minor, cap, Reason.CUSTOMER_BUDGET_EXHAUSTED)
    yield Count("uses", 1, limits.total, Reason.CAMPAIGN_LIMIT_REACHED)
    if limits.distinct_customers is not None:
        yield Count(f"distinct:{customer.id}", 1, None, Reason.DISTINCT_CUSTOMERS_REACHED)
        yield Count(f"?distinct:{customer.id}", 1, limits.distinct_customers, Reason.DISTINCT_CUSTOMERS_REACHED)
    yield Count("money", ask.minor, limits.budget_minor, Reason.BUDGET_EXHAUSTED)


def outlook(definition: Definition, now_ms: int) -> Reason | tuple[date, ...]:
    """What of a definition depends on the time: the refusal outside its time, else which calendar periods it is."""
    if definition.start_time_ms is not None and now_ms < definition.start_time_ms:
        return Reason.CAMPAIGN_NOT_STARTED
    if definition.end_time_ms is not None and now_ms >= definition.end_time_ms:
        return Reason.CAMPAIGN_ENDED
    return tuple(first_day(period, _today(definition, now_ms)) for period in definition.limits.periods)


def first_day(limit: PeriodLimit, today: date) -> date:
    """Of the period that a day lies in."""
    day = today
    while not (
        limit.period is Period.DAY
        or (limit.period is Period.MONTH and day.day == 1)
        or (limit.period is Period.WEEK and day.weekday() == list(Weekday).index(limit.week_start))
    ):
        day -= timedelta(days=1)
    return day


def is_period(name: str) -> bool:
    """Whether a count is one within a calendar period or a window."""
    return name.startswith(("day:", "week:", "month:", "~"))


def _today(definition: Definition, now_ms: int) -> date:
    zone = ZoneInfo(definition.schedule.time_zone if definition.schedule else "UTC")
    return datetime.fromtimestamp(now_ms / 1000, zone).date()


def used(uses: Sequence[Use], name: str, now_ms: int) -> int:
    """How much of what the name says."""
    if name.startswith("?"):
        kind = name.partition(":")[0]
        return len({one for use in uses for one in use.counts if one.startswith(kind)})
    if name.startswith("~"):
        return len(moments(uses, name, now_ms))
    return sum(use.counts.get(name, 0) for use in uses)


def moments(uses: Sequence[Use], name: str, now_ms: int) -> list[int]:
    """When there were uses within the window's length, looking back from now."""
    return sorted(use.taken_ms for use in uses if name in use.counts and use.taken_ms > now_ms - window_ms(name))


def window_ms(name: str) -> int:
    """The length that the name of a window says."""
    return int(name[1:].partition(":")[0])


def counters(uses: Sequence[Use], now_ms: int) -> Counters:
    """Everything that is used, by the names of the gate; of what is not used there is nothing, but for the uses."""
    held = [use for use in uses if use.number is None]
    found: Counters = {"held": len(held), "held_money": sum(use.ask.minor for use in held)}
    for name in {name for use in uses for name in use.counts}:
        kept_as = name.partition(":")[0] if name.startswith("?") else name
        found[kept_as] = moments(uses, name, now_ms) if name.startswith("~") else used(uses, name, now_ms)
    return {"uses": 0} | {name: value for name, value in found.items() if value or name == "uses"}
