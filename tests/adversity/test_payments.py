"""Servers killed while orders are held, confirmed, released and taken back: nothing is half done, nothing is left."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import asyncpg
import pytest

from tests.grpc.test_combined import create, reason
from tests.service import Service, an_order, audit, settle, until
from vouchsafe.client import Client, ClientError, Customer, Refusal, Reservation, Rollback

SHOPPERS = 16
KILLS = 4
TTL_S = 2.0


@dataclass
class Told:
    """What shoppers were answered, by order."""

    confirmed: dict[str, str] = field(default_factory=dict)
    released: set[str] = field(default_factory=set)
    rolled_back: dict[str, int] = field(default_factory=dict)

    def at_least(self, count: int) -> Callable[[], Awaitable[bool]]:
        async def holds() -> bool:
            return len(self.confirmed) + len(self.released) + len(self.rolled_back) >= count

        return holds


async def _shop(service: Service, codes: list[str], over: asyncio.Event, told: Told) -> None:
    """Orders of two codes until it is over. What is not answered in time is left as it is: nobody asks again."""
    async with service.client(timeout_s=1, channels=8) as client:

        async def one(shopper: int) -> None:
            number = 0
            while not over.is_set():
                number += 1
                try:
                    await _pay(client, codes, f"c-{shopper}", f"{codes[0]}-{shopper}-{number}", told)
                except ClientError:
                    continue

        await asyncio.gather(*(one(shopper) for shopper in range(SHOPPERS)))


async def _pay(client: Client, codes: list[str], shopper: str, order_id: str, told: Told) -> None:
    """Holds two codes; then releases or confirms them, takes that back, or does nothing, and they end by their time."""
    chosen = random.sample(codes, 2)
    held = await client.reserve(chosen, Customer(id=shopper), an_order(order_id), ttl_s=TTL_S)
    whim = random.random()
    if whim < 0.25:
        return
    if whim < 0.5:
        assert isinstance(await client.release(held.reservation.id), Reservation)
        told.released.add(order_id)
        return
    redeemed = await client.confirm(held.reservation.id)
    if isinstance(redeemed, Refusal):
        assert reason(redeemed) == "RESERVATION_EXPIRED"
        return
    told.confirmed[order_id] = redeemed.id
    if whim < 0.75:
        rollback = await client.roll_back(redeemed.id)
        assert isinstance(rollback, Rollback)
        told.rolled_back[order_id] = rollback.discount_minor


@pytest.mark.parametrize("victims", [("worker",), ("server",), ("server", "valkey")], ids="+".join)
async def test_no_payment_is_half_done_whoever_dies(
    own_service: Service, victims: tuple[str, ...], pytestconfig: pytest.Config
) -> None:
    async with own_service.client(timeout_s=30) as client:
        codes = [await create(client, limits={"total": 100_000, "per_customer": 100_000}) for _ in range(4)]
    told = Told()
    over = asyncio.Event()
    shopping = asyncio.create_task(_shop(own_service, codes, over, told))
    for kill in range(1, max(KILLS, pytestconfig.getoption("--repeat")) + 1):
        await until(told.at_least(40 * kill), 30)
        await asyncio.sleep(random.random() * 0.05)
        await asyncio.to_thread(own_service.kill, *victims)
    over.set()
    await shopping
    await _check(own_service, codes, told)


async def _check(service: Service, codes: list[str], told: Told) -> None:
    async with service.client(timeout_s=30) as client:
        # Within the reservations' time, that of a transaction, and a look for what was left behind, nothing is held.
        await until(lambda: _nothing_is_held(client, codes))
    # What a dead server has left of a rollback, the persister brings back.
    await until(lambda: _nothing_is_under_way(service))
    await settle(service.settings)
    connection = await asyncpg.connect(service.settings.postgres_url)
    try:
        rows = await connection.fetch("select order_id, combined_id from redemptions")
        back = await connection.fetch("select redemption_id, discount_minor from returns")
    finally:
        await connection.close()
    parts = Counter(row["order_id"] for row in rows)
    assert set(parts.values()) <= {2}
    by_order = {row["order_id"]: row["combined_id"] for row in rows}
    # What was acknowledged is there under the id that was answered; what was given back was not redeemed as well.
    assert told.confirmed.items() <= by_order.items()
    assert not told.released & set(parts)
    # What was taken back came back of both codes, once.
    returns = Counter(row["redemption_id"] for row in back)
    assert set(returns.values()) <= {2}
    amounts: Counter[str] = Counter()
    for row in back:
        amounts[row["redemption_id"]] += row["discount_minor"]
    for order_id, minor in told.rolled_back.items():
        assert amounts[told.confirmed[order_id]] == minor


async def _nothing_is_held(client: Client, codes: list[str]) -> bool:
    return not sum([(await client.get_campaign_stats(code)).gate.held_count for code in codes])


async def _nothing_is_under_way(service: Service) -> bool:
    await settle(service.settings)
    return not (await audit(service)).rollbacks_in_flight
