"""The audit raises no false alarm, whatever moves and whatever stands still. What it finds: test_damage.py."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from tests.grpc.test_combined import create
from tests.grpc.test_rollbacks import two_lines
from tests.service import Service, an_order, audit, settle
from vouchsafe.client import Client, Customer, Redemption, ReturnedLine

LIMITS: list[dict[str, Any]] = [
    {},
    {"distinct_customers": 6, "windows": [{"window": "1s", "uses": 3}, {"window": "3600s", "uses": 100}]},
    {"total": 60, "budget_minor": 40_000, "partial_budget": True, "customer_budget_minor": 9_000},
    {"periods": [{"period": "PERIOD_DAY", "uses": 50}], "attributes": [{"key": "store", "uses": 80}]},
]
SHOPPERS = 16
ONE_SHIRT = [ReturnedLine(line_index=0, quantity=1)]


async def campaigns(client: Client) -> list[str]:
    """One for each of the limits."""
    return [await create(client, currency_code="EUR", limits=limits) for limits in LIMITS]


class Traffic:
    """A shop in which everything happens that moves a counter."""

    def __init__(self, client: Client, codes: list[str], seed: int, customers: int = 8) -> None:
        self._client = client
        self._codes = codes
        self._chance = random.Random(seed)
        self._customers = customers
        self.done = 0

    async def step(self, number: int) -> None:
        """One shopper's way through the shop; refusals are as good as anything."""
        chance, client = self._chance, self._client
        customer = Customer(id=f"c-{chance.randrange(self._customers)}")
        order = two_lines(f"{self._codes[0]}-{number}")
        order.metadata["store"] = f"s-{number % 2}"
        codes = chance.sample(self._codes, chance.choice((1, 1, 2, 3)))
        if chance.random() < 0.5:
            redeemed = (await client.redeem_codes(codes, customer, order)).redemption
        else:
            reserved = await client.reserve(codes, customer, order, ttl_s=chance.choice((1, 60)))
            if not reserved.HasField("reservation"):
                return
            end = chance.randrange(5)
            if end == 0:
                return  # it ends by its time, or never
            if end == 1:
                await client.release(reserved.reservation.id)
                return
            if end == 2:
                redeemed = (await client.redeem_codes(codes, customer, order)).redemption
            else:
                confirmed = await client.confirm(reserved.reservation.id)
                if not isinstance(confirmed, Redemption):
                    return
                redeemed = confirmed
        if redeemed.id and chance.random() < 0.5:
            await client.roll_back(redeemed.id, lines=chance.choice(([], ONE_SHIRT)))
        if redeemed.id and chance.random() < 0.3:
            await client.roll_back(redeemed.id)
        self.done += 1

    async def run(self, steps: int) -> None:
        numbers = iter(range(steps))

        async def shop() -> None:
            for number in numbers:
                await self.step(number)

        await asyncio.gather(*(shop() for _ in range(SHOPPERS)))

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Left, it comes to its end."""
        over = asyncio.Event()

        async def shop(shopper: int) -> None:
            number = shopper
            while not over.is_set():
                await self.step(number)
                number += SHOPPERS

        shoppers = [asyncio.create_task(shop(shopper)) for shopper in range(SHOPPERS)]
        try:
            yield
        finally:
            over.set()
            await asyncio.gather(*shoppers)


async def test_it_agrees_after_everything_that_moves_a_counter(service: Service, client: Client) -> None:
    codes = await campaigns(client)
    traffic = Traffic(client, codes, seed=1)
    await traffic.run(400)
    assert traffic.done > 100
    found = await audit(service)
    assert found.agrees, found
    assert found.campaigns >= len(codes)
    assert found.events > traffic.done
    # Those that were left to their time, too.
    await asyncio.sleep(1.2)
    assert (await audit(service)).agrees
    alone = await audit(service, codes[1])
    assert alone.agrees
    assert (alone.campaigns, alone.events < found.events) == (1, True)
    # Codes, customers, uses, money, customers of the limit, windows, and what is held.
    assert alone.counters > 20


@pytest.mark.parametrize(("customers", "at_once"), [(8, 500), (500, 10)], ids=["few customers", "in many small reads"])
async def test_it_never_raises_a_false_alarm_while_everything_moves(
    service: Service, client: Client, monkeypatch: pytest.MonkeyPatch, customers: int, at_once: int
) -> None:
    monkeypatch.setattr("vouchsafe.gate.audit.COUNTERS_PER_CALL", at_once)
    codes = await campaigns(client)
    async with Traffic(client, codes, seed=customers, customers=customers).going_on():
        for _ in range(6):
            found = await audit(service)
            assert found.agrees, found


async def test_what_is_in_flight_is_no_alarm(own_service: Service) -> None:
    async with own_service.client(timeout_s=30) as client:
        codes = await campaigns(client)
        parts = 0
        async with Traffic(client, codes, seed=3).going_on():
            for _ in range(8):
                await asyncio.sleep(0.2)
                with own_service.frozen("serve"):
                    found = await audit(own_service)
                    assert found.agrees, found
                    parts += found.parts_in_flight
        assert parts > 0


async def test_it_agrees_while_the_ledger_is_far_behind(own_service: Service) -> None:
    async with own_service.client(timeout_s=30) as client:
        codes = await campaigns(client)
        await Traffic(client, codes, seed=4).run(50)
        await settle(own_service.settings)
        with own_service.frozen("persist"):
            await Traffic(client, codes, seed=5).run(200)
            found = await audit(own_service)
            assert found.agrees, found
            sql = await asyncpg.connect(own_service.settings.postgres_url)
            try:
                assert found.events > await sql.fetchval("select count(*) from events")
            finally:
                await sql.close()


async def test_customers_from_before_a_limit_are_no_alarm(service: Service, client: Client) -> None:
    code = await create(client)
    definition = (await client.get_campaign(code)).definition
    for number in range(3):
        await client.redeem(code, Customer(id=f"c-{number}"), an_order(f"{code}-a{number}"))
    definition.limits.distinct_customers = 10
    await client.update_campaign(code, definition)
    for number in range(1, 5):
        await client.redeem(code, Customer(id=f"c-{number}"), an_order(f"{code}-b{number}"))
    found = await audit(service, code)
    assert found.agrees, found
