"""Orders with several codes that race: every campaign's count is exact, and no order has a part of its codes only."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.grpc.test_combined import create, uses
from tests.service import Service, an_order, rows_once_settled
from vouchsafe.client import Client, Customer, Redemption

CLIENTS = 64


@pytest.mark.parametrize("cap", [7, 50])
async def test_64_clients_over_two_campaigns_take_exactly_the_cap(service: Service, client: Client, cap: int) -> None:
    one, other = await create(client, limits={"total": cap}), await create(client, limits={"total": cap})

    async def shop(number: int) -> Redemption | None:
        # Half of them name the campaigns the other way round.
        codes = [one, other] if number % 2 else [other, one]
        response = await client.redeem_codes(codes, Customer(id=f"c-{number}"), an_order(f"{one}-{number}"))
        return response.redemption if response.HasField("redemption") else None

    found = await asyncio.gather(*(shop(number) for number in range(2 * CLIENTS)))
    assert sum(taken is not None for taken in found) == cap
    assert await uses(client, one, other) == [cap, cap]
    for campaign in (one, other):
        assert len(await rows_once_settled(service, campaign)) == cap


async def test_a_scarce_campaign_among_plentiful_ones_is_never_half_taken(service: Service, client: Client) -> None:
    plenty = [await create(client) for _ in range(3)]
    scarce = await create(client, limits={"total": 10})
    chance = random.Random(7)

    async def shop(number: int) -> int:
        codes = [*chance.sample(plenty, 2), scarce]
        chance.shuffle(codes)
        response = await client.redeem_codes(codes, Customer(id=f"c-{number}"), an_order(f"{scarce}-{number}"))
        return len(response.redemption.applied_codes) if response.HasField("redemption") else 0

    found = await asyncio.gather(*(shop(number) for number in range(CLIENTS)))
    assert sorted(found) == [0] * (CLIENTS - 10) + [3] * 10
    assert await uses(client, scarce) == [10]
    assert sum(await uses(client, *plenty)) == 20
    assert sum([len(await rows_once_settled(service, campaign)) for campaign in plenty]) == 20


async def test_singles_and_several_together_never_pass_the_cap(client: Client) -> None:
    shared, other = await create(client, limits={"total": 20}), await create(client)

    async def shop(number: int) -> bool:
        shopper, order = Customer(id=f"c-{number}"), an_order(f"{shared}-{number}")
        if number % 2:
            return isinstance(await client.redeem(shared, shopper, order), Redemption)
        return (await client.redeem_codes([shared, other], shopper, order)).HasField("redemption")

    found = await asyncio.gather(*(shop(number) for number in range(2 * CLIENTS)))
    assert sum(found) == 20
    assert await uses(client, shared) == [20]


async def test_after_a_pause_no_order_of_several_codes_succeeds(service: Service, client: Client) -> None:
    for _ in range(3):
        paused, other = await create(client), await create(client)
        sold, stopped = asyncio.Event(), asyncio.Event()
        late: list[str] = []

        async def shop(
            number: int,
            paused: str = paused,
            other: str = other,
            sold: asyncio.Event = sold,
            stopped: asyncio.Event = stopped,
            late: list[str] = late,
        ) -> None:
            for attempt in range(100):
                was_stopped = stopped.is_set()
                order = an_order(f"{paused}-{number}-{attempt}")
                response = await client.redeem_codes([paused, other], Customer(id=f"c-{number}"), order)
                if not response.HasField("redemption"):
                    return
                sold.set()
                if was_stopped:
                    late.append(response.redemption.id)

        shoppers = [asyncio.create_task(shop(number)) for number in range(16)]
        await sold.wait()
        answered = await client.pause_campaign(paused, "enough")
        stopped.set()
        counted = answered.redeemed_count
        await asyncio.gather(*shoppers)
        assert not late
        # What the answer to the pause counted is all there ever was, here and in the book.
        assert await uses(client, paused, other) == [counted, counted]
        assert len(await rows_once_settled(service, paused)) == counted
        assert counted > 0
