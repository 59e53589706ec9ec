"""Redeeming several codes on one order: all that apply, or none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from vouchsafe.domain.reasons import Reason, Refusal
from vouchsafe.domain.redemption import AppliedCode, CombinedClaim, Position, Redemption
from vouchsafe.gate.attempts import Attempt, Held, Reserved, Standing
from vouchsafe.gate.checkout import Checkout
from vouchsafe.gate.holds import Hold
from vouchsafe.service.judge import RedeemRequest
from vouchsafe.service.transactions import Patience, Problem, Step, Transactions


class Answer(msgspec.Struct, frozen=True):
    """What a request to redeem is answered, with the codes that were left out and why."""

    outcome: Redemption | Refusal
    inapplicable: tuple[Refusal, ...] = ()
    skipped: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be redeemed together: an attempt for each code, in the order in which the codes are applied."""

    attempts: tuple[Attempt, ...]
    inapplicable: tuple[Refusal, ...]
    skipped: tuple[Refusal, ...]
    is_best: bool | None


class Combined:
    """Redeems several codes at once. `plan` says what the rules and the gate make of a request now, or why not; `get`
    reads a redemption."""

    def __init__(
        self,
        checkout: Checkout,
        transactions: Transactions,
        plan: Callable[[RedeemRequest], Awaitable[Plan | Answer]],
        get: Callable[[Position], Awaitable[Redemption]],
    ) -> None:
        self._checkout = checkout
        self._transactions = transactions
        self._plan = plan
        self._get = get

    async def redeem(self, request: RedeemRequest) -> Answer:
        """Takes every use, or none and says why. Raises RequestIdReused, Unavailable, Overloaded."""
        told = await self._checkout.claim_id(request.request_id, request.fingerprint)
        patience = Patience()
        while told is None:
            plan = await self._plan(request)
            if isinstance(plan, Answer):
                told = await remember(
                    self._checkout,
                    request.request_id,
                    request.fingerprint,
                    plan.outcome,
                    discreet=request.discreet,
                )
                if told is None or told == plan.outcome:
                    return plan
                break
            match await self._carry_out(request, plan):
                case Redemption() as found:
                    return answer_of(found)
                case Standing() as found:
                    told = found
                case Refusal(reason=Reason.ORDER_ALREADY_REDEEMED) as found:
                    told = await remember(self._checkout, request.request_id, request.fingerprint, found)
                case Refusal(reason=Reason.BUDGET_EXHAUSTED | Reason.CUSTOMER_BUDGET_EXHAUSTED):
                    # Somebody has taken of it since. That others come and take is no reason to let them: at once again,
                    # for what is left.
                    pass
                case _:
                    # Somebody was faster, or the campaign or the time is another: planning again tells.
                    await patience.wait()
        if isinstance(told, Refusal):
            return Answer(told)
        assert isinstance(told, Standing)
        return answer_of(await self._get(told.position))

    async def _carry_out(self, request: RedeemRequest, plan: Plan) -> Redemption | Problem:
        def step(campaign_id: str, attempts: Sequence[Attempt]) -> Step:
            async def hold(transaction_id: str, deadline_ms: int) -> Sequence[Held | Problem]:
                return await self._checkout.holds.hold(Hold(attempts, transaction_id, deadline_ms))

            return Step(campaign_id, [attempt.order_and_code for attempt in attempts], hold)

        return await self._transactions.carry_out(
            self._checkout.home(request.request_id),
            [step(campaign_id, attempts) for campaign_id, attempts in by_campaign(plan)],
            lambda held: claim_of(request, plan, held),
        )


def by_campaign(plan: Plan) -> list[tuple[str, list[Attempt]]]:
    """What is held in one step each, in the order in which everybody holds: the codes of a campaign, all or none, since
    what the order has of one of them is not to be in the way of another."""
    campaigns: defaultdict[str, list[Attempt]] = defaultdict(list)
    for attempt in plan.attempts:
        campaigns[attempt.claim.campaign_id].append(attempt)
    return sorted(campaigns.items())


def claim_of(request: RedeemRequest, plan: Plan, held: Mapping[str, Held], reservation_id: str = "") -> CombinedClaim:
    """What is redeemed when all parts are held, given those by "<order id> <code>"."""
    order = request.order
    return CombinedClaim(
        request_id=request.request_id,
        fingerprint=request.fingerprint,
        customer_id=request.customer.id,
        order_id=order.id,
        currency_code=order.currency_code,
        order_amount_minor=order.amount_minor,
        applied=tuple(
            AppliedCode(
                claim.code,
                claim.campaign_id,
                claim.campaign_version,
                claim.discount,
                claim.takes,
                held[attempt.order_and_code].taken_ms,
            )
            for attempt, claim in ((attempt, attempt.claim) for attempt in plan.attempts)
        ),
        inapplicable=plan.inapplicable,
        skipped=plan.skipped,
        is_best=plan.is_best,
        reservation_id=reservation_id,
    )


def answer_of(redemption: Redemption) -> Answer:
    """What was redeemed, with the codes that were left out then."""
    claim = redemption.claim
    if isinstance(claim, CombinedClaim):
        return Answer(redemption, claim.inapplicable, claim.skipped)
    return Answer(redemption)


async def remember(
    checkout: Checkout, request_id: str, fingerprint: str, outcome: object, *, discreet: bool = False
) -> Refusal | Standing | Reserved | None:
    """Remembers a refusal under its request id, but for an unknown code: that may be created later; and of a discreet
    request nothing, or the missing memory would tell that a code is unknown. Answers what stands under the id now: of
    two that ask at once, the first has been told it. None: nothing does."""
    if discreet or not isinstance(outcome, Refusal) or outcome.reason is Reason.CODE_UNKNOWN:
        return None
    told = await checkout.holds.remember(request_id, fingerprint, outcome)
    assert isinstance(told, Refusal | Standing | Reserved)
    return told
