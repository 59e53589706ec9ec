"""Reservations that race with each other, with their time and with everything else: every count is exact."""

from __future__ import annotations

import asyncio
import random
import time

from tests.grpc.test_combined import create, reason, uses
from tests.grpc.test_reservations import held
from tests.service import Service, an_order, rows_once_settled
from vouchsafe.client import Client, Customer, Redemption, Refusal, Reservation

CLIENTS = 64


async def reserve(client: Client, code: str, number: int, ttl_s: float = 60) -> Reservation | None:
    response = await client.reserve([code], Customer(id=f"c-{number}"), an_order(f"{code}-{number}"), ttl_s=ttl_s)
    return response.reservation if response.HasField("reservation") else None


async def test_holds_and_redemptions_together_never_pass_the_cap(service: Service, client: Client) -> None:
    # easy-digital-downloads 3859: payments that take long must not overrun the limit.
    code = await create(client, limits={"total": 20})

    async def shop(number: int) -> bool:
        if number % 3 == 0:
            outcome = await client.redeem(code, Customer(id=f"c-{number}"), an_order(f"{code}-{number}"))
            return isinstance(outcome, Redemption)
        reservation = await reserve(client, code, number)
        return reservation is not None and isinstance(await client.confirm(reservation.id), Redemption)

    found = await asyncio.gather(*(shop(number) for number in range(2 * CLIENTS)))
    assert sum(found) == 20
    assert (await uses(client, code), await held(client, code)) == ([20], [0])
    assert len(await rows_once_settled(service, code)) == 20


async def test_released_capacity_is_sold_again_exactly_once(service: Service, client: Client) -> None:
    # woocommerce 27673: a payment that fails leaves nothing blocked.
    code = await create(client, limits={"total": 10})
    chance = random.Random(11)
    sold = 0

    async def shop(number: int) -> None:
        nonlocal sold
        while sold < 10:
            reservation = await reserve(client, code, number)
            if reservation is None:
                await asyncio.sleep(0.01)
            elif chance.random() < 0.5:
                assert isinstance(await client.release(reservation.id), Reservation)
            else:
                assert isinstance(await client.confirm(reservation.id), Redemption)
                sold += 1
                return

    await asyncio.gather(*(shop(number) for number in range(CLIENTS)))
    assert sold == 10
    assert (await uses(client, code), await held(client, code)) == ([10], [0])
    assert len(await rows_once_settled(service, code)) == 10


async def test_confirming_and_releasing_at_once_has_one_outcome(service: Service, client: Client) -> None:
    code = await create(client, limits={"total": CLIENTS})
    reservations = [one for one in await asyncio.gather(*(reserve(client, code, n) for n in range(CLIENTS))) if one]
    assert len(reservations) == CLIENTS
    outcomes = await asyncio.gather(
        *(call(one.id) for one in reservations for call in (client.confirm, client.release, client.confirm))
    )
    confirmed = 0
    for first, released, second in zip(outcomes[::3], outcomes[1::3], outcomes[2::3], strict=True):
        assert first == second
        if isinstance(first, Redemption):
            confirmed += 1
            assert isinstance(released, Refusal)
            assert reason(released) == "RESERVATION_CONFIRMED"
        else:
            assert isinstance(first, Refusal)
            assert reason(first) == "RESERVATION_RELEASED"
            assert isinstance(released, Reservation)
    assert (await uses(client, code), await held(client, code)) == ([confirmed], [0])
    assert len(await rows_once_settled(service, code)) == confirmed


async def test_a_hold_that_expires_while_it_is_confirmed_is_one_or_the_other(service: Service, client: Client) -> None:
    code = await create(client, limits={"total": CLIENTS})

    async def shop(number: int) -> bool:
        reservation = await reserve(client, code, number, ttl_s=1)
        assert reservation is not None
        # Some come before the end, some behind it, and most just then.
        ends = reservation.expire_time.ToMilliseconds() / 1000
        await asyncio.sleep(max(0.0, ends - time.time() + random.uniform(-0.08, 0.04)))
        outcome = await client.confirm(reservation.id)
        assert isinstance(outcome, Redemption) or reason(outcome) == "RESERVATION_EXPIRED"
        assert await client.confirm(reservation.id) == outcome
        return isinstance(outcome, Redemption)

    confirmed = sum(await asyncio.gather(*(shop(number) for number in range(CLIENTS))))
    # Whatever has expired is free: all of the rest can be sold now, and no more.
    later = await asyncio.gather(*(reserve(client, code, CLIENTS + n) for n in range(CLIENTS)))
    assert sum(one is not None for one in later) == CLIENTS - confirmed
    assert (await uses(client, code), await held(client, code)) == ([confirmed], [CLIENTS - confirmed])
    assert len(await rows_once_settled(service, code)) == confirmed


async def test_a_thousand_expired_holds_are_in_nobodys_way(client: Client) -> None:
    code = await create(client, limits={"total": 1_000})
    found = await asyncio.gather(*(reserve(client, code, n, ttl_s=5) for n in range(1_000)))
    held_ones = [one for one in found if one is not None]
    assert len(held_ones) == 1_000
    assert await reserve(client, code, 1_000) is None
    ends = max(one.expire_time.ToMilliseconds() for one in held_ones) / 1000
    await asyncio.sleep(max(0.0, ends - time.time()))
    # At once, and not when somebody has swept them away.
    found = await asyncio.gather(*(reserve(client, code, 2_000 + n) for n in range(CLIENTS)))
    assert None not in found
    assert await held(client, code) == [CLIENTS]


async def test_orders_that_hold_the_same_campaigns_in_opposite_order(service: Service, client: Client) -> None:
    one, other = await create(client, limits={"total": 9}), await create(client, limits={"total": 9})

    async def shop(number: int) -> bool:
        codes = [one, other] if number % 2 else [other, one]
        response = await client.reserve(codes, Customer(id=f"c-{number}"), an_order(f"{one}-{number}"), ttl_s=60)
        if not response.HasField("reservation"):
            return False
        return isinstance(await client.confirm(response.reservation.id), Redemption)

    assert sum(await asyncio.gather(*(shop(number) for number in range(CLIENTS)))) == 9
    assert (await uses(client, one, other), await held(client, one, other)) == ([9, 9], [0, 0])
    assert [len(await rows_once_settled(service, campaign)) for campaign in (one, other)] == [9, 9]
