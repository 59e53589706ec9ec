"""Who may use a code, on what and when: yes, no, or that data is missing, each with its reason."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.values import amount, percent
from vouchsafe.domain.campaign import Campaign, CodeEntry, Definition
from vouchsafe.domain.check import check
from vouchsafe.domain.conditions import (
    Amount,
    Anniversary,
    Attribute,
    AttributeSource,
    Basis,
    CelExpression,
    Channels,
    Condition,
    Countries,
    CustomerIds,
    HolderOnly,
    Lines,
    Match,
    OnMissing,
    OrderNumber,
    Quantity,
    Regions,
    Segments,
    Test,
)
from vouchsafe.domain.effects import Bundle, BundleItem, BuyXGetY, Effect, FreeShipping, FreeUnits, PercentOff, Target
from vouchsafe.domain.evaluator import Evaluator, TraceEntry, Verdict
from vouchsafe.domain.lines import LineSelector
from vouchsafe.domain.order import Customer, Line, Order
from vouchsafe.domain.pricing import Basket, Discount
from vouchsafe.domain.reasons import Reason, Refusal
from vouchsafe.domain.schedule import Blackout, Schedule, WeeklyWindow

SHOES = LineSelector(categories=("shoes",))
ORDER = Order(
    id="o",
    currency_code="EUR",
    channel="app",
    metadata={"store": "berlin-1"},
    lines=(
        Line(sku="boot", quantity=1, unit_price_minor=6_000, product_id="p-boot", categories=("shoes",)),
        Line(sku="mag", quantity=2, unit_price_minor=500, categories=("low-margin",)),
    ),
)
CODE = CodeEntry("CODE", "c", None)
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def judge(
    definition: Definition,
    *,
    customer: Customer = Customer(id="c-1"),  # noqa: B008  # immutable
    order: Order = ORDER,
    code: CodeEntry = CODE,
    now: datetime = NOON,
    trace: list[TraceEntry] | None = None,
) -> Verdict:
    assert check(definition) == []
    return Evaluator(Campaign("c", 1, definition, 0)).evaluate(customer, Basket(order), code, ms(now), trace)


def sale(*tests: Test | Condition, **fields: Any) -> Definition:
    conditions = tuple(test if isinstance(test, Condition) else Condition(test=test) for test in tests)
    return Definition(
        display_name="Sale", effects=percent(1_000), conditions=conditions, **{"currency_code": "EUR", **fields}
    )


def refusal(verdict: Verdict) -> Refusal:
    assert isinstance(verdict.outcome, Refusal), verdict
    return verdict.outcome


KNOWN = Customer(
    id="c-1",
    segments=("vip", "new"),
    country_code="DE",
    region_code="DE-BY",
    attributes={"tier": "gold", "birthday": "1990-11-25"},
    order_count=0,
)


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        (Segments(any=("vip", "x")), None),
        (Segments(any=("x",)), Reason.CUSTOMER_NOT_ELIGIBLE),
        (Segments(all=("vip", "new")), None),
        (Segments(all=("vip", "x")), Reason.CUSTOMER_NOT_ELIGIBLE),
        (Segments(none=("x",)), None),
        (Segments(none=("new",)), Reason.CUSTOMER_NOT_ELIGIBLE),
        (CustomerIds(any=("c-1",)), None),
        (CustomerIds(none=("c-1",)), Reason.CUSTOMER_NOT_ELIGIBLE),
        (Countries(any=("DE", "AT")), None),
        (Countries(none=("DE",)), Reason.COUNTRY_NOT_ELIGIBLE),
        (Regions(any=("DE-BY",)), None),
        (Regions(any=("DE-BE",)), Reason.COUNTRY_NOT_ELIGIBLE),
        (Channels(any=("app",)), None),
        (Channels(any=("web",)), Reason.CHANNEL_NOT_ELIGIBLE),
        (Attribute(key="tier", any=("gold",)), None),
        (Attribute(key="tier"), None),
        (Attribute(key="tier", none=("gold",)), Reason.CUSTOMER_NOT_ELIGIBLE),
        (Attribute(key="store", source=AttributeSource.ORDER, any=("berlin-1",)), None),
        (Attribute(key="store", source=AttributeSource.ORDER, any=("berlin-2",)), Reason.ORDER_NOT_ELIGIBLE),
        (OrderNumber(max=1), None),
        (OrderNumber(min=2), Reason.CUSTOMER_NOT_ELIGIBLE),
        (Amount(min_minor=7_000), None),
        (Amount(min_minor=7_001), Reason.AMOUNT_OUT_OF_RANGE),
        (Amount(max_minor=6_999), Reason.AMOUNT_OUT_OF_RANGE),
        (Amount(min_minor=6_001, lines=SHOES), Reason.AMOUNT_OUT_OF_RANGE),
        (Quantity(min=3, max=3), None),
        (Quantity(min=2, lines=SHOES), Reason.QUANTITY_OUT_OF_RANGE),
        (Lines(lines=SHOES), None),
        (Lines(lines=SHOES, match=Match.EVERY), Reason.ITEMS_NOT_ELIGIBLE),
        (Lines(lines=SHOES, match=Match.NONE), Reason.ITEMS_NOT_ELIGIBLE),
        (Lines(lines=LineSelector(product_ids=("p-boot",))), None),
        (Anniversary(attribute="birthday", days_before=2), None),
        (Anniversary(attribute="birthday", days_before=1), Reason.DATE_NOT_ELIGIBLE),
    ],
    ids=str,
)
def test_a_condition_holds_or_says_why_not(test: Test, reason: Reason | None) -> None:
    verdict = judge(sale(test), customer=KNOWN)
    if reason is None:
        assert isinstance(verdict.outcome, Discount)
    else:
        assert refusal(verdict).reason is reason
        assert refusal(verdict).metadata["condition"] == f"conditions[0].{test.__struct_config__.tag}"


NEEDS_DATA: dict[str, Test] = {
    "customer.country_code": Countries(none=("US",)),
    "customer.region_code": Regions(any=("DE-BY",)),
    "order.channel": Channels(any=("app",)),
    "customer.attributes[tier]": Attribute(key="tier", none=("bronze",)),
    "order.metadata[store]": Attribute(key="store", source=AttributeSource.ORDER),
    "customer.order_count": OrderNumber(min=1),
    "customer.attributes[birthday]": Anniversary(attribute="birthday", days_before=180, days_after=180),
    "code.holder_id": HolderOnly(),
}


@pytest.mark.parametrize("datum", NEEDS_DATA)
def test_missing_data_is_closed_unless_the_condition_is_open(datum: str) -> None:
    bare = Order(id="o", currency_code="EUR", lines=ORDER.lines)
    closed = judge(sale(NEEDS_DATA[datum]), order=bare)
    assert refusal(closed).metadata["missing_data"] == datum
    opened = judge(sale(Condition(test=NEEDS_DATA[datum], on_missing=OnMissing.OPEN)), order=bare)
    assert isinstance(opened.outcome, Discount)


def test_missing_data_of_an_expression_is_closed_unless_it_is_open() -> None:
    text = 'customer.attributes["tier"] == "gold"'
    closed = judge(sale(expression=CelExpression(text=text)))
    assert refusal(closed).reason is Reason.EXPRESSION_NOT_MET
    assert refusal(closed).metadata["missing_data"] == "tier"
    opened = judge(sale(expression=CelExpression(text=text, on_missing=OnMissing.OPEN)))
    assert isinstance(opened.outcome, Discount)


def test_an_expression_that_goes_wrong_never_lets_anybody_in() -> None:
    expression = CelExpression(text="order.amount_minor / (order.quantity - 3) > 1", on_missing=OnMissing.OPEN)
    said = refusal(judge(sale(expression=expression)))
    assert said.reason is Reason.EXPRESSION_NOT_MET
    assert "zero" in said.metadata["detail"]


@pytest.mark.parametrize("text", ["25.11.1990", "1990-W48-7", "19901125", "1990-13-01", ""])
def test_a_date_that_is_none_is_missing_data(text: str) -> None:
    customer = Customer(id="c-1", attributes={"birthday": text})
    verdict = judge(sale(Anniversary(attribute="birthday", days_before=180)), customer=customer)
    assert refusal(verdict).metadata["missing_data"] == "customer.attributes[birthday]"


def test_a_condition_answers_in_its_own_words() -> None:
    said = refusal(judge(sale(Condition(test=Amount(min_minor=7_800), message="Add a little something."))))
    assert said.message == "Add a little something."
    assert said.metadata["missing_minor"] == "800"


def test_lines_that_are_not_eligible_count_for_nothing() -> None:
    low_margin = LineSelector(excluded_categories=("low-margin",))
    verdict = judge(sale(eligible_lines=low_margin))
    assert isinstance(verdict.outcome, Discount)
    assert verdict.outcome.applied_minor == 600
    short = refusal(judge(sale(Amount(min_minor=6_500), eligible_lines=low_margin)))
    assert short.metadata == {
        "condition": "conditions[0].amount",
        "actual_minor": "6000",
        "min_minor": "6500",
        "missing_minor": "500",
    }
    for effect in (PercentOff(basis_points=1), FreeShipping(), FreeUnits(quantity=1, sku="mug")):
        nothing = Definition(
            display_name="x",
            effects=(Effect(kind=effect),),
            eligible_lines=LineSelector(skus=("hat",)),
            conditions=(Condition(test=Amount(min_minor=1)),),
            currency_code="EUR",
        )
        assert refusal(judge(nothing)).reason is Reason.ITEMS_NOT_ELIGIBLE


def test_amounts_before_and_after_other_discounts_are_two_things() -> None:
    evaluators = {basis: Evaluator(Campaign("c", 1, sale(Amount(min_minor=7_000, basis=basis)), 0)) for basis in Basis}
    basket = Basket(ORDER)
    basket.left[0] -= 1
    outcomes = {basis: one.evaluate(KNOWN, basket, CODE, ms(NOON)).outcome for basis, one in evaluators.items()}
    assert isinstance(outcomes[Basis.INITIAL], Discount)
    assert isinstance(outcomes[Basis.REMAINING], Refusal)


def test_a_code_for_its_holder_is_for_nobody_else() -> None:
    given = CodeEntry("SORRY", "c", 1, "c-1", ms(NOON))
    assert isinstance(judge(sale(HolderOnly()), code=given).outcome, Discount)
    other = judge(sale(HolderOnly()), code=given, customer=Customer(id="c-2"))
    assert refusal(other).reason is Reason.NOT_THE_HOLDER
    assert given.holder_id not in str(refusal(other))


@pytest.mark.parametrize("currency_code", ["JPY", "KWD"])
def test_another_currency_is_refused_with_both_named(currency_code: str) -> None:
    order = Order(id="o", currency_code=currency_code, lines=ORDER.lines)
    said = refusal(judge(Definition(display_name="x", effects=amount(500), currency_code="EUR"), order=order))
    assert said.reason is Reason.CURRENCY_MISMATCH
    assert said.metadata == {"expected_currency_code": "EUR", "order_currency_code": currency_code}


def test_of_several_reasons_the_first_by_precedence_is_answered() -> None:
    everything = sale(
        Amount(min_minor=10**9),
        Lines(lines=SHOES, match=Match.NONE),
        Countries(any=("US",)),
        Segments(any=("x",)),
        HolderOnly(),
        currency_code="JPY",
    )
    given = CodeEntry("SORRY", "c", 1, "c-2", ms(NOON))
    expected = [
        Reason.NOT_THE_HOLDER,
        Reason.CUSTOMER_NOT_ELIGIBLE,
        Reason.COUNTRY_NOT_ELIGIBLE,
        Reason.CURRENCY_MISMATCH,
    ]
    for count, reason in enumerate(expected):
        kept = everything.conditions[: len(everything.conditions) - count]
        verdict = judge(sale(*kept, currency_code="JPY"), customer=KNOWN, code=given)
        assert refusal(verdict).reason is reason


# -- time -------------------------------------------------------------------------------------------------------------


def test_an_answer_is_true_for_a_span_of_time_that_ends_where_it_changes() -> None:
    start, end = NOON, NOON + timedelta(hours=6)
    schedule = Schedule(weekly=(WeeklyWindow(start_time="13:00", end_time="14:00"),))
    definition = sale(start_time_ms=ms(start), end_time_ms=ms(end), schedule=schedule)
    edges = [
        (NOON - timedelta(hours=2), Reason.CAMPAIGN_NOT_STARTED),
        (NOON, Reason.OUTSIDE_SCHEDULE),
        (NOON + timedelta(hours=1), None),
        (NOON + timedelta(hours=2), Reason.OUTSIDE_SCHEDULE),
        (end, Reason.CAMPAIGN_ENDED),
    ]
    for (begin, reason), (following, _) in zip(edges, [*edges[1:], (end + timedelta(days=9), None)], strict=True):
        for moment in (begin, begin + (following - begin) / 2, following - timedelta(milliseconds=1)):
            verdict = judge(definition, now=moment)
            assert (refusal(verdict).reason if isinstance(verdict.outcome, Refusal) else None) is reason
            assert verdict.from_ms <= ms(moment) < verdict.until_ms
            if reason is not Reason.CAMPAIGN_ENDED:
                assert verdict.until_ms == ms(following)
    assert refusal(judge(definition, now=NOON)).metadata == {"next_open_time": "2026-11-23T13:00:00Z"}


def test_a_code_lasts_its_time_from_when_it_was_given_across_a_change_of_clocks() -> None:
    # Berlin's clocks go back within these seven days: it is seven times 24 hours all the same.
    given = datetime(2026, 10, 22, 18, 30, tzinfo=UTC)
    code = CodeEntry("SORRY", "c", 1, "c-1", ms(given))
    definition = sale(code_validity_ms=7 * 86_400_000, schedule=Schedule(time_zone="Europe/Berlin"))
    last = given + timedelta(days=7) - timedelta(milliseconds=1)
    verdict = judge(definition, code=code, now=last)
    assert isinstance(verdict.outcome, Discount)
    assert verdict.until_ms == ms(given + timedelta(days=7))
    expired = refusal(judge(definition, code=code, now=given + timedelta(days=7)))
    assert expired.reason is Reason.CODE_EXPIRED
    assert expired.metadata == {"expire_time": "2026-10-29T18:30:00Z"}
    # A code that was given to nobody lasts as long as the campaign.
    assert isinstance(judge(definition, now=given + timedelta(days=900)).outcome, Discount)


@pytest.mark.parametrize(
    ("born", "today", "days"),
    [
        ("1992-02-29", "2027-02-28", 0),
        ("1992-02-29", "2028-02-29", 0),
        ("1992-02-29", "2028-02-28", -1),
        ("1990-01-02", "2026-12-30", -3),
        ("1990-12-30", "2027-01-02", 3),
    ],
)
def test_a_birthday_returns_every_year(born: str, today: str, days: int) -> None:
    customer = Customer(id="c-1", attributes={"birthday": born})
    zone = Schedule(time_zone="Pacific/Auckland")
    # Late on that day in Auckland it is another day in UTC.
    now = datetime.fromisoformat(f"{today}T00:30:00+13:00")
    near = Anniversary(attribute="birthday", days_before=max(0, -days), days_after=max(0, days))
    verdict = judge(sale(near, schedule=zone), customer=customer, now=now)
    assert isinstance(verdict.outcome, Discount)
    if days:
        nearer = Anniversary(attribute="birthday", days_before=max(0, -days - 1), days_after=max(0, days - 1))
        assert isinstance(judge(sale(nearer, schedule=zone), customer=customer, now=now).outcome, Refusal)
    # The answer is true until midnight there.
    assert verdict.until_ms - ms(now) == timedelta(hours=23, minutes=30) / timedelta(milliseconds=1)


def test_an_answer_that_read_the_clock_is_true_for_a_moment() -> None:
    verdict = judge(sale(expression=CelExpression(text='now > timestamp("2026-01-01T00:00:00Z")')))
    assert (verdict.from_ms, verdict.until_ms) == (ms(NOON) - 1_000, ms(NOON) + 1_000)
    timeless = judge(sale(expression=CelExpression(text="order.quantity > 0")))
    assert timeless.from_ms == 0


# -- explaining -------------------------------------------------------------------------------------------------------


def test_a_trace_lists_everything_that_was_looked_at() -> None:
    definition = sale(
        Segments(any=("vip",)),
        Condition(test=Countries(any=("DE",)), on_missing=OnMissing.OPEN),
        Channels(any=("web",)),
        Amount(min_minor=7_001),
        start_time_ms=ms(NOON - timedelta(days=1)),
        schedule=Schedule(blackouts=(Blackout(first_date="2026-11-23", last_date="2026-11-23"),)),
        expression=CelExpression(text="order.quantity > 2"),
    )
    trace: list[TraceEntry] = []
    verdict = judge(definition, customer=Customer(id="c-1", segments=("vip",)), trace=trace)
    assert refusal(verdict).reason is Reason.OUTSIDE_SCHEDULE
    assert [(entry.path, entry.held) for entry in trace] == [
        ("start_time", True),
        ("schedule", False),
        ("conditions[0].segments", True),
        ("conditions[1].countries", True),
        ("conditions[2].channels", False),
        ("currency_code", True),
        ("conditions[3].amount", False),
        ("expression", True),
        ("effects", True),
    ]
    by_path = {entry.path: entry for entry in trace}
    assert by_path["schedule"].note == "opens next at 2026-11-24T00:00:00Z"
    assert by_path["conditions[0].segments"].saw == "vip"
    assert (
        by_path["conditions[1].countries"].note == "customer.country_code was not sent, so it holds all the same (OPEN)"
    )
    assert (by_path["conditions[3].amount"].wanted, by_path["conditions[3].amount"].saw) == (
        "min_minor=7001 basis=INITIAL",
        "7000",
    )


# -- definitions that contradict themselves ---------------------------------------------------------------------------


def test_every_contradiction_is_told_at_once_in_the_names_of_the_interface() -> None:
    definition = Definition(
        display_name="x",
        effects=(
            Effect(kind=PercentOff(basis_points=1, target=Target(lines=SHOES, units=2)), max_amount_minor=1),
            Effect(kind=Bundle(items=(BundleItem(sku="a", quantity=1),) * 2, price_minor=1)),
            Effect(kind=FreeUnits(quantity=1, sku="mug", lines=SHOES), max_units=1),
            Effect(kind=FreeShipping(), max_amount_per_line_minor=1),
            Effect(kind=BuyXGetY(buy_quantity=1, get_quantity=1, buy=LineSelector(skus=("a",), excluded_skus=("a",)))),
        ),
        conditions=tuple(
            Condition(test=test)
            for test in (
                Segments(all=("a",), none=("a",)),
                Countries(any=("DE",), none=("DE", "AT", "no")),
                OrderNumber(min=3, max=2),
                Amount(),
                Lines(lines=LineSelector()),
            )
        ),
        start_time_ms=ms(NOON),
        end_time_ms=ms(NOON),
        schedule=Schedule(time_zone="Europe/Atlantis", weekly=(WeeklyWindow(start_time="25:00", end_time="26:00"),)),
        eligible_lines=LineSelector(categories=("x",), excluded_categories=("x",)),
        expression=CelExpression(text="customer.contry == 'DE'"),
    )
    violations = check(definition)
    assert [violation.field for violation in violations] == [
        "end_time",
        "currency_code",
        "currency_code",
        "currency_code",
        "currency_code",
        "effects[0].percent_off.target.lines",
        "effects[0].percent_off.target.units",
        "effects[1].bundle.items[1].sku",
        "effects[2].free_units.lines",
        "effects[2].max_units",
        "effects[3].max_amount_per_line_minor",
        "effects[4].buy_x_get_y.buy",
        "conditions[0].segments.none",
        "conditions[1].countries.none",
        "conditions[1].countries.none[2]",
        "conditions[2].order_number.max",
        "conditions[3].amount",
        "conditions[4].lines.lines",
        "eligible_lines",
        "expression.text",
        "schedule.time_zone",
        "schedule.weekly[0].start_time",
        "schedule.weekly[0].end_time",
    ]
    assert all(violation.description for violation in violations)
    assert "line 1, column 9" in violations[19].description


def test_a_window_that_never_opens_is_refused() -> None:
    # The campaign lasts from Monday to Wednesday, the window opens on Sundays.
    schedule = Schedule(weekly=(WeeklyWindow(weekdays=(), start_time="10:00", end_time="11:00"),))
    short = sale(start_time_ms=ms(NOON), end_time_ms=ms(NOON + timedelta(hours=2)), schedule=schedule)
    assert [violation.field for violation in check(short)] == ["schedule"]
    longer = sale(start_time_ms=ms(NOON), end_time_ms=ms(NOON + timedelta(hours=24)), schedule=schedule)
    assert check(longer) == []


def test_what_ends_before_it_starts_has_ended_only_from_its_start_on() -> None:
    # No operator can define that; a stored definition that says so is judged in the right span all the same.
    start, end = NOON, NOON - timedelta(days=9)
    evaluator = Evaluator(Campaign("c", 1, sale(start_time_ms=ms(start), end_time_ms=ms(end)), 0))
    before = evaluator.evaluate(Customer(id="c-1"), Basket(ORDER), CODE, ms(start) - 1)
    assert (refusal(before).reason, before.until_ms) == (Reason.CAMPAIGN_NOT_STARTED, ms(start))
    after = evaluator.evaluate(Customer(id="c-1"), Basket(ORDER), CODE, ms(start))
    assert (refusal(after).reason, after.from_ms) == (Reason.CAMPAIGN_ENDED, ms(start))
