"""What a campaign takes off, to the minor unit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vouchsafe.domain.campaign import AmountDiscount, Definition, Discount, Limits, PercentDiscount
from vouchsafe.domain.discount import discount_minor
from vouchsafe.domain.errors import InvalidRequest
from vouchsafe.domain.order import MAX_AMOUNT_MINOR, Line, Order
from vouchsafe.domain.reasons import Reason, Refusal


def order(*prices: int, currency_code: str = "EUR") -> Order:
    lines = tuple(Line(sku=f"sku-{price}", quantity=1, unit_price_minor=price) for price in prices)
    return Order(id="order-1", currency_code=currency_code, lines=lines)


def taken_off(discount: Discount, *prices: int, currency_code: str = "EUR") -> int | Refusal:
    return discount_minor(Definition("name", discount), order(*prices, currency_code=currency_code), "CODE")


@pytest.mark.parametrize(
    ("discount", "prices", "expected"),
    [
        (PercentDiscount(1_000), (1_000,), 100),
        (PercentDiscount(1_250), (999,), 125),  # 124.875
        (PercentDiscount(5_000), (1,), 1),  # half a cent is rounded up
        (PercentDiscount(4_999), (1,), None),  # less than half a cent has no effect
        (PercentDiscount(10_000), (1_999, 1), 2_000),
        (PercentDiscount(1_000), (0,), None),
        (AmountDiscount("EUR", 500), (400, 99), 499),  # never more than the order
        (AmountDiscount("EUR", 500), (501,), 500),
        (AmountDiscount("EUR", 500), (0,), None),
    ],
)
def test_takes_off(discount: Discount, prices: tuple[int, ...], expected: int | None) -> None:
    found = taken_off(discount, *prices)
    assert found == (Refusal(Reason.NO_EFFECT, "CODE") if expected is None else expected)


def test_another_currency_is_refused_with_both_named() -> None:
    assert taken_off(AmountDiscount("EUR", 500), 1_000, currency_code="JPY") == Refusal(
        Reason.CURRENCY_MISMATCH, "CODE", {"expected_currency_code": "EUR", "order_currency_code": "JPY"}
    )


@given(
    discount=st.one_of(
        st.builds(PercentDiscount, st.integers(1, 10_000)),
        st.builds(AmountDiscount, st.just("EUR"), st.integers(1, MAX_AMOUNT_MINOR)),
    ),
    prices=st.lists(st.integers(0, 10**12), min_size=1, max_size=20),
)
def test_is_between_nothing_and_the_order(discount: Discount, prices: list[int]) -> None:
    found = taken_off(discount, *prices)
    if isinstance(found, Refusal):
        assert found.reason is Reason.NO_EFFECT
    else:
        assert 1 <= found <= sum(prices)


def test_an_order_too_large_to_add_up_exactly_is_refused() -> None:
    at_most = Order("o", "EUR", (Line("sku", 10_000, MAX_AMOUNT_MINOR // 10_000),))
    assert at_most.amount_minor == MAX_AMOUNT_MINOR
    with pytest.raises(InvalidRequest, match=r"order\.lines: add up to 1000000000000001"):
        Order("o", "EUR", (*at_most.lines, Line("sku", 1, 1)))


@given(
    discount=st.one_of(
        st.builds(PercentDiscount, st.integers(1, 10_000)),
        st.builds(AmountDiscount, st.sampled_from(["EUR", "JPY"]), st.integers(1, 10**15)),
    ),
    limits=st.builds(Limits, st.none() | st.integers(1), st.none() | st.integers(1)),
    start_ms=st.none() | st.integers(0, 10**14),
    end_ms=st.none() | st.integers(0, 10**14),
    name=st.text(max_size=50),
)
def test_a_definition_is_read_back_as_it_was_written(
    discount: Discount, limits: Limits, start_ms: int | None, end_ms: int | None, name: str
) -> None:
    definition = Definition(name, discount, limits, start_ms, end_ms)
    assert Definition.from_json(definition.to_json()) == definition
