"""What a validation finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from vouchsafe.domain.combine import Applied, Candidate
from vouchsafe.domain.evaluator import TraceEntry
from vouchsafe.domain.reasons import Refusal
from vouchsafe.gate.attempts import Attempt, Moved, Redeemable, Stale, Waiting
from vouchsafe.gate.checkout import Checkout

Answered = Redeemable | Refusal | Stale | Moved | Waiting


class Offer(msgspec.Struct, frozen=True):
    """What a redemption would give now. Amounts in minor units of `currency_code`. `quote_token` is empty when no
    campaign of it honours quotes."""

    applied: tuple[Applied, ...]
    currency_code: str
    order_amount_minor: int
    is_best: bool | None
    quote_token: str = ""

    @property
    def discount_minor(self) -> int:
        """What all codes take off."""
        return sum(applied.discount.applied_minor for applied in self.applied)


@dataclass(frozen=True, slots=True)
class Trace:
    """What was looked at for one code; `candidate` is None when no campaign has it."""

    code: str
    candidate: Candidate | None
    entries: Sequence[TraceEntry]


@dataclass(slots=True)
class Trial:
    """A validation for another time than now, in milliseconds since 1970 UTC, as if every campaign were active. Notes
    down those that were asked and are not active now."""

    at_ms: int
    inactive: set[str] = field(default_factory=set)

    async def ask(self, checkout: Checkout, attempt: Attempt, others: Sequence[str]) -> Answered:
        """What the gate foretells."""
        tried = await checkout.try_out(attempt, others, self.at_ms)
        if not tried.is_active:
            self.inactive.add(attempt.claim.campaign_id)
        return tried.answer


class Validation(msgspec.Struct, frozen=True):
    """Whether the codes could be redeemed, with the reasons for those that could not."""

    outcome: Offer | Refusal
    inapplicable: tuple[Refusal, ...] = ()
    skipped: tuple[Refusal, ...] = ()
    traces: tuple[Trace, ...] = ()
