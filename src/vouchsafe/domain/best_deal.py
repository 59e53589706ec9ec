"""The best deal that several codes give on one order: which of them, and in which order.

The search walks through the orders of application, depth first. Two of them that leave the same of every line after the
same codes are one; and a branch ends where even the most that the other codes could give would not beat the best found.
That is exact, up to 8 codes and while the budget of work lasts; otherwise the best code is taken next, again and again.
"""

from __future__ import annotations

from collections.abc import Sequence

from vouchsafe.domain.combine import (
    Bench,
    Candidate,
    Combination,
    Combining,
    Coverage,
    Sequencing,
    apply_in_order,
    by_priority,
)
from vouchsafe.domain.evaluator import TraceEntry
from vouchsafe.domain.order import Customer, Order
from vouchsafe.domain.pricing import Basket, Discount
from vouchsafe.domain.reasons import Refusal
from vouchsafe.domain.rest import NO_RESTS, Rests

MAX_EXACT_CODES = 8
# What a search may cost, about 50 ms: an evaluation counts as EVALUATION_COST and a unit for each line.
EVALUATION_COST = 10
WORK_BUDGET = 60_000

# How good a deal is: the sum, then the units granted, then the fewer codes the better.
Score = tuple[int, int, int]


def combine(
    customer: Customer,
    order: Order,
    candidates: Sequence[Candidate],
    now_ms: int,
    combining: Combining,
    traces: dict[str, list[TraceEntry]] | None = None,
    rests: Rests = NO_RESTS,
) -> Combination:
    """How the codes of a request go together on an order, as of `now_ms`.

    Codes are different. With ALL_OR_NOTHING, what is left out is told all the same; it is for the caller to refuse.
    `traces` takes what was looked at, under each code. `rests` are budgets that are known not to cover everything.
    """
    bench = Bench(customer, order, now_ms, rests)
    in_order = by_priority(candidates)
    if combining.sequencing is Sequencing.PRIORITY or len(candidates) == 1:
        found = apply_in_order(bench, in_order, combining.max_codes, traces)
        return found if combining.sequencing is Sequencing.PRIORITY else found._replace(is_best=True)
    search = _Search(bench, in_order, combining)
    is_best = len(candidates) <= MAX_EXACT_CODES and search.exactly()
    if not is_best:
        search.greedily()
    chosen = [in_order[i] for i in search.best]
    others = [candidate for i, candidate in enumerate(in_order) if i not in search.best]
    return apply_in_order(bench, [*chosen, *others], combining.max_codes, traces)._replace(is_best=is_best)


class _Search:
    """One search. Codes are named by their index in the fixed order, with which it begins."""

    def __init__(self, bench: Bench, candidates: Sequence[Candidate], combining: Combining) -> None:
        self._bench = bench
        self._candidates = candidates
        self._size = min(combining.max_codes or len(candidates), len(candidates))
        self._needs_all = combining.coverage is Coverage.ALL_OR_NOTHING and self._size == len(candidates)
        self._combines = [
            [one.evaluator.stacking.combines_with(other.evaluator.stacking) for other in candidates]
            for one in candidates
        ]
        self._work = 0
        self._cost = EVALUATION_COST + len(bench.order.lines)
        self._seen: set[tuple[int, tuple[int, ...], int, frozenset[tuple[str, int]]]] = set()
        self._ceilings = [candidate.evaluator.ceiling_minor(bench.order) for candidate in candidates]
        self.best: tuple[int, ...] = ()
        self._best_score: tuple[bool, Score] = (False, (0, 0, 0))
        fixed = apply_in_order(bench, candidates, combining.max_codes)
        self._note(
            tuple(candidates.index(applied.candidate) for applied in fixed.applied),
            (fixed.discount_minor, sum(len(applied.discount.granted_units) for applied in fixed.applied), 0),
        )

    def exactly(self) -> bool:
        """Looks at every order that could be the best; False when the budget ran out first."""
        return self._extend((), (0, 0, 0), Basket(self._bench.order))

    def greedily(self) -> None:
        """Takes what gives most next, until nothing gives anything."""
        basket = Basket(self._bench.order)
        chosen: tuple[int, ...] = ()
        score = (0, 0, 0)
        while True:
            found = [(i, self._bench.judge(self._candidates[i], basket)) for i in self._open(chosen)]
            gains = [(discount, i) for i, discount in found if isinstance(discount, Discount)]
            if not gains:
                return
            discount, i = max(gains, key=lambda gain: (gain[0].applied_minor, -gain[1]))
            chosen, score = (*chosen, i), _plus(score, discount)
            self._bench.take(self._candidates[i], discount, basket)
            self._note(chosen, score)

    def _extend(self, chosen: tuple[int, ...], score: Score, basket: Basket) -> bool:
        self._note(chosen, score)
        open_codes = self._open(chosen)
        if not self._could_win(chosen, score, open_codes, basket):
            return True
        mask = sum([1 << i for i in chosen])
        for i in open_codes:
            self._work += self._cost
            if self._work > WORK_BUDGET:
                return False
            outcome = self._bench.judge(self._candidates[i], basket)
            if isinstance(outcome, Refusal):
                continue
            after = basket.copy()
            self._bench.take(self._candidates[i], outcome, after)
            # What is left, after the same codes, is all that matters to the others.
            state = (mask | 1 << i, tuple(after.left), after.shipping_left, frozenset(after.spent.items()))
            if state in self._seen:
                continue
            self._seen.add(state)
            if not self._extend((*chosen, i), _plus(score, outcome), after):
                return False
        return True

    def _open(self, chosen: tuple[int, ...]) -> list[int]:
        """The codes that may still be applied beside those chosen."""
        if len(chosen) >= self._size:
            return []
        return [
            i
            for i in range(len(self._candidates))
            if i not in chosen and all(self._combines[i][other] for other in chosen)
        ]

    def _could_win(self, chosen: tuple[int, ...], score: Score, open_codes: list[int], basket: Basket) -> bool:
        if not open_codes or (self._needs_all and len(chosen) + len(open_codes) < len(self._candidates)):
            return False
        has_all, (best, _, _) = self._best_score
        if self._needs_all and not has_all:
            return True
        most = min(sum([self._ceilings[i] for i in open_codes]), sum(basket.left) + basket.shipping_left)
        # As good in money may be better in units.
        return score[0] + most >= best if self._grants(open_codes) else score[0] + most > best

    def _grants(self, open_codes: list[int]) -> bool:
        return any(self._candidates[i].evaluator.grants_units for i in open_codes)

    def _note(self, chosen: tuple[int, ...], score: Score) -> None:
        has_all = not self._needs_all or len(chosen) == len(self._candidates)
        ranked = (has_all, (score[0], score[1], -len(chosen)))
        if ranked > self._best_score:
            self.best, self._best_score = chosen, ranked


def _plus(score: Score, discount: Discount) -> Score:
    return (score[0] + discount.applied_minor, score[1] + len(discount.granted_units), 0)
