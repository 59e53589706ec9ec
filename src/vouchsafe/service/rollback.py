"""Taking redemptions back, whole or in part, however old they are.

A rollback is decided in one step where the redemption lies: of two at the same moment, the second sees what the first
has left. Then what each code has counted comes back where its campaign lies, once; whoever finds a rollback of which
something is missing goes on with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec
import structlog

from vouchsafe.domain.errors import Unavailable
from vouchsafe.domain.evaluator import Evaluator
from vouchsafe.domain.order import Order
from vouchsafe.domain.reasons import Refusal
from vouchsafe.domain.redemption import AppliedCode, Claim, Position, Redemption
from vouchsafe.domain.rollback import Kept, Left, ReturnedCode, ReturnedLine, Rollback, RollbackClaim
from vouchsafe.domain.unwind import unwind, whole
from vouchsafe.gate.attempts import Standing
from vouchsafe.gate.checkout import Checkout
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.returns import Nothing, RollingBack
from vouchsafe.gate.transactions import Part
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.service.combined import remember
from vouchsafe.service.committed import Committed
from vouchsafe.service.judge import Judge
from vouchsafe.service.persist import Outages, until_stopped

log = structlog.get_logger()

RETURN_INTERVAL_S = 1.0
# Younger ones are most likely being worked on.
LEFT_BEHIND_MS = 5_000


@dataclass(frozen=True, slots=True)
class RollbackRequest:
    """What is to be taken back: with no `lines`, all that is left. `fingerprint` is 32 hex digits over everything but
    the request id."""

    request_id: str
    fingerprint: str
    redemption: Position
    lines: tuple[ReturnedLine, ...]
    order: Order | None
    reason: str


class Rollbacks:
    """`get` reads a redemption. Every method raises Unavailable and Overloaded as the gate does."""

    def __init__(
        self,
        checkout: Checkout,
        ledger: Ledger,
        committed: Committed,
        judge: Judge,
        get: Callable[[Position], Awaitable[Redemption]],
    ) -> None:
        self._checkout = checkout
        self._ledger = ledger
        self._committed = committed
        self._judge = judge
        self._get = get
        self._running: set[asyncio.Task[None]] = set()

    async def roll_back(self, request: RollbackRequest) -> Rollback | Refusal:
        """Takes a redemption back, or says why not. Raises NotFound, InvalidRequest and RequestIdReused.

        Repeating a request gives its first answer again.
        """
        self._committed.check()
        told = await self._checkout.claim_id(request.request_id, request.fingerprint)
        if isinstance(told, Refusal):
            return told
        decided = told if isinstance(told, Standing) else await self._decide(request)
        if isinstance(decided, Refusal):
            standing = await remember(self._checkout, request.request_id, request.fingerprint, decided)
            if not isinstance(standing, Standing):
                return standing if isinstance(standing, Refusal) else decided
            decided = standing
        rollback = await self._read(decided.position) if isinstance(decided, Standing) else decided
        # Finished even if the caller goes away: nobody else would look at it for a while.
        task = asyncio.ensure_future(self._give_back(rollback))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await asyncio.shield(task)
        return rollback

    async def _give_back(self, rollback: Rollback) -> None:
        # What comes back is given out again: first the decision is as safe as was promised.
        await self._committed.wait(rollback)
        await give_back(self._checkout, rollback)

    async def _decide(self, request: RollbackRequest) -> Rollback | Refusal | Standing:
        redemption = await self._redemption(request.redemption)
        evaluators = await self._judge.newest([one.campaign_id for one in redemption.applied])
        while True:
            seen = await self._checkout.returns.rolled(redemption.position)
            before = Kept.from_json(seen) if seen else whole(redemption)
            after = unwind(redemption, before, request.lines, request.order, evaluators)
            if isinstance(after, Refusal):
                # It may be this very request, asked again, that has left too little.
                partition = redemption.position.partition
                told = await self._checkout.claim_id(request.request_id, request.fingerprint, partition)
                return told if isinstance(told, Standing) else after
            claim = _claim(request, redemption, before, after, evaluators)
            rolling = RollingBack(claim, redemption.position, seen, after.to_json())
            answer = await self._checkout.returns.roll_back(rolling)
            if isinstance(answer, Rollback | Refusal | Standing):
                return answer

    async def _redemption(self, position: Position) -> Redemption:
        """The redemption at a position; for a part of one, the whole."""
        redemption = await self._get(position)
        claim = redemption.claim
        if isinstance(claim, Claim) and claim.combined_id:
            return await self._get(Position.parse(claim.combined_id))
        return redemption

    async def _read(self, position: Position) -> Rollback:
        """The rollback at a position, in the outbox or, when it is there no more, in the ledger."""
        event = await self._checkout.event(position)
        if event is not None:
            return Rollback(position, event.at_ms, RollbackClaim.from_json(event.body))
        rollback = await self._ledger.get_rollback(position)
        if rollback is None:
            raise Unavailable(f"the rollback {position} is in neither store; try again")
        return rollback


def _claim(
    request: RollbackRequest, redemption: Redemption, before: Kept, after: Kept, evaluators: Sequence[Evaluator]
) -> RollbackClaim:
    codes = []
    for applied, was, left, evaluator in zip(redemption.applied, before.codes, after.codes, evaluators, strict=True):
        if left != was:
            codes.append(_returned(redemption, applied, was, left, evaluator))
    return RollbackClaim(
        request_id=request.request_id,
        fingerprint=request.fingerprint,
        redemption_id=redemption.id,
        order_id=redemption.claim.order_id,
        currency_code=redemption.claim.currency_code,
        reason=request.reason,
        codes=tuple(codes),
        left_minor=sum(left.total_minor for left in after.codes),
        kept=after,
    )


def _returned(
    redemption: Redemption, applied: AppliedCode, was: Left, left: Left, evaluator: Evaluator
) -> ReturnedCode:
    policy = evaluator.campaign.definition.rollback
    discount_minor = was.total_minor - left.total_minor
    is_single = isinstance(redemption.claim, Claim)
    place = redemption.id.partition("-")[2] if is_single else redemption.id
    return ReturnedCode(
        campaign_id=applied.campaign_id,
        code=applied.code,
        order_id=redemption.claim.order_id,
        customer_id=redemption.claim.customer_id,
        redemption_id=redemption.id,
        discount_minor=discount_minor,
        left_minor=left.total_minor,
        takes=policy.given_back(applied.takes, discount_minor, is_ended=left.is_ended),
        taken_ms=applied.taken_ms,
        place=place,
        uses=int(left.is_ended and not policy.keeps_use),
        is_ended=left.is_ended,
    )


async def give_back(checkout: Checkout, rollback: Rollback) -> None:
    """Gives back what every code of a rollback has counted. Safe to do twice, and twice at once."""
    codes = [msgspec.structs.replace(code, rollback_id=rollback.id) for code in rollback.claim.codes]
    await asyncio.gather(*(_give_back(checkout, code) for code in codes))
    await checkout.returns.given_back(rollback.position, codes)


async def _give_back(checkout: Checkout, code: ReturnedCode) -> None:
    while (answer := await checkout.returns.give_back(code)) is not None:
        if isinstance(answer, Nothing):
            log.warning("a redemption had come back already", redemption=code.redemption_id, rollback=code.rollback_id)
            code = msgspec.structs.replace(code, takes={}, discount_minor=0, uses=0)
        else:
            # Decided, and not settled yet: what is held is no redemption that could come back.
            await checkout.settle_by_decision(Part(code.campaign_id, code.order_and_code, answer.transaction_id))


async def return_forever(gate: Gate, checkout: Checkout, committed: Committed, stop: asyncio.Event) -> None:
    """Until `stop`: goes on with the rollbacks that somebody has left behind. Any number of processes may do so."""
    await until_stopped(stop, _return_left_behind(gate, checkout, committed))


async def _return_left_behind(gate: Gate, checkout: Checkout, committed: Committed) -> None:
    outages = Outages("rollbacks")
    while True:
        try:
            left_behind = [one for one in await gate.returning() if one.at_ms < checkout.now_ms() - LEFT_BEHIND_MS]
            results = [await _try_to_give_back(checkout, committed, rollback) for rollback in left_behind]
            if all(results):
                outages.end("returning")
        except Unavailable as error:
            outages.begin("returning", error)
        await asyncio.sleep(RETURN_INTERVAL_S)


async def _try_to_give_back(checkout: Checkout, committed: Committed, rollback: Rollback) -> bool:
    """One that cannot come back now is in no other's way."""
    try:
        await committed.wait(rollback)
        await give_back(checkout, rollback)
    except Unavailable as error:
        log.warning("a rollback cannot be finished yet", rollback=rollback.id, error=str(error))
        return False
    log.warning("went on with a rollback that was left behind", rollback=rollback.id)
    return True
