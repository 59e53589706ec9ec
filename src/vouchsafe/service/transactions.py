"""Transactions over several codes: all of them or none, wherever their campaigns lie.

Parts are held in the partition of their campaign, in one step for each campaign, and in an order that is the same for
everybody: of two orders that want the same campaigns, one comes first everywhere, so they never stand in each other's
way, and nobody ever waits for a hold. Then the whole is decided in one step, in the partition of its request id, and
each part is settled by it. Whoever dies in between leaves parts behind a deadline; they count as used until the
decision is asked for and settles them.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from vouchsafe.domain.errors import Unavailable, VouchsafeError
from vouchsafe.domain.redemption import CombinedClaim, Position, Redemption
from vouchsafe.gate.attempts import Gone, Held, Released, Undone
from vouchsafe.gate.checkout import Checkout
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.holds import Decision, Hindrance
from vouchsafe.gate.transactions import Part, transaction_id
from vouchsafe.service.committed import Committed
from vouchsafe.service.persist import Outages, until_stopped

log = structlog.get_logger()

# How often somebody looks for what was left behind, and how much of it is dealt with in one go.
SETTLE_INTERVAL_S = 0.5
SETTLED_AT_ONCE = 500

Problem = Hindrance | Released | Gone | Undone


@dataclass(frozen=True, slots=True)
class Step:
    """How parts of one campaign are held: `hold` is given the transaction's id and its deadline, and answers for each
    part; the last answer may be why none is held."""

    campaign_id: str
    orders_and_codes: Sequence[str]
    hold: Callable[[str, int], Awaitable[Sequence[Held | Problem]]]


class Transactions:
    """Carries transactions out; each may take `hold_ms`. Every method raises Unavailable and Overloaded as the gate
    does."""

    def __init__(self, checkout: Checkout, committed: Committed, hold_ms: int) -> None:
        self._checkout = checkout
        self._committed = committed
        self._hold_ms = hold_ms
        self._running: set[asyncio.Task[Redemption | Problem]] = set()

    async def carry_out(
        self,
        home: int,
        steps: Sequence[Step],
        claim: Callable[[Mapping[str, Held]], CombinedClaim],
    ) -> Redemption | Problem:
        """Redeems every part, or none and says why: `claim` is what is redeemed when all are held, given the parts by
        "<order id> <code>". `home` is the partition where that is remembered. `steps` are in the order that is the same
        for everybody. Raises RequestIdReused.

        Finishes what is begun even if the caller goes away: parts that are left behind would wait for their deadline.
        """
        task = asyncio.ensure_future(self._carry_out(home, steps, claim))
        self._running.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _carry_out(
        self,
        home: int,
        steps: Sequence[Step],
        claim: Callable[[Mapping[str, Held]], CombinedClaim],
    ) -> Redemption | Problem:
        transaction = transaction_id(home, uuid.uuid4().hex)
        deadline_ms = self._checkout.now_ms() + self._hold_ms
        held: dict[str, Held] = {}
        parts: list[Part] = []
        for step in steps:
            wanted = [Part(step.campaign_id, order_and_code, transaction) for order_and_code in step.orders_and_codes]
            try:
                answers = await step.hold(transaction, deadline_ms)
            except VouchsafeError:
                # They may be held or not; undone now, they are not in the way of the repetition that is sure to come.
                await self._settle([*parts, *wanted], "")
                raise
            for part, answer in zip(wanted, answers, strict=False):
                if not isinstance(answer, Held):
                    await self._settle(parts, "")
                    return answer
                held[part.order_and_code] = answer
            parts += wanted
        holds = self._checkout.holds
        epochs = {self._checkout.home(part.campaign_id): held[part.order_and_code].epoch for part in reversed(parts)}
        decided = await holds.decide(Decision(claim(held), transaction, deadline_ms, epochs))
        if isinstance(decided, Redemption):
            # No part is redeemed of what may still be lost.
            await self._committed.wait(decided)
            if await self._settle(parts, decided.id):
                await holds.forget(transaction)
        else:
            await self._settle(parts, "")
        return decided

    async def _settle(self, parts: Sequence[Part], redemption_id: str) -> bool:
        """Settles what it can, and answers whether that was all; the rest is found behind its deadline."""
        results = await asyncio.gather(
            *(self._checkout.holds.settle(part, redemption_id) for part in parts), return_exceptions=True
        )
        for result in results:
            if isinstance(result, VouchsafeError):
                log.warning("a part of a redemption is settled later", error=str(result))
            elif isinstance(result, BaseException):
                raise result
        return not any(results)


class Patience:
    """Waits a little longer each time, for somebody who is about to finish; in the end raises Unavailable."""

    def __init__(self, total_s: float = 3.0) -> None:
        self._next_s = 0.004
        self._left_s = total_s
        self.waits = 0

    async def wait(self) -> None:
        """Waits, longer than the last time."""
        if self._left_s <= 0:
            raise Unavailable("another request for the same order is being decided; try again")
        pause_s = self._next_s * random.uniform(0.5, 1.0)  # noqa: S311  # nobody gains by guessing it
        self._next_s = min(self._next_s * 2, 0.25)
        self._left_s -= pause_s
        self.waits += 1
        await asyncio.sleep(pause_s)


async def settle_forever(gate: Gate, committed: Committed, stop: asyncio.Event) -> None:
    """Until `stop`: settles the parts that somebody has left behind, and gives back the reservations whose time is
    over. Any number of processes may do so."""
    await until_stopped(stop, _settle_overdue(gate, committed))


async def _settle_overdue(gate: Gate, committed: Committed) -> None:
    outages = Outages("transactions")
    while True:
        try:
            while parts := await gate.overdue(SETTLED_AT_ONCE):
                decisions = await gate.decisions(parts)
                await committed.wait_for(map(Position.parse, filter(None, decisions.values())))
                settled = await gate.settle(parts, decisions)
                log.warning("settled what was left behind", parts=len(parts), settled=settled)
                if not settled:
                    break  # they wait for a partition that is closed
            while await gate.expire(SETTLED_AT_ONCE):
                pass
            outages.end("overdue")
        except Unavailable as error:
            outages.begin("overdue", error)
        await asyncio.sleep(SETTLE_INTERVAL_S)
