"""Orders that hold two codes of one campaign and change their carts while others want what they hold: an order loses
nothing by asking again, and the campaign never gives more than it has."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.grpc.test_combined import create_pair, reason, uses
from tests.grpc.test_reservations import held
from tests.service import Service, an_order, rows_once_settled
from vouchsafe.client import Client, Customer, Order, Redemption, Refusal, Reservation

ORDERS = 16


async def ask(client: Client, codes: list[str], number: int, order: Order) -> Reservation | None:
    response = await client.reserve(codes, Customer(id=f"c-{number}"), order, ttl_s=120)
    return response.reservation if response.HasField("reservation") else None


@asynccontextmanager
async def others(client: Client, campaign: str, codes: list[str], uses: int, minor: int) -> AsyncIterator[list[int]]:
    """Meanwhile others redeem single codes, hold them and give them back, and somebody looks at whether the campaign
    has given more than so many uses and so much money. Yields what others have got, in minor units."""
    is_over = asyncio.Event()
    got: list[int] = []

    async def shop(name: int) -> None:
        chance, number = random.Random(name), 0
        while not is_over.is_set():
            number += 1
            customer, order = Customer(id=f"x-{name}"), an_order(f"x-{campaign}-{name}-{number}", amount_minor=1_000)
            code = chance.choice(codes)
            if chance.random() < 0.5:
                taken = await client.redeem(code, customer, order)
                got.extend([taken.discount_minor] if isinstance(taken, Redemption) else [])
            else:
                response = await client.reserve([code], customer, order)
                if response.HasField("reservation"):
                    assert isinstance(await client.release(response.reservation.id), Reservation)

    async def look() -> None:
        while not is_over.is_set():
            now = (await client.get_campaign_stats(campaign)).gate
            assert now.redeemed_count + now.held_count <= uses
            assert now.discount_minor + now.held_minor <= minor

    async with asyncio.TaskGroup() as group:
        for name in range(8):
            group.create_task(shop(name))
        group.create_task(look())
        try:
            yield got
        finally:
            is_over.set()


async def test_an_order_that_asks_again_keeps_the_last_uses(service: Service, client: Client) -> None:
    cap = 2 * ORDERS
    campaign, codes = await create_pair(client, limits={"total": cap, "per_customer": 2})
    order_of = [an_order(f"o-{campaign}-{number}") for number in range(ORDERS)]
    first = await asyncio.gather(*(ask(client, codes, number, order) for number, order in enumerate(order_of)))
    assert None not in first

    async def shop(number: int, order: Order) -> bool:
        for wanted in (codes[::-1], codes, codes[::-1]):
            assert await ask(client, wanted, number, order) is not None
        reservation = await ask(client, codes, number, order)
        assert reservation is not None
        if number % 2:
            return isinstance(await client.confirm(reservation.id), Redemption)
        return (await client.redeem_codes(codes[::-1], Customer(id=f"c-{number}"), order)).HasField("redemption")

    async with others(client, campaign, codes, cap, 10**9) as got:
        assert all(await asyncio.gather(*(shop(number, order) for number, order in enumerate(order_of))))
    # All was held all the time.
    assert got == []
    assert (await uses(client, campaign), await held(client, campaign)) == ([cap], [0])
    assert len(await rows_once_settled(service, campaign)) == cap


async def test_a_cart_that_grows_and_shrinks_never_passes_the_budget_and_never_loses_what_it_holds(
    service: Service, client: Client
) -> None:
    budget_minor = 950 * ORDERS
    campaign, codes = await create_pair(client, limits={"budget_minor": budget_minor})

    async def shop(number: int) -> int:
        chance = random.Random(number)
        # Of 1,000 minor units 10 percent come off, then 10 percent of the rest: 100 and 90.
        standing = await ask(client, codes, number, an_order(f"o-{campaign}-{number}", amount_minor=1_000))
        assert standing is not None
        for _ in range(6):
            amount_minor = chance.choice([1_000, 3_000, 5_000, 9_000])
            wanted = chance.sample(codes, 2)
            order = an_order(f"o-{campaign}-{number}", amount_minor=amount_minor)
            # Refused or not, the order has a reservation of both codes.
            standing = await ask(client, wanted, number, order) or standing
        taken = await client.confirm(standing.id)
        assert isinstance(taken, Redemption)
        return taken.discount_minor

    async with others(client, campaign, codes, 10**9, budget_minor) as got:
        given = sum(await asyncio.gather(*(shop(number) for number in range(ORDERS))))
    stats = (await client.get_campaign_stats(campaign)).gate
    assert (stats.redeemed_count, stats.held_count, stats.held_minor) == (2 * ORDERS + len(got), 0, 0)
    assert stats.discount_minor == given + sum(got) <= budget_minor
    assert len(await rows_once_settled(service, campaign)) == 2 * ORDERS + len(got)


async def test_one_order_that_asks_for_many_carts_at_once_holds_one_of_them(service: Service, client: Client) -> None:
    campaign, codes = await create_pair(client, limits={"total": 2})
    orders = [an_order(f"o-{campaign}", amount_minor=1_000 * (number + 1)) for number in range(ORDERS)]
    found = await asyncio.gather(*(ask(client, codes, 0, order) for order in orders))
    reservations = [one for one in found if one is not None]
    # None of them is in the way of another.
    assert len(reservations) == ORDERS
    assert await held(client, campaign) == [2]
    outcomes = await asyncio.gather(*(client.confirm(one.id) for one in reservations))
    assert [isinstance(one, Redemption) for one in outcomes].count(True) == 1
    told = {reason(one) for one in outcomes if isinstance(one, Refusal)}
    assert told <= {"RESERVATION_REPLACED", "ORDER_ALREADY_REDEEMED"}
    assert (await uses(client, campaign), await held(client, campaign)) == ([2], [0])
    assert len(await rows_once_settled(service, campaign)) == 2
