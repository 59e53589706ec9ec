"""What a use takes of which counter, at which time, by whom."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.values import AN_ORDER, a_definition, percent, takes_of
from vouchsafe.domain.campaign import Campaign, CodeEntry, Definition
from vouchsafe.domain.check import check
from vouchsafe.domain.conditions import AttributeSource
from vouchsafe.domain.evaluator import Evaluator
from vouchsafe.domain.identities import normalised_email
from vouchsafe.domain.limits import (
    AttributeLimit,
    IdentityKind,
    IdentityLimit,
    Limits,
    Period,
    PeriodLimit,
    WindowLimit,
)
from vouchsafe.domain.order import Customer, Order
from vouchsafe.domain.pricing import Basket, Discount
from vouchsafe.domain.reasons import Reason, Refusal
from vouchsafe.domain.schedule import Schedule, Weekday
from vouchsafe.domain.takes import Taker

ENTRY = CodeEntry("CODE", "c", None)


def ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def test_takes_come_in_the_order_of_their_reasons() -> None:
    limits = Limits(
        total=9,
        per_customer=1,
        per_code=2,
        distinct_customers=3,
        budget_minor=1_000,
        customer_budget_minor=500,
        periods=(PeriodLimit(period=Period.DAY, uses=1),),
        windows=(WindowLimit(window_ms=1_000, uses=1),),
        attributes=(
            AttributeLimit(key="store no", uses=4),
            AttributeLimit(key="store no", uses=5, source=AttributeSource.CUSTOMER),
        ),
        identities=IdentityLimit(kinds=tuple(IdentityKind), uses=1),
    )
    order = Order(id="o", currency_code="EUR", lines=AN_ORDER.lines, metadata={"store no": "Köln 1"})
    # The same value in both places is counted in both.
    attributes = {"store no": "Köln 1"}
    shopper = Customer(id="c-1", email="a@b.de", card_fingerprint="card", device_id="device", attributes=attributes)
    takes = takes_of(limits, ENTRY, shopper, 250, ms(datetime(2026, 11, 23, tzinfo=UTC)), order)
    assert [take.reason for take in takes] == sorted(take.reason for take in takes)
    assert len({take.field for take in takes}) == len(takes) == 15
    named = {take.field: (take.amount, take.cap) for take in takes}
    assert named["code:CODE"] == (1, 2)
    assert named["day:2026-11-23:c-1"] == (1, 1)
    assert named["~1000:c-1"] == (1_000, 1)
    assert named["attribute:order:store%20no=K%C3%B6ln%201"] == (1, 4)
    assert named["attribute:customer:store%20no=K%C3%B6ln%201"] == (1, 5)
    assert named["money:c-1"] == (250, 500)
    assert named["money"] == (250, 1_000)
    assert named["?distinct:c-1"] == (1, 3)
    for take in takes:
        assert " " not in take.field
        for secret in ("a@b.de", "card", "device"):
            assert secret not in take.field.split(":")[-1]


def test_a_code_with_a_limit_of_its_own_keeps_it() -> None:
    once = CodeEntry("ONCE", "c", 1)
    assert takes_of(Limits(per_code=5), once, Customer(id="c"), 1)[0].cap == 1
    assert takes_of(Limits(per_code=5), ENTRY, Customer(id="c"), 1)[0].cap == 5


@pytest.mark.parametrize(
    ("zone", "period", "week_start", "moment", "begin", "hours"),
    [
        ("UTC", Period.DAY, Weekday.MONDAY, "2026-11-23T12:00:00+00:00", "2026-11-23", 24),
        ("Europe/Berlin", Period.DAY, Weekday.MONDAY, "2027-03-28T12:00:00+02:00", "2027-03-28", 23),
        ("Europe/Berlin", Period.DAY, Weekday.MONDAY, "2026-10-25T00:30:00+02:00", "2026-10-25", 25),
        ("America/New_York", Period.DAY, Weekday.MONDAY, "2026-11-24T04:59:59+00:00", "2026-11-23", 24),
        ("UTC", Period.WEEK, Weekday.MONDAY, "2026-11-29T23:59:59+00:00", "2026-11-23", 168),
        ("UTC", Period.WEEK, Weekday.SUNDAY, "2026-11-29T00:00:00+00:00", "2026-11-29", 168),
        ("UTC", Period.WEEK, Weekday.SATURDAY, "2026-11-23T00:00:00+00:00", "2026-11-21", 168),
        ("Europe/Berlin", Period.MONTH, Weekday.MONDAY, "2026-10-31T23:30:00+01:00", "2026-10-01", 31 * 24 + 1),
        ("UTC", Period.MONTH, Weekday.MONDAY, "2028-02-29T12:00:00+00:00", "2028-02-01", 29 * 24),
    ],
)
def test_a_period_is_that_of_the_calendar_in_the_zone(
    zone: str, period: Period, week_start: Weekday, moment: str, begin: str, hours: int
) -> None:
    limits = Limits(periods=(PeriodLimit(period=period, uses=1, week_start=week_start),))
    taker = Taker(limits, zone, b"")
    now_ms = ms(datetime.fromisoformat(moment))
    fields = [take.field for take in taker.takes(Customer(id="c"), AN_ORDER, ENTRY, 1, now_ms)]
    assert f"{period.value.lower()}:{begin}:c" in fields
    from_ms, until_ms = taker.span(now_ms)
    assert from_ms <= now_ms < until_ms
    assert until_ms - from_ms == timedelta(hours=hours) / timedelta(milliseconds=1)
    following = [take.field for take in taker.takes(Customer(id="c"), AN_ORDER, ENTRY, 1, until_ms)]
    assert following != fields


def test_an_answer_is_not_true_beyond_the_period_that_it_counts_in() -> None:
    definition = Definition(
        display_name="x",
        effects=percent(1_000),
        limits=Limits(periods=(PeriodLimit(period=Period.DAY, uses=1),)),
        schedule=Schedule(time_zone="Europe/Berlin"),
    )
    assert check(definition) == []
    now = datetime(2026, 11, 23, 22, 59, 59, tzinfo=UTC)
    verdict = Evaluator(Campaign("c", 1, definition, 0)).evaluate(Customer(id="c"), Basket(AN_ORDER), ENTRY, ms(now))
    assert isinstance(verdict.outcome, Discount)
    assert verdict.until_ms == ms(datetime(2026, 11, 23, 23, tzinfo=UTC))


@pytest.mark.parametrize(
    ("address", "box"),
    [
        ("Ann@Example.com", "ann@example.com"),
        (" ann+shop@example.com ", "ann@example.com"),
        ("a.n.n@example.com", "a.n.n@example.com"),
        ("A.n.n+x+y@gmail.com", "ann@gmail.com"),
        ("ann@googlemail.com", "ann@gmail.com"),
        ('"odd@one"@example.com', '"odd@one"@example.com'),
        ("+only@example.com", ""),
        ("no address", ""),
        ("", ""),
    ],
)
def test_aliases_of_an_address_are_one_identity(address: str, box: str) -> None:
    # magento 776, polar PR 13394: guests escaped the limit per customer
    assert normalised_email(address) == box


def test_a_shopper_is_known_by_what_was_sent_and_by_nothing_else() -> None:
    limits = Limits(identities=IdentityLimit(kinds=(IdentityKind.EMAIL, IdentityKind.CARD), uses=1))

    def identities(email: str = "", card_fingerprint: str = "", device_id: str = "") -> set[str]:
        guest = Customer(id="guest", email=email, card_fingerprint=card_fingerprint, device_id=device_id)
        takes = takes_of(limits, ENTRY, guest, 1)
        return {take.field for take in takes if take.field.startswith("identity:")}

    assert identities(email="Ann+1@gmail.com") == identities(email="ann@googlemail.com")
    assert len(identities(email="ann@gmail.com", card_fingerprint="x")) == 2
    assert identities(card_fingerprint="x") <= identities(email="ann@gmail.com", card_fingerprint="x")
    assert identities(device_id="x") == set()
    other = Taker(limits, "UTC", b"another secret").takes(Customer(id="g", email="a@b.de"), AN_ORDER, ENTRY, 1, 0)
    assert identities(email="a@b.de").isdisjoint(take.field for take in other)


def test_who_cannot_be_counted_is_not_let_in() -> None:
    definition = Definition(
        display_name="x",
        effects=percent(1_000),
        limits=Limits(
            identities=IdentityLimit(kinds=(IdentityKind.EMAIL, IdentityKind.CARD), uses=1),
            attributes=(AttributeLimit(key="tier", uses=1, source=AttributeSource.CUSTOMER),),
        ),
    )
    evaluator = Evaluator(Campaign("c", 1, definition, 0))

    def outcome(customer: Customer) -> Discount | Refusal:
        return evaluator.evaluate(customer, Basket(AN_ORDER), ENTRY, 0).outcome

    guest = outcome(Customer(id="g", email="no address", attributes={"tier": "gold"}))
    assert isinstance(guest, Refusal)
    assert (guest.reason, guest.metadata["missing_data"]) == (
        Reason.IDENTITY_LIMIT_REACHED,
        "customer.email or customer.card_fingerprint",
    )
    no_tier = outcome(Customer(id="g", card_fingerprint="x"))
    assert isinstance(no_tier, Refusal)
    assert (no_tier.reason, no_tier.metadata["missing_data"]) == (
        Reason.ATTRIBUTE_LIMIT_REACHED,
        "customer.attributes[tier]",
    )
    assert isinstance(outcome(Customer(id="g", card_fingerprint="x", attributes={"tier": "gold"})), Discount)


def test_limits_that_say_the_same_twice_are_refused() -> None:
    day = PeriodLimit(period=Period.DAY, uses=1)
    limits = Limits(
        budget_minor=5,
        periods=(day, PeriodLimit(period=Period.WEEK, uses=1), PeriodLimit(period=Period.DAY, uses=2)),
        attributes=(AttributeLimit(key="a", uses=1), AttributeLimit(key="a", uses=2)),
    )
    assert [violation.field for violation in check(a_definition(limits=limits))] == [
        "currency_code",
        "limits.periods[2]",
        "limits.attributes[1]",
    ]
