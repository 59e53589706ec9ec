"""Several codes on one order: which of them apply, one after the other, and what each takes off.

In the fixed order, codes go by their campaigns' priority, then as they were given; each sees what those before it have
left. `domain.best_deal` looks for the order, and for the part of the codes, that is best for the shopper.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

from vouchsafe.domain.campaign import CodeEntry
from vouchsafe.domain.evaluator import Evaluator, TraceEntry, Verdict
from vouchsafe.domain.order import Customer, Order
from vouchsafe.domain.pricing import Basket, Discount
from vouchsafe.domain.reasons import Reason, Refusal
from vouchsafe.domain.rest import NO_RESTS, Rest, Rests
from vouchsafe.domain.rules import ALWAYS


class Sequencing(StrEnum):
    """In which order codes are applied."""

    PRIORITY = "PRIORITY"
    BEST_DEAL = "BEST_DEAL"


class Coverage(StrEnum):
    """What is wanted when not all codes apply."""

    ALL_OR_NOTHING = "ALL_OR_NOTHING"
    APPLICABLE_PART = "APPLICABLE_PART"


class Combining(msgspec.Struct, frozen=True, kw_only=True):
    """How the codes of a request go together; `max_codes` is how many are applied at most, None: all that do."""

    sequencing: Sequencing = Sequencing.PRIORITY
    coverage: Coverage = Coverage.ALL_OR_NOTHING
    max_codes: int | None = None


class Candidate(NamedTuple):
    """One code of a request with its compiled campaign."""

    code: CodeEntry
    evaluator: Evaluator


class Applied(NamedTuple):
    """One code that applies, and what it takes off."""

    candidate: Candidate
    discount: Discount


class Combination(NamedTuple):
    """The codes that apply, in the order in which they do; those that do not apply to this order; and those that would
    but for the others. As of `now_ms`, and true in [from_ms, until_ms). `is_best` is None when the best deal was not
    asked for, False when the search for it was cut short."""

    applied: tuple[Applied, ...]
    inapplicable: tuple[Refusal, ...]
    skipped: tuple[Refusal, ...]
    now_ms: int
    from_ms: int
    until_ms: int
    is_best: bool | None = None

    @property
    def discount_minor(self) -> int:
        """What all codes take off."""
        return sum([applied.discount.applied_minor for applied in self.applied])

    @property
    def refusal(self) -> Refusal | None:
        """The first, by precedence, of the reasons why codes were left out."""
        return min((*self.inapplicable, *self.skipped), key=lambda refusal: refusal.reason, default=None)


class Bench:
    """Codes being tried on one order, of some of which no more than the rest of a budget is given. Keeps the span of
    time in which all that it was told stays true."""

    def __init__(self, customer: Customer, order: Order, now_ms: int, rests: Rests = NO_RESTS) -> None:
        self._customer = customer
        self._rests = rests
        self.order = order
        self.now_ms = now_ms
        self.from_ms, self.until_ms = ALWAYS

    def judge(self, candidate: Candidate, basket: Basket, trace: list[TraceEntry] | None = None) -> Discount | Refusal:
        """What a code gives on what is left of the order."""
        code = candidate.code
        rest = self._rests.get(code.campaign_id)
        if rest is not None:
            rest = Rest(rest.minor - basket.spent.get(code.campaign_id, 0), rest.told)
        verdict: Verdict = candidate.evaluator.evaluate(self._customer, basket, code, self.now_ms, trace, rest)
        self.from_ms = max(self.from_ms, verdict.from_ms)
        self.until_ms = min(self.until_ms, verdict.until_ms)
        return verdict.outcome

    def take(self, candidate: Candidate, discount: Discount, basket: Basket) -> None:
        """Takes what a code gives off the basket; codes of the same campaign share what is left of its budget."""
        basket.take(discount)
        campaign_id = candidate.code.campaign_id
        if campaign_id in self._rests:
            basket.spent[campaign_id] = basket.spent.get(campaign_id, 0) + discount.applied_minor


def by_priority(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The fixed order: a higher priority first, among equals as given."""
    return sorted(candidates, key=lambda candidate: -candidate.evaluator.stacking.priority)


def apply_in_order(
    bench: Bench,
    candidates: Sequence[Candidate],
    max_codes: int | None,
    traces: dict[str, list[TraceEntry]] | None = None,
) -> Combination:
    """Applies each code on what those before it have left, and says of each that is left out why.

    With `traces`, what was looked at is entered there under each code; then conditions are asked of every code, also
    of one that does not combine.
    """
    basket = Basket(bench.order)
    applied: list[Applied] = []
    inapplicable = []
    skipped = []
    for candidate in candidates:
        trace = None if traces is None else traces.setdefault(candidate.code.code, [])
        hindrance = _hindrance(candidate, applied, max_codes)
        if hindrance is not None:
            skipped.append(hindrance)
            if trace is not None:
                bench.judge(candidate, basket, trace)
            continue
        outcome = bench.judge(candidate, basket, trace)
        if isinstance(outcome, Refusal):
            inapplicable.append(outcome)
        else:
            bench.take(candidate, outcome, basket)
            applied.append(Applied(candidate, outcome))
    return Combination(tuple(applied), tuple(inapplicable), tuple(skipped), bench.now_ms, bench.from_ms, bench.until_ms)


def _hindrance(candidate: Candidate, applied: Sequence[Applied], max_codes: int | None) -> Refusal | None:
    """Why a code cannot join those that are applied, whatever it would give."""
    stacking = candidate.evaluator.stacking
    for other in applied:
        if not stacking.combines_with(other.candidate.evaluator.stacking):
            with_code = {"other_code": other.candidate.code.code}
            return Refusal(Reason.NOT_COMBINABLE, candidate.code.code, with_code)
    if max_codes is not None and len(applied) >= max_codes:
        return Refusal(Reason.TOO_MANY_CODES, candidate.code.code, {"max_codes": str(max_codes)})
    return None
