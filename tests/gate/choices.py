"""What sequences of steps are made of. Whatever comes first in a list is what hypothesis tries to get along with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hypothesis import strategies as st

from tests.gate.flows import request_id
from tests.gate.stage import CAMPAIGNS, CODES
from tests.gate.twins import RIGHT, Cart, Judged, Wish
from vouchsafe.domain.campaign import Definition
from vouchsafe.domain.conditions import AttributeSource
from vouchsafe.domain.effects import Effect, PercentOff
from vouchsafe.domain.limits import (
    AttributeLimit,
    IdentityKind,
    IdentityLimit,
    Limits,
    Period,
    PeriodLimit,
    WindowLimit,
)
from vouchsafe.domain.rollback import RollbackPolicy
from vouchsafe.domain.schedule import Schedule, Weekday

SECOND_MS, HOUR_MS, DAY_MS = 1_000, 3_600_000, 86_400_000
# Any moment; then a moment before midnight in Berlin, on the days before clocks change and at the end of a month.
BEGINS = [
    int(datetime.fromisoformat(text).timestamp() * 1000)
    for text in ("2026-07-08T12Z", "2026-03-28T22:59:59.990Z", "2026-10-24T21:59:59.990Z", "2026-05-31T21:59:59.990Z")
]
PERIODS = [
    (),
    (),
    (),
    (PeriodLimit(period=Period.DAY, uses=1),),
    (PeriodLimit(period=Period.MONTH, uses=2),),
    (PeriodLimit(period=Period.WEEK, uses=1),),
    (
        PeriodLimit(period=Period.DAY, uses=2),
        PeriodLimit(period=Period.WEEK, uses=3, week_start=Weekday.WEDNESDAY),
        PeriodLimit(period=Period.MONTH, uses=4),
    ),
]
WINDOWS = [
    (),
    (),
    (),
    (WindowLimit(window_ms=500, uses=1),),
    (WindowLimit(window_ms=HOUR_MS, uses=2),),
    (WindowLimit(window_ms=SECOND_MS, uses=1), WindowLimit(window_ms=7 * DAY_MS, uses=3)),
]
ATTRIBUTES = [
    (),
    (),
    (),
    (AttributeLimit(key="store", uses=2),),
    (AttributeLimit(key="store", uses=3), AttributeLimit(key="store", uses=2, source=AttributeSource.CUSTOMER)),
]
IDENTITIES = [
    None,
    None,
    None,
    IdentityLimit(kinds=(IdentityKind.EMAIL, IdentityKind.CARD), uses=2),
    IdentityLimit(kinds=tuple(IdentityKind), uses=3),
]


def a_count(most: int) -> st.SearchStrategy[int | None]:
    return st.sampled_from([None, None, None, *range(1, most + 1)])


limits = st.builds(
    Limits,
    total=a_count(4),
    per_customer=a_count(3),
    per_code=a_count(3),
    distinct_customers=a_count(2),
    budget_minor=st.sampled_from([None, None, 100, 160, 330]),
    customer_budget_minor=st.sampled_from([None, None, 100, 130, 230]),
    periods=st.sampled_from(PERIODS),
    windows=st.sampled_from(WINDOWS),
    attributes=st.sampled_from(ATTRIBUTES),
    identities=st.sampled_from(IDENTITIES),
)
definitions = st.builds(
    Definition,
    display_name=st.just("Sale"),
    effects=st.just((Effect(kind=PercentOff(basis_points=1_000)),)),
    limits=st.just(Limits()) | limits | limits | limits,
    start_time_ms=st.sampled_from([None] * 20 + [begin_ms + SECOND_MS for begin_ms in BEGINS]),
    end_time_ms=st.sampled_from([None] * 20 + [begin_ms + DAY_MS for begin_ms in BEGINS]),
    schedule=st.sampled_from([None, Schedule(time_zone="Europe/Berlin"), Schedule(time_zone="America/New_York")]),
    rollback=st.just(RollbackPolicy())
    | st.builds(RollbackPolicy, keeps_use=st.booleans(), keeps_budget=st.booleans(), keeps_periods=st.booleans()),
)
# Few enough values that sequences collide with themselves. The price of 4 has no discount.
codes = st.sampled_from(CODES)
several = st.lists(codes, min_size=1, max_size=3, unique=True) | st.sampled_from([["A0", "A1"], ["B1", "B0"]])
carts = st.builds(Cart, order=st.integers(0, 3), price=st.sampled_from([1_000] * 6 + [300] * 3 + [4]))
judged = st.sampled_from(
    [RIGHT] * 14 + [Judged(is_stale=True)] * 2 + [Judged(off_ms=off_ms) for off_ms in (-1, 1, -DAY_MS, DAY_MS)]
)
wishes = st.builds(Wish, codes, carts, judged)
requests = st.sampled_from([request_id(number) for number in range(120)])
ttls_ms = st.sampled_from([40, 5 * SECOND_MS, 5 * SECOND_MS, 15 * 60 * SECOND_MS])
campaigns = st.sampled_from(list(CAMPAIGNS.values()))
picks = st.integers(0, 5)


@dataclass(frozen=True)
class Step:
    """What is done, a method of `Steps`, and with what."""

    what: str
    said: Mapping[str, Any]


def often(times: int, what: str, **said: st.SearchStrategy[Any]) -> list[st.SearchStrategy[Step]]:
    # Each a strategy of its own, since one_of leaves out what it has already.
    return [st.builds(Step, st.just(what), st.fixed_dictionaries(said)) for _ in range(times)]


asked = st.tuples(wishes, requests)
further = st.sampled_from(["decide settle"] * 3 + ["decide", "", "", "settle"])  # the rest is left behind
# Often for what was asked for before.
like = st.sampled_from([None, None, 0, 1, 2])
bundle = {
    "codes": several,
    "cart": carts,
    "like": like,
    "judged": judged,
    "request": requests,
    "ttl_ms": ttls_ms,
}
# One rule for all of them, since hypothesis leaves out about half of the rules in each sequence.
steps = st.one_of(
    *often(6, "redeem", asked=st.lists(asked, min_size=1, max_size=1)),
    *often(3, "redeem", asked=st.lists(asked, min_size=2, max_size=4, unique_by=lambda one: one[1])),
    *often(2, "redeem_again", pick=picks),
    *often(2, "validate", codes=several, cart=carts, like=like, judged=judged),
    *often(6, "transact", **bundle, then=further, dies_after=st.sampled_from([3, 3, 3, 1])),
    *often(2, "decide", pick=picks),
    *often(3, "settle", pick=picks, part=st.sampled_from([slice(None), slice(1), slice(1, None)])),
    *often(2, "settle_overdue"),
    *often(7, "reserve", **bundle, dies=st.sampled_from([False] * 4 + [True])),
    *often(5, "confirm", pick=picks, ttl_ms=ttls_ms, then=further),
    *often(3, "release", pick=picks),
    *often(2, "expire"),
    *often(
        4,
        "roll_back",
        pick=picks,
        minor=st.sampled_from([None, None, 10, 30]),
        request=requests,
        is_stale=st.sampled_from([False] * 5 + [True]),
        then=st.sampled_from(["give back", "give back", "give back the first", "die"]),
    ),
    *often(3, "give_back", pick=picks, only_first=st.booleans()),
    *often(1, "return_left_behind"),
    *often(2, "pause", pick=picks),
    *often(2, "begin_pause", pick=picks),
    *often(1, "archive", campaign_id=campaigns),
    *often(
        3,
        "take_turn",
        campaign_id=campaigns,
        kind=st.sampled_from(["paused", "resumed"]),
        plan=st.sampled_from([None, "A", "A", "B"]),
        again=st.booleans(),
    ),
    *often(4, "resume", pick=picks),
    *often(2, "publish", campaign_id=campaigns, definition=definitions),
    *often(1, "publish_late", campaign_id=campaigns, back=st.integers(0, 1)),
    *often(1, "describe"),
    *often(2, "wait", ms=st.sampled_from([1, 7, 39, 500, SECOND_MS, 5 * SECOND_MS, HOUR_MS])),
    *often(1, "wait", ms=st.sampled_from([DAY_MS, 7 * DAY_MS, 31 * DAY_MS])),
    *often(
        8,
        "wait_for_an_edge",
        pick=picks,
        off_ms=st.integers(-1, 1),
        then=st.sampled_from(["look_around", "settle_overdue", "expire", "decide"]),
    ),
)
