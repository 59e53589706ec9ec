"""Several codes on one order: which apply, in which order, and the best deal of them."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_discount import effects, orders
from tests.values import amount, percent
from vouchsafe.domain import best_deal
from vouchsafe.domain.best_deal import combine
from vouchsafe.domain.campaign import Campaign, CodeEntry, CombineMode, Definition, Stacking
from vouchsafe.domain.combine import Bench, Candidate, Combination, Combining, Coverage, Sequencing, apply_in_order
from vouchsafe.domain.conditions import Amount, Basis, Condition
from vouchsafe.domain.effects import Effect
from vouchsafe.domain.evaluator import Evaluator
from vouchsafe.domain.order import Customer, Line, Order
from vouchsafe.domain.reasons import Reason

SHOPPER = Customer(id="c-1")
ORDER = Order(
    id="o",
    currency_code="EUR",
    lines=(Line(sku="a", quantity=1, unit_price_minor=10_000), Line(sku="b", quantity=2, unit_price_minor=500)),
)
JOINT = Stacking(mode=CombineMode.JOINT)
PART = Combining(coverage=Coverage.APPLICABLE_PART)
BEST = Combining(sequencing=Sequencing.BEST_DEAL, coverage=Coverage.APPLICABLE_PART)


def candidate(
    name: str,
    effects: tuple[Effect, ...],
    stacking: Stacking = JOINT,
    conditions: tuple[Condition, ...] = (),
) -> Candidate:
    definition = Definition(
        display_name=name, effects=effects, currency_code="EUR", stacking=stacking, conditions=conditions
    )
    return Candidate(CodeEntry(name, name.lower(), None), Evaluator(Campaign(name.lower(), 1, definition, 0)))


def codes(found: Combination) -> list[str]:
    return [applied.candidate.code.code for applied in found.applied]


def stacked(mode: str, group: str = "", priority: int = 0, basis: str = "REMAINING") -> Stacking:
    return Stacking(mode=CombineMode(mode), group=group, priority=priority, basis=Basis(basis))


def test_codes_follow_priority_and_then_the_order_given() -> None:
    given_codes = [
        candidate("FIRST", percent(1_000)),
        candidate("LOW", percent(1_000), stacked("JOINT", priority=-1)),
        candidate("HIGH", percent(1_000), stacked("JOINT", priority=7)),
        candidate("SECOND", percent(1_000)),
    ]
    found = combine(SHOPPER, ORDER, given_codes, 0, PART)
    assert codes(found) == ["HIGH", "FIRST", "SECOND", "LOW"]
    assert [applied.discount.applied_minor for applied in found.applied] == [1_100, 990, 891, 802]


def test_a_discount_is_worked_out_on_the_initial_or_the_remaining_amount() -> None:
    first = candidate("A", percent(5_000))
    on_initial = candidate("B", percent(5_000), stacked("JOINT", basis="INITIAL"))
    on_remaining = candidate("C", percent(5_000))
    assert combine(SHOPPER, ORDER, [first, on_initial], 0, PART).discount_minor == 11_000
    assert combine(SHOPPER, ORDER, [first, on_remaining], 0, PART).discount_minor == 8_250


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        (stacked("EXCLUSIVE"), stacked("EXCLUSIVE"), False),
        (stacked("EXCLUSIVE"), stacked("GROUPED", "g"), False),
        (stacked("EXCLUSIVE"), stacked("JOINT"), True),
        (stacked("GROUPED", "g"), stacked("GROUPED", "g"), False),
        (stacked("GROUPED", "g"), stacked("GROUPED", "h"), True),
        (stacked("GROUPED", "g"), stacked("JOINT"), True),
        (stacked("JOINT"), stacked("JOINT"), True),
    ],
    ids=str,
)
def test_groups_say_what_combines(one: Stacking, other: Stacking, together: bool) -> None:
    for pair in ((one, other), (other, one)):
        candidates = [candidate(f"C{n}", percent(1_000), stacking) for n, stacking in enumerate(pair)]
        found = combine(SHOPPER, ORDER, candidates, 0, PART)
        assert len(found.applied) == (2 if together else 1)
        if not together:
            assert [(skipped.reason, skipped.metadata) for skipped in found.skipped] == [
                (Reason.NOT_COMBINABLE, {"other_code": "C0"})
            ]


def test_every_code_is_accounted_for() -> None:
    # spree PR 14569: an ineligible code failed silently
    candidates = [
        candidate("YES", percent(1_000)),
        candidate("DEAR", percent(1_000), conditions=(Condition(test=Amount(min_minor=10**9)),)),
        candidate("ALONE", percent(1_000), stacked("EXCLUSIVE")),
        candidate("EXTRA", percent(1_000)),
        candidate("MORE", percent(1_000)),
    ]
    found = combine(SHOPPER, ORDER, candidates, 0, Combining(max_codes=3))
    assert codes(found) == ["YES", "ALONE", "EXTRA"]
    assert [(refusal.code, refusal.reason) for refusal in found.inapplicable] == [("DEAR", Reason.AMOUNT_OUT_OF_RANGE)]
    assert [(refusal.code, refusal.reason) for refusal in found.skipped] == [("MORE", Reason.TOO_MANY_CODES)]


def test_what_others_left_may_be_too_little() -> None:
    half = candidate("HALF", percent(5_000))
    rich = candidate(
        "RICH", percent(1_000), conditions=(Condition(test=Amount(min_minor=9_000, basis=Basis.REMAINING)),)
    )
    assert codes(combine(SHOPPER, ORDER, [half, rich], 0, PART)) == ["HALF"]
    assert codes(combine(SHOPPER, ORDER, [rich, half], 0, PART)) == ["RICH", "HALF"]
    # The best deal finds the order in which both apply.
    found = combine(SHOPPER, ORDER, [half, rich], 0, BEST)
    assert (codes(found), found.is_best) == (["RICH", "HALF"], True)


def test_the_best_deal_takes_percents_before_sums() -> None:
    found = combine(SHOPPER, ORDER, [candidate("SUM", amount(1_000)), candidate("PERCENT", percent(5_000))], 0, BEST)
    assert codes(found) == ["PERCENT", "SUM"]
    assert found.discount_minor == 6_500


def test_the_best_deal_of_an_exclusive_code_and_many_small_ones() -> None:
    small = [candidate(f"S{n}", percent(500), stacked("GROUPED", f"g{n}")) for n in range(4)]
    alone = candidate("ALONE", percent(1_500), stacked("EXCLUSIVE"))
    assert codes(combine(SHOPPER, ORDER, [alone, *small], 0, BEST)) == ["S0", "S1", "S2", "S3"]
    better = candidate("ALONE", percent(2_500), stacked("EXCLUSIVE"))
    found = combine(SHOPPER, ORDER, [*small, better], 0, BEST)
    assert codes(found) == ["ALONE"]
    assert {refusal.reason for refusal in found.skipped} == {Reason.NOT_COMBINABLE}


def test_all_or_nothing_prefers_an_order_in_which_all_apply() -> None:
    free = candidate("FREE", percent(10_000))
    some = candidate("SOME", percent(1_000))
    wanted = Combining(sequencing=Sequencing.BEST_DEAL)
    assert sorted(codes(combine(SHOPPER, ORDER, [free, some], 0, wanted))) == ["FREE", "SOME"]


def test_a_search_that_takes_too_long_says_so_and_is_no_worse_than_the_fixed_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    candidates = [candidate(f"P{n}", percent(701 + 97 * n)) for n in range(8)]
    exact = combine(SHOPPER, ORDER, candidates, 0, BEST)
    assert exact.is_best is True
    monkeypatch.setattr(best_deal, "WORK_BUDGET", 100)
    hasty = combine(SHOPPER, ORDER, candidates, 0, BEST)
    assert hasty.is_best is False
    assert combine(SHOPPER, ORDER, candidates, 0, PART).discount_minor <= hasty.discount_minor <= exact.discount_minor
    nine = [*candidates, candidate("NINTH", percent(100))]
    assert combine(SHOPPER, ORDER, nine, 0, BEST).is_best is False


stackings = st.one_of(
    st.builds(Stacking, mode=st.just(CombineMode.JOINT), basis=st.sampled_from(list(Basis))),
    st.builds(Stacking, mode=st.just(CombineMode.JOINT), priority=st.integers(-2, 2)),
    st.builds(Stacking, mode=st.just(CombineMode.GROUPED), group=st.sampled_from(["g", "h", "i"])),
    st.just(Stacking()),
)
conditions_on_amounts = st.one_of(
    st.just(()),
    st.just(()),
    st.builds(
        lambda low, basis: (Condition(test=Amount(min_minor=low, basis=basis)),),
        st.integers(1, 5_000),
        st.sampled_from(list(Basis)),
    ),
    st.builds(lambda high: (Condition(test=Amount(max_minor=high, basis=Basis.REMAINING)),), st.integers(0, 5_000)),
)
codes_of_campaigns = st.lists(
    st.tuples(st.lists(effects, min_size=1, max_size=2).map(tuple), stackings, conditions_on_amounts),
    min_size=2,
    max_size=4,
)


def brute_force(order: Order, candidates: list[Candidate], max_codes: int | None) -> int:
    """The most that any order of application takes off, every one of them tried."""
    return max(
        apply_in_order(Bench(SHOPPER, order, 0), list(sequence), max_codes).discount_minor
        for sequence in permutations(candidates)
    )


@given(orders, codes_of_campaigns, st.none() | st.integers(1, 3))
def test_the_best_deal_is_what_trying_every_order_finds(
    order: Order,
    drawn: list[tuple[tuple[Effect, ...], Stacking, tuple[Condition, ...]]],
    max_codes: int | None,
) -> None:
    candidates = [candidate(f"C{n}", *parts) for n, parts in enumerate(drawn)]
    combining = Combining(sequencing=Sequencing.BEST_DEAL, coverage=Coverage.APPLICABLE_PART, max_codes=max_codes)
    found = combine(SHOPPER, order, candidates, 0, combining)
    assert found.is_best is True
    assert found.discount_minor >= brute_force(order, candidates, max_codes)
    assert len(found.applied) + len(found.inapplicable) + len(found.skipped) == len(candidates)


@pytest.mark.parametrize("seed", range(3))
def test_the_best_deal_of_six_codes_is_what_trying_every_order_finds(seed: int) -> None:
    order = Order(
        id="o",
        currency_code="EUR",
        lines=tuple(
            Line(sku=f"s{n}", quantity=1 + n % 2, unit_price_minor=(997 * (n + seed)) % 5_000) for n in range(5)
        ),
    )
    candidates = [
        candidate("P1", percent(1_111 + seed)),
        candidate("P2", percent(2_503), stacked("JOINT", basis="INITIAL")),
        candidate("A1", amount(1_501)),
        candidate(
            "A2", amount(333 + 100 * seed), conditions=(Condition(test=Amount(min_minor=3_000, basis=Basis.REMAINING)),)
        ),
        candidate("G1", percent(1_900), stacked("GROUPED", "g")),
        candidate("G2", amount(1_777), stacked("GROUPED", "g")),
    ]
    found = combine(SHOPPER, order, candidates, 0, BEST)
    assert found.is_best is True
    assert found.discount_minor == brute_force(order, candidates, None)
