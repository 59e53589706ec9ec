"""Limits by the calendar, raced across a midnight that the test makes: on both sides of it exactly what is allowed.

Two servers' use cases in one process, each with connections and caches of its own; a real Valkey whose functions take
the time from the test, which is all that differs from the product's.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from tests.gate.moved_clock import set_time
from tests.opened import open_all
from tests.service import a_backlog
from tests.valkeys import on_every_node
from tests.values import percent
from vouchsafe.domain.campaign import Campaign, CodeEntry, Definition
from vouchsafe.domain.combine import Combining
from vouchsafe.domain.errors import Unavailable
from vouchsafe.domain.limits import Limits, Period, PeriodLimit
from vouchsafe.domain.order import Customer, Line, Order
from vouchsafe.domain.reasons import Reason, Refusal
from vouchsafe.domain.redemption import Redemption
from vouchsafe.domain.schedule import Schedule
from vouchsafe.gate.checkout import Checkout
from vouchsafe.gate.directory import Directory
from vouchsafe.gate.gate import Gate
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.service.committed import Committed
from vouchsafe.service.judge import RedeemRequest
from vouchsafe.service.redeem import Redeem
from vouchsafe.settings import Settings

pytestmark = pytest.mark.usefixtures("moved_clock")

CLIENTS, CUSTOMERS = 64, 8
STEPS = 40
STEP_MS = 10
# A Sunday, the last of a month, of which the clocks in Berlin go back: a day, a week and a month end together.
MIDNIGHT = datetime(2027, 11, 1, tzinfo=ZoneInfo("Europe/Berlin"))
MIDNIGHT_MS = int(MIDNIGHT.timestamp() * 1000)


class World:
    """The servers, and the clock that they are under."""

    def __init__(self, gate: Gate, servers: list[Redeem]) -> None:
        self.gate = gate
        self.servers = servers

    async def set_time(self, now_ms: int) -> None:
        await on_every_node(self.gate, set_time(now_ms))


@pytest.fixture
async def world(settings: Settings) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        ledger = await Ledger.connect(settings.postgres_url, pool_size=2, timeout_ms=5_000)
        stack.push_async_callback(ledger.close)
        gates, servers = [], []
        for _ in range(2):
            gate = await Gate.connect(settings, 1)
            stack.push_async_callback(gate.close)
            gates.append(gate)
            await on_every_node(gate, set_time(MIDNIGHT_MS - 1))
            await open_all(gate)
            checkout = Checkout(gate, settings)
            stack.push_async_callback(checkout.close)
            backlog, committed = a_backlog(gate, settings), Committed(ledger, settings)
            servers.append(Redeem(checkout, ledger, backlog, committed, hold_ms=5_000, secret=""))
        yield World(gates[0], servers)


def a_request(number: int) -> RedeemRequest:
    order = Order(
        id=f"order-{number}",
        currency_code="EUR",
        lines=(Line(sku="shirt", quantity=1, unit_price_minor=5_000),),
    )
    return RedeemRequest(
        request_id=f"request-{number}",
        fingerprint=f"{number:032x}",
        codes=("SALE",),
        customer=Customer(id=f"customer-{number % CUSTOMERS}"),
        order=order,
        combining=Combining(),
    )


@pytest.mark.parametrize("period", [*Period])
async def test_a_limit_by_the_calendar_across_a_midnight(world: World, period: Period) -> None:
    limits = Limits(periods=(PeriodLimit(period=period, uses=2),))
    definition = Definition(
        display_name="Sale",
        effects=percent(1_000),
        limits=limits,
        schedule=Schedule(time_zone="Europe/Berlin"),
    )
    await world.set_time(MIDNIGHT_MS - STEPS // 2 * STEP_MS)
    await world.gate.publish(Campaign("sale", 1, definition, 0))
    await Directory(world.gate).put([CodeEntry("SALE", "sale", None)])
    redeemed: list[Redemption] = []
    refused: Counter[Reason] = Counter()
    over = asyncio.Event()

    async def shop(client: int) -> None:
        number = client
        while not over.is_set():
            try:
                outcome = (await world.servers[client // CUSTOMERS % 2].redeem(a_request(number))).outcome
            except Unavailable:
                continue  # the servers' clocks go on while the store's stands, and may be too far ahead for a moment
            if isinstance(outcome, Refusal):
                refused[outcome.reason] += 1
            else:
                redeemed.append(outcome)
            number += CLIENTS

    shopping = asyncio.gather(*(shop(client) for client in range(CLIENTS)))
    for step in range(STEPS):
        await asyncio.sleep(0.005)
        await world.set_time(MIDNIGHT_MS + (step - STEPS // 2 + 1) * STEP_MS)
    over.set()
    await shopping
    uses = Counter((redemption.claim.customer_id, redemption.at_ms >= MIDNIGHT_MS) for redemption in redeemed)
    assert uses == {(f"customer-{n}", behind): 2 for n in range(CUSTOMERS) for behind in (False, True)}
    assert set(refused) == {Reason.CUSTOMER_PERIOD_LIMIT_REACHED}
    assert len(redeemed) == 4 * CUSTOMERS
