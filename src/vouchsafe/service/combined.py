"""Redeeming several codes on one order: all of them or none, wherever their campaigns lie.

Each code is held in the partition of its campaign, in an order that is the same for everybody: of two orders that want
the same campaigns, one comes first everywhere, so they never stand in each other's way, and nobody ever waits for a
hold. Then the whole is decided in one step, in the partition of the request id, and each part is settled by it. Whoever
dies in between leaves parts behind a deadline; they count as used until the decision is asked for and settles them.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from vouchsafe.domain.errors import Unavailable, VouchsafeError
from vouchsafe.domain.reasons import Reason, Refusal
from vouchsafe.domain.redemption import AppliedCode, CombinedClaim, Position, Redemption
from vouchsafe.gate.attempts import Attempt, Held, Moved, Stale, Standing, Undone, Waiting
from vouchsafe.gate.checkout import Checkout, Decision, Hold
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.transactions import Part, transaction_id
from vouchsafe.service.judge import RedeemRequest
from vouchsafe.service.persist import Outages, until_stopped

log = structlog.get_logger()

# How often somebody looks for parts behind their deadline, and how many are settled in one go.
SETTLE_INTERVAL_S = 0.5
SETTLED_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Answer:
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


Problem = Refusal | Standing | Stale | Moved | Waiting | Undone


class Patience:
    """Waits a little longer each time, for somebody who is about to finish; in the end raises Unavailable."""

    def __init__(self, total_s: float = 3.0) -> None:
        self._next_s = 0.004
        self._left_s = total_s

    async def wait(self) -> None:
        """Waits, longer than the last time."""
        if self._left_s <= 0:
            raise Unavailable("another request for the same order is being decided; try again")
        pause_s = self._next_s * random.uniform(0.5, 1.0)  # noqa: S311  # nobody gains by guessing it
        self._next_s = min(self._next_s * 2, 0.25)
        self._left_s -= pause_s
        await asyncio.sleep(pause_s)


class Combined:
    """Redeems several codes at once. `plan` says what the rules and the gate make of a request now, or why not; `get`
    reads a redemption."""

    def __init__(
        self,
        checkout: Checkout,
        plan: Callable[[RedeemRequest], Awaitable[Plan | Answer]],
        get: Callable[[Position], Awaitable[Redemption]],
        hold_ms: int,
    ) -> None:
        self._checkout = checkout
        self._plan = plan
        self._get = get
        self._hold_ms = hold_ms
        self._running: set[asyncio.Task[Redemption | Problem]] = set()

    async def redeem(self, request: RedeemRequest) -> Answer:
        """Takes every use, or none and says why. Raises RequestIdReused, Unavailable, Overloaded."""
        told = await self._checkout.claim_id(request.request_id, request.fingerprint)
        patience = Patience()
        while told is None:
            plan = await self._plan(request)
            if isinstance(plan, Answer):
                await self._remember(request, plan.outcome)
                return plan
            found = await self._unbroken(self._carry_out(request, plan))
            match found:
                case Redemption():
                    return _answer(found)
                case Standing():
                    told = found
                case Refusal(reason=Reason.ORDER_ALREADY_REDEEMED):
                    await self._remember(request, found)
                    return Answer(found)
                case Refusal(reason=Reason.BUDGET_EXHAUSTED | Reason.CUSTOMER_BUDGET_EXHAUSTED):
                    # Somebody has taken of it since. That others come and take is no reason to let them: at once again,
                    # for what is left.
                    pass
                case _:
                    # Somebody was faster, or the campaign or the time is another: planning again tells.
                    await patience.wait()
        return _answer(await self._get(told.position)) if isinstance(told, Standing) else Answer(told)

    async def _unbroken(self, work: Awaitable[Redemption | Problem]) -> Redemption | Problem:
        """Finishes what is begun even if the caller goes away: parts that are left behind would wait for their
        deadline."""
        task = asyncio.ensure_future(work)
        self._running.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _carry_out(self, request: RedeemRequest, plan: Plan) -> Redemption | Problem:
        unique = transaction_id(self._checkout.home(request.request_id), uuid.uuid4().hex)
        deadline_ms = self._checkout.now_ms() + self._hold_ms
        held: list[Part] = []
        for attempt in sorted(plan.attempts, key=lambda one: (one.claim.campaign_id, one.claim.code)):
            part = Part(attempt.claim.campaign_id, attempt.order_and_code, unique)
            try:
                answer = await self._checkout.hold(Hold(attempt, unique, deadline_ms))
            except VouchsafeError:
                # It may be held or not; undone now, it is not in the way of the repetition that is sure to come.
                await self._settle([*held, part], "")
                raise
            if not isinstance(answer, Held):
                await self._settle(held, "")
                return answer
            held.append(part)
        decided = await self._checkout.decide(Decision(_claim(request, plan), unique, deadline_ms))
        if isinstance(decided, Redemption):
            await self._settle(held, decided.id)
            await self._checkout.forget(unique)
        else:
            await self._settle(held, "")
        return decided

    async def _settle(self, parts: Sequence[Part], redemption_id: str) -> None:
        """Settles what it can; the rest is found behind its deadline."""
        results = await asyncio.gather(
            *(self._checkout.settle(part, redemption_id) for part in parts), return_exceptions=True
        )
        for result in results:
            if isinstance(result, VouchsafeError):
                log.warning("a part of a redemption is settled later", error=str(result))
            elif isinstance(result, BaseException):
                raise result

    async def _remember(self, request: RedeemRequest, outcome: Redemption | Refusal) -> None:
        if isinstance(outcome, Refusal) and outcome.reason is not Reason.CODE_UNKNOWN:
            await self._checkout.remember(request.request_id, request.fingerprint, outcome)


def _claim(request: RedeemRequest, plan: Plan) -> CombinedClaim:
    order = request.order
    return CombinedClaim(
        request_id=request.request_id,
        fingerprint=request.fingerprint,
        customer_id=request.customer.id,
        order_id=order.id,
        currency_code=order.currency_code,
        order_amount_minor=order.amount_minor,
        applied=tuple(
            AppliedCode(claim.code, claim.campaign_id, claim.campaign_version, claim.discount)
            for claim in (attempt.claim for attempt in plan.attempts)
        ),
        inapplicable=plan.inapplicable,
        skipped=plan.skipped,
        is_best=plan.is_best,
    )


def _answer(redemption: Redemption) -> Answer:
    claim = redemption.claim
    if isinstance(claim, CombinedClaim):
        return Answer(redemption, claim.inapplicable, claim.skipped)
    return Answer(redemption)


async def settle_forever(gate: Gate, stop: asyncio.Event) -> None:
    """Until `stop`: settles the parts that somebody has left behind. Any number of processes may do so."""
    await until_stopped(stop, _settle_overdue(gate))


async def _settle_overdue(gate: Gate) -> None:
    outages = Outages("transactions")
    while True:
        try:
            while parts := await gate.overdue(SETTLED_AT_ONCE):
                settled = await gate.settle(parts)
                log.warning("settled what was left behind", parts=len(parts), settled=settled)
            outages.end("overdue")
        except Unavailable as error:
            outages.begin("overdue", error)
        await asyncio.sleep(SETTLE_INTERVAL_S)
