"""Rules in CEL: mistakes are found when they are written, and no rule can hurt the process that evaluates it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vouchsafe.domain.expression import MAX_LENGTH, Expression, Outcome, check, facts
from vouchsafe.domain.order import Customer, Line, Order

NOW_MS = 1_700_000_000_000  # 2023-11-14T22:13:20Z
CUSTOMER = Customer(
    id="alice",
    segments=("vip",),
    country_code="DE",
    attributes={"last_order_time": "2023-01-01T00:00:00Z", "birthday": "soon"},
)
ORDER = Order(
    id="order-1",
    currency_code="EUR",
    channel="web",
    lines=(Line(sku="shirt", quantity=2, unit_price_minor=1_000, categories=("sale",)),),
)
LARGE_CUSTOMER = Customer(id="c" * 256, attributes={f"k{n}": "c" * 256 for n in range(64)})
LARGE_ORDER = Order(
    id="order-1",
    currency_code="EUR",
    lines=tuple(
        Line(sku=f"s{n}", quantity=1, unit_price_minor=1, categories=tuple(f"{m}-{'c' * 60}" for m in range(32)))
        for n in range(200)
    ),
)
EVERY_CATEGORY = "order.lines.all(l, l.categories.all(c, {}))"


def evaluated(text: str, customer: Customer = CUSTOMER, order: Order = ORDER) -> tuple[Outcome, str]:
    return Expression(text).evaluate(*facts(customer, order), NOW_MS)


@pytest.mark.parametrize(
    "text",
    [
        'customer.country_code == "DE" && order.amount_minor >= 2000',
        "order.quantity == 2 && order.shipping_minor == 0",
        'order.lines.exists(l, "sale" in l.categories && l.unit_price_minor > 500)',
        'order.lines.filter(l, l.sku == "shirt").size() == 1',
        '"vip" in customer.segments && customer.id in ["alice", "bob"]',
        'customer.id.matches("^a.*e$")',
        '{"EUR": 1000, "JPY": 100000}[order.currency_code] < order.amount_minor',
        "order.metadata.size() == 0",
        'now - timestamp(customer.attributes["last_order_time"]) > duration("4320h")',
        'now.getHours("Europe/Berlin") == 23 && now.getHours() == 22 && now.getHours("+02:00") == 0',
        'has(customer.country_code) && !has(customer.region_code) && !("x" in customer.attributes)',
        '!has(customer.region_code) || customer.region_code == "BY"',
        'customer.region_code == "BY" || order.channel == "web"',
    ],
)
def test_holds(text: str) -> None:
    assert evaluated(text) == (Outcome.HOLDS, "")


def test_fails() -> None:
    assert evaluated('customer.country_code == "FR"') == (Outcome.FAILS, "")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('customer.contry == "DE"', "line 1, column 9: undefined field 'contry'"),
        ("order.quantity > 1 &&\n  customer.id > 3", "line 2, column 15: found no matching overload"),
        ("custmer.id == ''", "line 1, column 8: undeclared reference to 'custmer.id'"),
        ("order.lines.all(l,", "line 1, column 19: Syntax error"),
        ("", "is empty"),
        (" \n", "is empty"),
        ("true" + " " * MAX_LENGTH, "at most 1000"),
        ("customer.id", "type STRING; it has to be a bool"),
        ("customer.id\0 == ''", "NUL"),
        ("customer.id == '\ud800'", "surrogate"),
        ("order.lines.all(a, order.lines.all(b, order.lines.all(c, true)))", "more than 2 deep"),
        ('customer.id.matches("(")', "line 1, column 20: this regular expression is none"),
        ("customer.id.matches(customer.email)", "has to be written out"),
        ('order.lines.all(l, l.sku.matches("a"))', "cannot stand in a loop"),
        ('customer.id.matches("(.?){500}")', "no count after a group"),
        ('now.getHours("Nowhere") == 1', "IANA"),
        ('now.getHours("localtime") == 1', "IANA"),
        ('now.getHours("/dev/stdin") == 1', "IANA"),
        ("now.getHours(customer.id) == 1", "IANA"),
        ('vouchsafe.rules.Customer{id: "a"}.id == "a"', "messages cannot be built"),
        # What would grow or run without bound.
        ('"a" + "b" == "ab"', "no matching overload for '_+_'"),
        ("(order.lines + order.lines).size() > 1", "lists cannot be added up"),
        ("[[1]]" + ".map(x, [x, x])" * 20 + ".size() == 1", "undeclared reference to 'map'"),
        ("order.lines == order.lines", "no matching overload for '_==_'"),
        ("[1, 'a'].all(x, x == x)", "do not mix types"),
        ("dyn(1) == 1", "undeclared reference to 'dyn'"),
    ],
)
def test_is_refused_and_told_why_and_where(text: str, problem: str) -> None:
    assert problem in "; ".join(check(text))
    with pytest.raises(ValueError, match=r"."):
        Expression(text)


def test_several_problems_are_told_at_once() -> None:
    assert [problem[:17] for problem in check("customer.a == 1 ||\norder.b == 2")] == [
        "line 1, column 9:",
        "line 2, column 6:",
    ]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('customer.region_code == "BY"', "region_code"),
        ('customer.region_code != "BY"', "region_code"),
        ('customer.attributes["x"] == "1"', "x"),
        ("customer.order_count == 0", "order_count"),
        ('order.lines.all(l, l.product_id == "p")', "product_id"),
    ],
)
def test_what_was_not_sent_is_missing_and_does_not_fail(text: str, key: str) -> None:
    assert evaluated(text) == (Outcome.MISSING, key)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("order.quantity / order.shipping_minor == 1", "divide by zero"),
        ("order.quantity + 9223372036854775807 > 0", "integer overflow"),
        ("order.lines[7].quantity == 1", "Index error"),
        ('timestamp(customer.attributes["birthday"]) < now', "String to Timestamp conversion failed"),
    ],
)
def test_what_has_no_value_is_an_error(text: str, reason: str) -> None:
    outcome, why = evaluated(text)
    assert outcome is Outcome.ERROR
    assert reason in why


def test_a_runaway_loop_is_an_error() -> None:
    found = evaluated("order.lines.all(a, order.lines.all(b, true))", LARGE_CUSTOMER, LARGE_ORDER)
    assert found == (Outcome.ERROR, "Iteration budget exceeded")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now > timestamp(0)", True),
        ("true", False),
        ('customer.id == "now"', False),
        ("[1].exists(now, now == 1)", False),  # its own variable
        ("[1].exists(now, now == 1) && now > timestamp(0)", True),
    ],
)
def test_whether_it_reads_the_time(text: str, expected: bool) -> None:
    assert Expression(text).uses_now is expected


def test_facts_leave_out_what_was_not_sent() -> None:
    customer, order = facts(
        Customer(id="a"), Order(id="o", currency_code="EUR", lines=(Line(sku="s", quantity=2, unit_price_minor=5),))
    )
    assert customer == {"id": "a", "segments": [], "attributes": {}}
    assert order == {
        "id": "o",
        "currency_code": "EUR",
        "metadata": {},
        "amount_minor": 10,
        "quantity": 2,
        "shipping_minor": 0,
        "lines": [{"sku": "s", "categories": [], "quantity": 2, "unit_price_minor": 5}],
    }


@pytest.mark.parametrize(
    ("customer", "now_ms"),
    [({}, 0), ({"id": 1 << 70}, 0), ({"id": "\ud800"}, 0), ({"id": object()}, 0), ({"id": "a"}, 10**30), (None, 0)],
)
def test_facts_that_are_none_never_raise(customer: Any, now_ms: int) -> None:
    outcome, _ = Expression('customer.id == "b" || now < timestamp(0)').evaluate(customer, {}, now_ms)
    assert outcome in (Outcome.FAILS, Outcome.MISSING, Outcome.ERROR)


@pytest.mark.parametrize(
    "text",
    [
        EVERY_CATEGORY.format("&&".join(['!customer.id.contains("cd")'] * 33)),
        EVERY_CATEGORY.format("&&".join(["now == timestamp(string(now))"] * 30)),
        EVERY_CATEGORY.format("[" + ",".join(["[]"] * 310) + "].size() > 0"),
        "&&".join(['!customer.id.matches("\\\\W{999}z")'] * 27),
        "&&".join(['!customer.id.matches("(?i)' + "[^äöſ]{50}" * 8 + 'z")'] * 8),
    ],
    ids=["contains", "times", "lists", "large-regex", "wide-regex"],
)
def test_the_slowest_expressions_are_bounded(text: str) -> None:
    expression, (customer, order) = Expression(text), facts(LARGE_CUSTOMER, LARGE_ORDER)
    before = time.process_time()
    outcome, _ = expression.evaluate(customer, order, NOW_MS)
    assert time.process_time() - before < 1.0
    assert outcome is Outcome.HOLDS  # nothing was cut short


@pytest.mark.parametrize(
    "unit", ["(", "[", "{1:", "-", "!", "[1].all(x,", "a{", "true?", "a.", "f(", "has(", '"', "`", "1+", "\\", "9"]
)
def test_nesting_and_repetition_never_crash(unit: str) -> None:
    assert check(unit * (990 // len(unit)))


PIECES = st.sampled_from(
    [
        *(
            "customer",
            "order",
            "now",
            ".id",
            ".lines",
            ".attributes",
            '["x"]',
            ".order_count",
            ".quantity",
            "true",
            "1",
        ),
        *(
            "&&",
            "||",
            "==",
            "!=",
            "<",
            "+",
            "-",
            "*",
            "/",
            "%",
            "?",
            ":",
            "(",
            ")",
            "[",
            "]",
            "{",
            "}",
            ",",
            "!",
            " in ",
        ),
        *(
            ".all(x,",
            ".exists(x,",
            ".filter(x,",
            "x",
            ".size()",
            "timestamp(",
            'duration("1h")',
            '"a"',
            "0",
            "2.5",
            "\n",
        ),
        *("has(", "string(", "int(", ".matches(", ".getHours(", "null", "'\\ud800'", "9223372036854775807"),
    ]
)
ATOMS = st.sampled_from(
    [
        "order.quantity",
        "order.shipping_minor",
        "customer.order_count",
        "1",
        "0",
        "9223372036854775807",
        "order.lines.size()",
    ]
)
NUMBERS = st.recursive(
    ATOMS,
    lambda inner: st.tuples(inner, st.sampled_from("+-*/%"), inner).map(lambda t: f"({''.join(t)})"),
    max_leaves=8,
)
BOOLEANS = st.recursive(
    st.tuples(NUMBERS, st.sampled_from(["<", "==", ">="]), NUMBERS).map("".join)
    | st.sampled_from(
        ['customer.region_code == "a"', 'customer.attributes["x"] == ""', "now > timestamp(string(now))"]
    ),
    lambda inner: (
        st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map("".join)
        | inner.map(lambda text: f"!({text})")
        | inner.map(lambda text: f"order.lines.exists(x, x.quantity > 1 && ({text}))")
    ),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(text=st.text(max_size=200) | st.lists(PIECES, max_size=30).map("".join) | BOOLEANS)
def test_no_text_raises_and_what_passes_evaluates(text: str) -> None:
    if not check(text):
        outcome, why = evaluated(text)
        assert bool(why) == (outcome in (Outcome.MISSING, Outcome.ERROR))
