"""Servers killed in the middle of redeeming several codes: no order has a part of its codes only, nothing is left held,
and what was acknowledged stays."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import asyncpg
import pytest

from tests.grpc.test_combined import create
from tests.service import Service, an_order, settle
from tests.valkeys import connected
from vouchsafe.client import ClientError, Customer
from vouchsafe.gate.keys import Keys

SHOPPERS = 24
KILLS = 4


async def _shop(service: Service, codes: list[str], over: asyncio.Event, acknowledged: dict[str, str]) -> None:
    """Orders of two codes until it is over. What is not answered in time is left as it is: nobody asks again."""
    async with service.client(timeout_s=1, channels=8) as client:

        async def one(shopper: int) -> None:
            number = 0
            while not over.is_set():
                number += 1
                request_id = f"{codes[0]}-{shopper}-{number}"
                chosen = random.sample(codes, 2)
                try:
                    response = await client.redeem_codes(
                        chosen, Customer(id=f"c-{shopper}"), an_order(request_id), request_id=request_id
                    )
                except ClientError:
                    continue
                assert response.HasField("redemption"), response
                acknowledged[request_id] = response.redemption.id

        await asyncio.gather(*(one(shopper) for shopper in range(SHOPPERS)))


@pytest.mark.parametrize("victims", [("worker",), ("server",), ("server", "valkey"), ("persister",)], ids="+".join)
async def test_no_order_is_half_redeemed_whoever_dies(
    own_service: Service, victims: tuple[str, ...], pytestconfig: pytest.Config
) -> None:
    kills = max(KILLS, pytestconfig.getoption("--repeat"))
    async with own_service.client(timeout_s=30) as client:
        codes = [await create(client, limits={"total": 100_000}) for _ in range(4)]
    acknowledged: dict[str, str] = {}
    over = asyncio.Event()
    shopping = asyncio.create_task(_shop(own_service, codes, over, acknowledged))
    for kill in range(1, kills + 1):
        async with asyncio.timeout(30):
            while len(acknowledged) < 40 * kill:  # noqa: ASYNC110  # what is waited for is counted, nobody signals
                await asyncio.sleep(0.01)
        await asyncio.sleep(random.random() * 0.05)
        await asyncio.to_thread(own_service.kill, *victims)
    over.set()
    await shopping
    await _check(own_service, codes, acknowledged)


async def _check(service: Service, codes: list[str], acknowledged: dict[str, str]) -> None:
    # Within the time of a hold, and of a look for what was left behind, nothing is held any more.
    async with asyncio.timeout(15):
        while await _held(service):  # noqa: ASYNC110  # what is waited for is counted, nobody signals
            await asyncio.sleep(0.1)
    await settle(service.settings)
    connection = await asyncpg.connect(service.settings.postgres_url)
    try:
        rows = await connection.fetch("select campaign_id, order_id, combined_id from redemptions")
        decided = await connection.fetch("select body ->> 'order_id' as order_id from events where kind = 'combined'")
    finally:
        await connection.close()
    parts = Counter(row["order_id"] for row in rows)
    # Every order that was decided has both of its codes, no other order has any, and each is decided once.
    assert set(parts.values()) <= {2}
    assert sorted(row["order_id"] for row in decided) == sorted(parts)
    # What was acknowledged is there under the id that was answered.
    assert set(acknowledged.values()) <= {row["combined_id"] for row in rows}
    assert set(acknowledged) <= set(parts)
    uses = Counter(row["campaign_id"] for row in rows)
    async with service.client(timeout_s=30) as client:
        for code in codes:
            assert (await client.get_campaign(code)).redeemed_count == uses[code]


async def _held(service: Service) -> int:
    """How many parts are held in all partitions."""
    async with connected(service.settings.valkey_url) as valkey:
        commands = [("ZCARD", Keys(partition).pending) for partition in range(service.settings.partitions)]
        return sum(await valkey.execute(commands))
