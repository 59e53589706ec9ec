"""Counters in the gate: what a use takes of them and what comes back, whatever they count."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from tests.opened import open_all
from tests.values import a_claim, a_definition, takes_of
from vouchsafe.domain.campaign import Campaign, CodeEntry
from vouchsafe.domain.limits import Limits, Period, PeriodLimit, WindowLimit
from vouchsafe.domain.order import Customer
from vouchsafe.domain.reasons import Reason, Refusal
from vouchsafe.domain.redemption import Redemption
from vouchsafe.gate.attempts import Attempt, Held
from vouchsafe.gate.checkout import Checkout
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.holds import Hold
from vouchsafe.gate.keys import Keys
from vouchsafe.gate.transactions import Part
from vouchsafe.settings import Settings

NOON_MS = int(datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp() * 1000)
DAY_MS = 86_400_000


class Till:
    """One campaign, with what customers ask of it."""

    def __init__(self, gate: Gate, checkout: Checkout, limits: Limits) -> None:
        self._gate = gate
        self._checkout = checkout
        self._limits = limits

    def attempt(self, number: int, customer: str, minor: int, now_ms: int) -> Attempt:
        takes = takes_of(self._limits, CodeEntry("A", "sale", None), Customer(id=customer), minor, now_ms)
        return Attempt(a_claim(number, "sale", minor=minor), takes)

    async def redeem(self, number: int, customer: str = "c", minor: int = 100, now_ms: int = NOON_MS) -> Reason | None:
        """Why not, or None when it was redeemed."""
        answer = await self._checkout.redeem(self.attempt(number, customer, minor, now_ms))
        assert isinstance(answer, Redemption | Refusal)
        return answer.reason if isinstance(answer, Refusal) else None

    async def hold(self, number: int, customer: str = "c", minor: int = 100) -> Part:
        attempt = self.attempt(number, customer, minor, NOON_MS)
        hold = Hold([attempt], f"p00-{number}", self._checkout.now_ms() + 60_000)
        (held,) = await self._checkout.holds.hold(hold)
        assert isinstance(held, Held)
        return Part("sale", attempt.order_and_code, hold.transaction_id)

    async def undo(self, part: Part) -> None:
        await self._checkout.holds.settle(part, "")

    async def counters(self) -> dict[str, str]:
        flat = await self._gate._execute(("HGETALL", Keys(0).counters("sale")))
        return {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}


@pytest.fixture
async def gate(settings: Settings) -> AsyncIterator[Gate]:
    gate = await Gate.connect(settings, 1)
    try:
        await open_all(gate)
        await gate.publish(Campaign("sale", 1, a_definition(), 0))
        yield gate
    finally:
        await gate.close()


@pytest.fixture
async def checkout(gate: Gate, settings: Settings) -> AsyncIterator[Checkout]:
    checkout = Checkout(gate, settings)
    yield checkout
    await checkout.close()


async def test_a_budget_is_spent_to_the_last_cent_and_not_beyond(gate: Gate, checkout: Checkout) -> None:
    till = Till(gate, checkout, Limits(budget_minor=1_000, customer_budget_minor=700))
    assert await till.redeem(1, "a", 700) is None
    assert await till.redeem(2, "a", 1) is Reason.CUSTOMER_BUDGET_EXHAUSTED
    assert await till.redeem(3, "b", 301) is Reason.BUDGET_EXHAUSTED
    assert await till.redeem(4, "b", 300) is None
    assert await till.redeem(5, "c", 1) is Reason.BUDGET_EXHAUSTED
    assert (await till.counters())["money"] == "1000"


async def test_distinct_customers_count_once_and_come_back_with_their_last_use(gate: Gate, checkout: Checkout) -> None:
    till = Till(gate, checkout, Limits(distinct_customers=2))
    parts = [await till.hold(1, "a"), await till.hold(2, "a"), await till.hold(3, "b")]
    assert await till.redeem(4, "c") is Reason.DISTINCT_CUSTOMERS_REACHED
    await till.undo(parts[0])
    assert await till.redeem(5, "c") is Reason.DISTINCT_CUSTOMERS_REACHED
    await till.undo(parts[1])
    assert await till.redeem(6, "c") is None
    assert await till.redeem(7, "a") is Reason.DISTINCT_CUSTOMERS_REACHED
    assert await till.redeem(8, "b") is None
    assert (await till.counters())["?distinct"] == "2"


async def test_distinct_customers_are_counted_from_when_they_are_first_limited(gate: Gate, checkout: Checkout) -> None:
    limited = Till(gate, checkout, Limits(distinct_customers=1))
    before = await Till(gate, checkout, Limits()).hold(1, "a")
    since = await limited.hold(2, "a")
    assert (await limited.counters())["?distinct"] == "1"
    await limited.undo(since)
    assert await limited.redeem(3, "b") is None
    await limited.undo(before)
    # What was used before is not taken off.
    assert (await limited.counters())["?distinct"] == "1"
    assert await limited.redeem(4, "c") is Reason.DISTINCT_CUSTOMERS_REACHED


async def test_each_day_has_its_own_uses(gate: Gate, checkout: Checkout) -> None:
    till = Till(gate, checkout, Limits(periods=(PeriodLimit(period=Period.DAY, uses=2),)))
    for number in (1, 2):
        assert await till.redeem(number) is None
    assert await till.redeem(3) is Reason.CUSTOMER_PERIOD_LIMIT_REACHED
    assert await till.redeem(4, "another") is None
    for number in (5, 6):
        assert await till.redeem(number, now_ms=NOON_MS + DAY_MS) is None
    assert await till.redeem(7, now_ms=NOON_MS + DAY_MS) is Reason.CUSTOMER_PERIOD_LIMIT_REACHED


async def test_a_window_looks_back_from_each_use(gate: Gate, checkout: Checkout) -> None:
    till = Till(gate, checkout, Limits(windows=(WindowLimit(window_ms=400, uses=2),)))
    loop = asyncio.get_running_loop()
    # When each was asked for; its answer may come late.
    taken: list[float] = []
    number = 0
    while len(taken) < 6:
        number += 1
        asked = loop.time()
        if await till.redeem(number) is None:
            taken.append(asked)
            # The second use before this one lies a whole window back, by any clock that saw both.
            if len(taken) > 2:
                assert loop.time() - taken[-3] > 0.4 - 0.005
        else:
            assert taken[-2] > asked - 0.4 - 1  # nor is it refused for long behind the window
        await asyncio.sleep(0.02)
    assert await till.redeem(99, "another") is None


async def test_giving_back_undoes_the_use_it_was(gate: Gate, checkout: Checkout) -> None:
    limits = Limits(
        total=5,
        per_customer=2,
        distinct_customers=2,
        budget_minor=10**6,
        customer_budget_minor=10**6,
        periods=(PeriodLimit(period=Period.WEEK, uses=9),),
        windows=(WindowLimit(window_ms=3_600_000, uses=9),),
    )
    till = Till(gate, checkout, limits)
    empty = await till.counters()
    assert await till.redeem(1, "a", 250) is None
    before = await till.counters()
    part = await till.hold(2, "a", 333)
    assert (await till.counters())["money"] == "583"
    await till.undo(part)
    assert await till.counters() == before
    other = await till.hold(3, "b", 1)
    await till.undo(other)
    await till.undo(other)
    # What nobody uses any more takes no room.
    assert await till.counters() == before
    assert empty == {"uses": "0"}
