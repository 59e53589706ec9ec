"""What happens at the limit: the rest of a budget, shared out to the last cent, and quotes that may pass it."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_combining import BEST, ORDER, PART, SHOPPER, candidate, codes
from tests.unit.test_discount import effects, orders
from tests.values import a_definition, amount, percent, takes_of
from vouchsafe.domain.best_deal import combine
from vouchsafe.domain.campaign import CodeEntry, Definition
from vouchsafe.domain.check import check
from vouchsafe.domain.effects import Effect, FreeShipping, FreeUnits
from vouchsafe.domain.limits import HonourQuoted, Limits
from vouchsafe.domain.order import Line, Order
from vouchsafe.domain.pricing import Basket, Cap, Discount, Pricer
from vouchsafe.domain.quotes import Quotes, with_quote
from vouchsafe.domain.reasons import Reason, Refusal
from vouchsafe.domain.rest import Rest, rest_of
from vouchsafe.domain.secret import Purpose, derived_key
from vouchsafe.domain.takes import behind

SECRET = "a secret of the tests"  # noqa: S105
PARTIAL = Limits(budget_minor=1_000, partial_budget=True)


def exhausted(limit: int = 1_000, used: int = 1_000, reason: Reason = Reason.BUDGET_EXHAUSTED) -> Refusal:
    return Refusal(reason, "CODE", {"limit": str(limit), "used": str(used)})


def a_rest(minor: int) -> Rest:
    return Rest(minor, exhausted(used=1_000 - minor))


# -- the rest of a budget ----------------------------------------------------------------------------------------------


@given(orders, st.lists(effects, min_size=1, max_size=3), st.integers(0, 10**6))
def test_what_is_cut_adds_up_to_the_rest_exactly(order: Order, parts: list[Effect], rest_minor: int) -> None:
    whole = Pricer(parts, on_initial=False).price(Basket(order), range(len(order.lines)))
    found = whole.within(rest_minor)
    assert found.applied_minor == min(whole.applied_minor, rest_minor)
    assert found.applied_minor == sum(line.applied_minor for line in found.lines) + found.shipping_minor
    assert (found.desired_minor, found.granted_units) == (whole.desired_minor, whole.granted_units)
    assert 0 <= found.shipping_minor <= whole.shipping_minor
    for line, before in zip(found.lines, whole.lines, strict=True):
        assert 0 <= line.applied_minor <= before.applied_minor
        assert (line.line, line.sku, line.desired_minor) == (before.line, before.sku, before.desired_minor)
        assert (Cap.BUDGET in line.caps) == (line.applied_minor < before.applied_minor)
    assert (Cap.BUDGET in found.caps) == (found.applied_minor < whole.applied_minor)
    if found.applied_minor < whole.applied_minor:
        assert found.desired_minor > found.applied_minor
    assert found.within(rest_minor) == found


def test_a_rest_is_shared_by_lines_and_shipping() -> None:
    order = Order(
        id="o",
        currency_code="EUR",
        lines=tuple(Line(sku=f"s{n}", quantity=1, unit_price_minor=1_000) for n in range(3)),
        shipping_minor=1_000,
    )
    both = (*percent(10_000), Effect(kind=FreeShipping()))
    found = Pricer(both, on_initial=False).price(Basket(order), range(3)).within(1_001)
    assert [line.applied_minor for line in found.lines] == [251, 250, 250]
    assert (found.shipping_minor, found.applied_minor, found.desired_minor) == (250, 1_001, 4_000)
    assert found.caps == (Cap.BUDGET,)


@pytest.mark.parametrize(
    ("limits", "refusal", "rest_minor"),
    [
        (PARTIAL, exhausted(used=999), 1),
        (PARTIAL, exhausted(used=300, reason=Reason.CUSTOMER_BUDGET_EXHAUSTED), 700),
        (PARTIAL, exhausted(used=1_000), None),
        (PARTIAL, exhausted(used=1_500), None),  # the budget was lowered
        (PARTIAL, exhausted(used=0, reason=Reason.CAMPAIGN_LIMIT_REACHED), None),
        (Limits(budget_minor=1_000), exhausted(used=300), None),
    ],
)
def test_only_a_budget_has_a_rest(limits: Limits, refusal: Refusal, rest_minor: int | None) -> None:
    rest = rest_of(limits, refusal)
    assert (rest.minor if rest else None) == rest_minor


def test_later_codes_see_what_a_cut_discount_leaves() -> None:
    half, fifth = candidate("HALF", percent(5_000)), candidate("FIFTH", percent(2_000))
    found = combine(SHOPPER, ORDER, [half, fifth], 0, PART, rests={"half": a_rest(1_000)})
    assert [one.discount.applied_minor for one in found.applied] == [1_000, 2_000]
    assert [one.discount.caps for one in found.applied] == [(Cap.BUDGET,), ()]


def test_the_best_deal_knows_what_is_left() -> None:
    # Taking half would be best, if the budget had it; with little left, the sum is.
    one, other = candidate("HALF", percent(5_000)), candidate("SUM", amount(3_000))
    alone = msgspec.structs.replace(BEST, max_codes=1)
    assert codes(combine(SHOPPER, ORDER, [one, other], 0, alone)) == ["HALF"]
    found = combine(SHOPPER, ORDER, [one, other], 0, alone, rests={"half": a_rest(2_999)})
    assert (codes(found), found.is_best) == (["SUM"], True)


def test_codes_of_one_campaign_share_its_rest() -> None:
    first = candidate("A", percent(1_000))
    second = first._replace(code=CodeEntry("B", "a", None))
    found = combine(SHOPPER, ORDER, [first, second], 0, PART, rests={"a": a_rest(1_500)})
    assert [one.discount.applied_minor for one in found.applied] == [1_100, 400]
    spent = combine(SHOPPER, ORDER, [first, second], 0, PART, rests={"a": a_rest(1_100)})
    assert codes(spent) == ["A"]
    assert [(refusal.code, refusal.reason) for refusal in spent.inapplicable] == [("B", Reason.BUDGET_EXHAUSTED)]


def test_a_gift_alone_needs_no_budget_and_goes_with_what_is_left() -> None:
    order = Order(id="o", currency_code="EUR", lines=(Line(sku="a", quantity=1, unit_price_minor=1_000),))
    mug = Effect(kind=FreeUnits(sku="mug", quantity=1))
    gift, both = candidate("GIFT", (mug,)), candidate("BOTH", (mug, *amount(500)))

    def outcome(name: str, rest_minor: int) -> Discount | None:
        found = combine(SHOPPER, order, [gift, both], 0, PART, rests={name: a_rest(rest_minor)})
        return next((one.discount for one in found.applied if one.candidate.code.campaign_id == name), None)

    free, cut = outcome("gift", 0), outcome("both", 1)
    assert free is not None
    assert (free.applied_minor, len(free.granted_units), free.caps) == (0, 1, ())
    assert cut is not None
    assert (cut.applied_minor, len(cut.granted_units), cut.caps) == (1, 1, (Cap.BUDGET,))
    assert outcome("both", 0) is None


def test_takes_behind_others_add_up() -> None:
    limits = Limits(total=5, budget_minor=1_000, distinct_customers=2)
    takes = takes_of(limits, CodeEntry("A", "c", None), SHOPPER, 300)
    earlier: Counter[str] = Counter()
    assert behind(takes, earlier) == takes
    second = {take.field: take.amount for take in behind(takes, earlier)}
    assert (second["uses"], second["money"], second["?distinct:c-1"]) == (2, 600, 1)


# -- quotes ------------------------------------------------------------------------------------------------------------

identifiers = st.text(min_size=1, max_size=8)


@given(st.integers(0, 10**13), identifiers, identifiers, st.lists(identifiers, min_size=1, max_size=4, unique=True))
def test_a_quote_is_known_again_for_what_it_is_about(
    issue_time_ms: int, customer_id: str, order_id: str, of_codes: list[str]
) -> None:
    quotes = Quotes(SECRET)
    token = quotes.token(issue_time_ms, customer_id, order_id, of_codes)
    assert len(token) <= 128
    assert quotes.issue_time_ms(token, customer_id, order_id, of_codes[::-1]) == issue_time_ms
    assert quotes.issue_time_ms(token, customer_id + "x", order_id, of_codes) is None
    assert quotes.issue_time_ms(token, customer_id, order_id + "x", of_codes) is None
    assert quotes.issue_time_ms(token, customer_id, order_id, [*of_codes, "another"]) is None
    assert quotes.issue_time_ms(f"{issue_time_ms + 1}-{token.split('-')[1]}", customer_id, order_id, of_codes) is None
    assert Quotes("another secret").issue_time_ms(token, customer_id, order_id, of_codes) is None


def test_what_is_about_two_words_is_not_about_one() -> None:
    quotes = Quotes(SECRET)
    assert (
        len({quotes.token(1, *about) for about in (("a", "b", ["c"]), ("a b", "", ["c"]), ("a", "b", ["c", ""]))}) == 3
    )


@pytest.mark.parametrize(
    "token",
    ["", "-", "5", "x-y", "5-" + "0" * 32, "5-" + "g" * 32, "\u0665-" + "0" * 32, " 5-0", "9" * 128, "-1-0"],
)
def test_what_is_no_quote_is_none(token: str) -> None:
    assert Quotes(SECRET).issue_time_ms(token, "c", "o", ["A"]) is None


def test_without_a_secret_nothing_is_signed_and_nothing_is_known() -> None:
    assert Quotes("").token(5, "c", "o", ["A"]) == ""
    forged = Quotes(SECRET)
    forged._key = derived_key("", Purpose.QUOTES)
    assert Quotes("").issue_time_ms(forged.token(5, "c", "o", ["A"]), "c", "o", ["A"]) is None


def test_each_purpose_has_a_key_of_its_own() -> None:
    assert len({derived_key(SECRET, purpose) for purpose in Purpose} | {SECRET.encode()}) == 1 + len(Purpose)


def test_a_quote_raises_the_uses_in_all_and_the_budget_and_nothing_else() -> None:
    honour = HonourQuoted(within_ms=1_000, overdraft_uses=5, overdraft_minor=70)
    limits = Limits(
        total=10, per_customer=1, per_code=2, budget_minor=500, customer_budget_minor=100, honour_quoted=honour
    )
    plain = takes_of(limits, CodeEntry("A", "c", None), SHOPPER, 20)
    quoted = takes_of(limits, CodeEntry("A", "c", None), SHOPPER, 20, is_quoted=True)
    raised = {take.field: (take.cap, before.cap) for take, before in zip(quoted, plain, strict=True) if take != before}
    assert raised == {"uses": (15, 10), "money": (570, 500)}
    no_limit = takes_of(Limits(honour_quoted=honour), CodeEntry("A", "c", None), SHOPPER, 20, is_quoted=True)
    assert all(take.cap is None for take in no_limit)


@pytest.mark.parametrize(
    ("refusal", "issue_time_ms", "why"),
    [
        (exhausted(10, 10, Reason.CAMPAIGN_LIMIT_REACHED), None, "invalid"),
        (exhausted(10, 12, Reason.CAMPAIGN_LIMIT_REACHED), 1, "expired"),
        (exhausted(15, 15, Reason.CAMPAIGN_LIMIT_REACHED), 1, None),  # honoured, and there was no more
        (exhausted(500, 500), None, None),  # would not have passed this limit
        (exhausted(10, 10, Reason.CUSTOMER_LIMIT_REACHED), 1, None),
        (Refusal(Reason.CAMPAIGN_PAUSED, "A"), 1, None),
    ],
)
def test_a_refusal_says_why_a_quote_was_not_honoured(
    refusal: Refusal, issue_time_ms: int | None, why: str | None
) -> None:
    limits = Limits(total=10, budget_minor=500, honour_quoted=HonourQuoted(within_ms=1, overdraft_uses=5))
    assert with_quote(refusal, limits, issue_time_ms).metadata.get("quote") == why
    assert with_quote(refusal, Limits(total=10, budget_minor=500), issue_time_ms) == refusal


# -- definitions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "fields"),
    [
        (Limits(total=1, partial_budget=True), ["limits.partial_budget"]),
        (PARTIAL, []),
        (Limits(customer_budget_minor=1, partial_budget=True), []),
        (Limits(total=1, honour_quoted=HonourQuoted(within_ms=1)), ["limits.honour_quoted"]),
        (
            Limits(honour_quoted=HonourQuoted(within_ms=1, overdraft_uses=1, overdraft_minor=1)),
            ["limits.honour_quoted.overdraft_uses", "limits.honour_quoted.overdraft_minor"],
        ),
        (Limits(total=1, honour_quoted=HonourQuoted(within_ms=1, overdraft_uses=1)), []),
    ],
)
def test_what_passes_a_limit_needs_one(limits: Limits, fields: list[str]) -> None:
    definition = Definition(display_name="x", effects=percent(1_000), currency_code="EUR", limits=limits)
    assert [violation.field for violation in check(definition)] == fields


def test_a_definition_of_before_is_read_as_it_was_meant() -> None:
    text = a_definition(limits=Limits(total=3, budget_minor=5)).to_json()
    old = text.replace(',"partial_budget":false', "").replace(',"honour_quoted":null', "")
    assert old != text
    assert Definition.from_json(old).limits == Limits(total=3, budget_minor=5)
