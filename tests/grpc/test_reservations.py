"""Reservations through real gRPC: what is held counts as used, until it is confirmed, given back, or over."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.grpc.test_combined import create, reason, uses
from tests.service import Service, an_order, rows_once_settled, until
from vouchsafe.client import (
    Client,
    Customer,
    NotFound,
    Order,
    Redemption,
    Refusal,
    RequestIdReused,
    Reservation,
)

SHOPPER = Customer(id="customer-1")


async def reserve(client: Client, codes: list[str], order: Order, **kwargs: Any) -> Reservation:
    response = await client.reserve(codes, SHOPPER, order, **kwargs)
    assert response.HasField("reservation"), response
    return response.reservation


async def held(client: Client, *campaigns: str) -> list[int]:
    return [(await client.get_campaign_stats(campaign)).gate.held_count for campaign in campaigns]


async def expired(client: Client, campaign: str) -> None:
    """Waits until nothing of a campaign is held any more."""

    async def nothing_held() -> bool:
        return await held(client, campaign) == [0]

    await until(nothing_held)


async def test_what_is_held_becomes_a_redemption(service: Service, client: Client) -> None:
    code = await create(client, limits={"total": 1})
    order = an_order(f"o-{code}")
    reservation = await reserve(client, [code], order)
    assert (reservation.discount_minor, reservation.order_id, reservation.applied_codes[0].code.lower()) == (
        500,
        order.id,
        code,
    )
    assert (await uses(client, code), await held(client, code)) == ([0], [1])
    # To others it is used up, to the order itself it is not.
    other = await client.redeem(code, Customer(id="other"), an_order(f"x-{code}"))
    assert isinstance(other, Refusal)
    assert reason(other) == "CAMPAIGN_LIMIT_REACHED"
    assert not isinstance(await client.validate(code, SHOPPER, order), Refusal)
    redemption = await client.confirm(reservation.id)
    assert isinstance(redemption, Redemption)
    assert (redemption.discount_minor, redemption.order_id, redemption.request_id) == (
        500,
        order.id,
        reservation.request_id,
    )
    assert (await uses(client, code), await held(client, code)) == ([1], [0])
    assert await client.confirm(reservation.id) == redemption
    assert await client.get_redemption(redemption.id) == redemption
    assert len(await rows_once_settled(service, code)) == 1
    # The order asked again, by whatever way, has its one use.
    assert await client.redeem(code, SHOPPER, order) == redemption
    again = (await client.reserve([code], SHOPPER, order)).refusal
    assert (reason(again), again.metadata["redemption_id"]) == ("ORDER_ALREADY_REDEEMED", redemption.id)


async def test_what_is_given_back_is_free_at_once(client: Client) -> None:
    codes = [await create(client, limits={"total": 1, "budget_minor": 500}, currency_code="EUR") for _ in range(2)]
    first = await reserve(client, codes, an_order(f"o-{codes[0]}"))
    assert await held(client, *codes) == [1, 1]
    assert isinstance(await client.release(first.id), Reservation)
    assert isinstance(await client.release(first.id), Reservation)
    assert await held(client, *codes) == [0, 0]
    late = await client.confirm(first.id)
    assert isinstance(late, Refusal)
    assert (reason(late), late.metadata["reservation_id"]) == ("RESERVATION_RELEASED", first.id)
    second = await reserve(client, codes, an_order(f"p-{codes[0]}"))
    assert isinstance(await client.confirm(second.id), Redemption)
    confirmed = await client.release(second.id)
    assert isinstance(confirmed, Refusal)
    assert reason(confirmed) == "RESERVATION_CONFIRMED"
    assert await uses(client, *codes) == [1, 1]


async def test_an_expired_hold_is_never_confirmed_and_its_capacity_is_free(client: Client) -> None:
    # easy-digital-downloads 3859, woocommerce 27673
    code = await create(client, limits={"total": 1})
    reservation = await reserve(client, [code], an_order(f"o-{code}"), ttl_s=1)
    assert isinstance(await client.redeem(code, Customer(id="other"), an_order(f"x-{code}")), Refusal)
    await expired(client, code)
    late = await client.confirm(reservation.id)
    assert isinstance(late, Refusal)
    assert reason(late) == "RESERVATION_EXPIRED"
    assert late.metadata["expire_time"]
    assert isinstance(await client.redeem(code, Customer(id="other"), an_order(f"x-{code}-2")), Redemption)
    assert isinstance(await client.release(reservation.id), Reservation)
    assert await uses(client, code) == [1]


async def test_an_order_is_never_blocked_by_its_own_hold(service: Service, client: Client) -> None:
    # woocommerce 31245, PR 67737
    code = await create(client, limits={"total": 1, "per_customer": 1, "budget_minor": 500}, currency_code="EUR")
    order = an_order(f"o-{code}")
    reservation = await reserve(client, [code], order)
    taken = await client.redeem(code, SHOPPER, order)
    assert isinstance(taken, Redemption)
    assert (await uses(client, code), await held(client, code)) == ([1], [0])
    late = await client.confirm(reservation.id)
    assert isinstance(late, Refusal)
    assert (reason(late), late.metadata["redemption_id"]) == ("ORDER_ALREADY_REDEEMED", taken.id)
    assert len(await rows_once_settled(service, code)) == 1


async def test_a_changed_cart_takes_the_place_of_the_earlier_hold(client: Client) -> None:
    code, other = await create(client, limits={"total": 1}), await create(client, limits={"total": 1})
    small, large = an_order(f"o-{code}"), an_order(f"o-{code}", amount_minor=9_000)
    first = await reserve(client, [code, other], small)
    second = await reserve(client, [code], large)
    # What the first held beside is free again.
    assert await held(client, code, other) == [1, 0]
    late = await client.confirm(first.id)
    assert isinstance(late, Refusal)
    assert reason(late) == "RESERVATION_REPLACED"
    taken = await client.confirm(second.id)
    assert isinstance(taken, Redemption)
    assert taken.discount_minor == 900
    changed = (await client.reserve([code], SHOPPER, small)).refusal
    assert reason(changed) == "ORDER_ALREADY_REDEEMED"


async def test_a_payment_retried_ten_times_holds_and_takes_one_use(client: Client) -> None:
    # lunar PR 2637
    code = await create(client, limits={"total": 10})
    order = an_order(f"o-{code}")
    responses = await asyncio.gather(*(client.reserve([code], SHOPPER, order, ttl_s=60) for _ in range(10)))
    assert len({response.reservation.id for response in responses}) == 1
    assert await held(client, code) == [1]
    confirmed = await asyncio.gather(*(client.confirm(response.reservation.id) for response in responses))
    assert len({one.id for one in confirmed if isinstance(one, Redemption)}) == 1
    assert all(isinstance(one, Redemption) for one in confirmed)
    assert await uses(client, code) == [1]


async def test_the_same_request_is_answered_again_and_another_is_told_apart(client: Client) -> None:
    code = await create(client)
    order = an_order(f"o-{code}")
    first = await client.reserve([code], SHOPPER, order, request_id=code, ttl_s=60)
    assert await client.reserve([code], SHOPPER, order, request_id=code, ttl_s=60) == first
    for call in (
        client.reserve([code], SHOPPER, order, request_id=code, ttl_s=61),
        client.reserve([code], SHOPPER, an_order(f"p-{code}"), request_id=code, ttl_s=60),
        client.redeem(code, SHOPPER, order, request_id=code),
    ):
        with pytest.raises(RequestIdReused):
            await call
    assert isinstance(await client.confirm(first.reservation.id), Redemption)
    assert await client.reserve([code], SHOPPER, order, request_id=code, ttl_s=60) == first


async def test_a_refusal_holds_nothing_and_is_remembered(client: Client) -> None:
    code, full = await create(client), await create(client, limits={"total": 1})
    assert isinstance(await client.redeem(full, Customer(id="other"), an_order(f"x-{full}")), Redemption)
    order = an_order(f"o-{code}")
    refused = await client.reserve([code, full], SHOPPER, order, request_id=code)
    assert reason(refused.refusal) == "CAMPAIGN_LIMIT_REACHED"
    assert await held(client, code, full) == [0, 0]
    assert (await client.reserve([code, full], SHOPPER, order, request_id=code)).refusal == refused.refusal


async def test_a_paused_campaign_confirms_nothing_and_the_hold_stands(service: Service, client: Client) -> None:
    code, other = await create(client), await create(client)
    reservation = await reserve(client, [code, other], an_order(f"o-{code}"))
    await client.pause_campaign(code, "stop")
    refused = await client.confirm(reservation.id)
    assert isinstance(refused, Refusal)
    assert reason(refused) == "CAMPAIGN_PAUSED"
    assert (await uses(client, code, other), await held(client, code, other)) == ([0, 0], [1, 1])
    await client.resume_campaign(code)
    assert isinstance(await client.confirm(reservation.id), Redemption)
    await rows_once_settled(service, code)
    assert await service.taken_while_paused(code) == 0


async def test_what_was_never_held_is_not_found(client: Client) -> None:
    for id_ in (f"h00-{'0' * 32}", f"h99-{'0' * 32}"):
        with pytest.raises(NotFound):
            await client.confirm(id_)
        with pytest.raises(NotFound):
            await client.release(id_)
