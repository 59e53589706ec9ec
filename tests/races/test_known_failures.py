"""What went wrong in other systems, raced here: more used than there is, and capacity that never came back.

Each test names where it was seen. All of it through real gRPC and two workers, with exact counts.
"""

from __future__ import annotations

import asyncio
import random

import grpc

from tests.grpc.test_combined import create, reason, uses
from tests.grpc.test_reservations import held
from tests.service import Service, an_order, rows_once_settled
from vouchsafe.client import Client, Customer, Redemption, Refusal, Reservation, Rollback
from vouchsafe.v1.redemption_service_pb2 import ValidateAndRedeemRequest
from vouchsafe.v1.redemption_service_pb2_grpc import RedemptionServiceStub

CLIENTS = 64
# One person, by every name that they have.
DISGUISES = (
    Customer(id="ann", email="ann.b@gmail.com", card_fingerprint="card-1", device_id="phone-1"),
    Customer(id="guest-1", email="annb+sale@googlemail.com", card_fingerprint="card-1", device_id="phone-1"),
    Customer(id="guest-2", email="ann.b@gmail.com", card_fingerprint="card-1", device_id="phone-1"),
    Customer(id="ann", email="ANN.B@gmail.com", card_fingerprint="card-1", device_id="phone-1"),
)


def redeemed(outcomes: list[Redemption | Refusal]) -> list[Redemption]:
    return [outcome for outcome in outcomes if isinstance(outcome, Redemption)]


async def test_woocommerce_13505_a_coupon_for_1_000_uses_used_1_500_times(service: Service, client: Client) -> None:
    code = await create(client, limits={"total": 1_000})
    taken = 0
    for first in range(0, 1_600, 200):
        buyers = range(first, first + 200)
        outcomes = await asyncio.gather(
            *(client.redeem(code, Customer(id=f"c-{n}"), an_order(f"{code}-{n}")) for n in buyers)
        )
        taken += len(redeemed(outcomes))
    assert taken == 1_000
    # Its counter said 700 there.
    assert await uses(client, code) == [1_000]
    assert len(await rows_once_settled(service, code)) == 1_000


async def test_vendure_4660_a_single_use_code_on_racing_orders(service: Service, client: Client) -> None:
    code = await create(client, limits={"per_code": 1})
    outcomes = await asyncio.gather(
        *(client.redeem(code, Customer(id="one"), an_order(f"{code}-{n}")) for n in range(CLIENTS))
    )
    assert len(redeemed(outcomes)) == 1
    assert {reason(one) for one in outcomes if isinstance(one, Refusal)} == {"CODE_LIMIT_REACHED"}
    assert len(await rows_once_settled(service, code)) == 1


async def test_saleor_15855_a_voucher_for_one_refunded_while_the_order_completed(
    service: Service, client: Client
) -> None:
    code = await create(client, limits={"total": 1})

    async def pay(number: int) -> Redemption | None:
        response = await client.reserve([code], Customer(id=f"c-{number}"), an_order(f"{code}-{number}"))
        if not response.HasField("reservation"):
            return None  # told before the payment, so there is nothing to refund
        outcome = await client.confirm(response.reservation.id)
        assert isinstance(outcome, Redemption)  # who holds it when the payment has gone through gets it
        return outcome

    paid = [one for one in await asyncio.gather(*map(pay, range(CLIENTS))) if one]
    assert len(paid) == 1
    assert len(await rows_once_settled(service, code)) == 1
    assert await client.get_redemption(paid[0].id) == paid[0]


async def test_shopware_11245_requests_in_a_single_packet(service: Service, client: Client) -> None:
    code = await create(client, limits={"per_code": 1})
    async with grpc.aio.insecure_channel(service.target) as channel:
        stub = RedemptionServiceStub(channel)
        # One connection, and all of them before the first answer.
        calls = [
            stub.ValidateAndRedeem(
                ValidateAndRedeemRequest(
                    request_id=f"{code}-{n}", codes=[code], customer=Customer(id="one"), order=an_order(f"{code}-{n}")
                ),
                metadata=service.metadata,
            )
            for n in range(CLIENTS)
        ]
        responses = await asyncio.gather(*calls)
    assert sum(response.HasField("redemption") for response in responses) == 1
    assert len(await rows_once_settled(service, code)) == 1


async def test_medusa_16347_store_credit_spent_twice(service: Service, client: Client) -> None:
    # All that is taken off, and all of it from one customer's budget.
    budget = 10_000
    code = await create(client, 10_000, currency_code="EUR", limits={"customer_budget_minor": budget})
    prices = [random.Random(16347).randint(500, 900) for _ in range(CLIENTS)]
    outcomes = await asyncio.gather(
        *(
            client.redeem(code, Customer(id="one"), an_order(f"{code}-{n}", amount_minor=price))
            for n, price in enumerate(prices)
        )
    )
    spent = sum(one.discount_minor for one in redeemed(outcomes))
    assert budget - max(prices) < spent <= budget
    last = await client.redeem(code, Customer(id="one"), an_order(f"{code}-x", amount_minor=budget - spent + 1))
    assert isinstance(last, Refusal)
    assert int(last.metadata["used"]) == spent
    assert (await client.get_campaign_stats(code)).gate.discount_minor == spent
    assert len(await rows_once_settled(service, code)) == len(redeemed(outcomes))


async def test_voucherify_two_rollbacks_in_the_same_millisecond(client: Client) -> None:
    code = await create(client, limits={"total": CLIENTS})
    taken = await asyncio.gather(
        *(client.redeem(code, Customer(id=f"c-{n}"), an_order(f"{code}-{n}")) for n in range(CLIENTS))
    )
    twice = [one.id for one in redeemed(taken)] * 2
    random.shuffle(twice)
    outcomes = await asyncio.gather(*map(client.roll_back, twice))
    assert sum(isinstance(outcome, Rollback) for outcome in outcomes) == CLIENTS
    assert {reason(one) for one in outcomes if isinstance(one, Refusal)} == {"ALREADY_ROLLED_BACK"}
    found = (await client.get_campaign_stats(code)).gate
    assert (found.redeemed_count, found.discount_minor) == (0, 0)


async def test_woocommerce_27673_a_failed_payment_left_the_coupon_blocked(client: Client) -> None:
    code = await create(client, limits={"total": 1})

    async def try_to_pay(number: int) -> int:
        """How often this shopper held the coupon in vain."""
        for attempt in range(3):
            response = await client.reserve([code], Customer(id=f"c-{number}"), an_order(f"{code}-{number}-{attempt}"))
            if response.HasField("reservation"):
                assert isinstance(await client.release(response.reservation.id), Reservation)
                return 1
        return 0

    assert sum(await asyncio.gather(*map(try_to_pay, range(CLIENTS)))) >= 1
    # After all those failures it is as free as it was, for exactly one.
    outcomes = await asyncio.gather(
        *(client.redeem(code, Customer(id=f"d-{n}"), an_order(f"{code}-d-{n}")) for n in range(CLIENTS))
    )
    assert len(redeemed(outcomes)) == 1


async def test_woocommerce_31245_an_order_blocked_by_its_own_hold(service: Service, client: Client) -> None:
    code = await create(client, limits={"total": 1, "per_customer": 1})
    order = an_order(code)
    assert (await client.reserve([code], Customer(id="one"), order)).HasField("reservation")
    outcomes = await asyncio.gather(
        *(client.redeem(code, Customer(id="one"), order) for _ in range(CLIENTS)),
        *(client.redeem(code, Customer(id="other"), an_order(f"{code}-{n}")) for n in range(CLIENTS)),
    )
    assert len({one.id for one in redeemed(outcomes[:CLIENTS])}) == 1
    assert len(redeemed(outcomes)) == CLIENTS
    assert (await uses(client, code), await held(client, code)) == ([1], [0])
    assert len(await rows_once_settled(service, code)) == 1


async def test_lunar_2637_each_retry_of_a_payment_used_the_coupon_again(service: Service, client: Client) -> None:
    code = await create(client, limits={"total": 200})

    async def pay(number: int) -> set[str]:
        order, shopper = an_order(f"{code}-{number}"), Customer(id=f"c-{number}")
        outcomes = await asyncio.gather(*(client.redeem(code, shopper, order) for _ in range(10)))
        # Full price was charged there from the second time on.
        assert {one.discount_minor for one in redeemed(outcomes)} == {500}
        assert len(redeemed(outcomes)) == 10
        return {one.id for one in redeemed(outcomes)}

    found = await asyncio.gather(*map(pay, range(20)))
    assert all(len(ids) == 1 for ids in found)
    assert await uses(client, code) == [20]
    assert await rows_once_settled(service, code) == set.union(*found)


async def test_easy_digital_downloads_3859_slow_payments_overrun_the_limit(service: Service, client: Client) -> None:
    code = await create(client, limits={"total": 10})
    responses = await asyncio.gather(
        *(client.reserve([code], Customer(id=f"c-{n}"), an_order(f"{code}-{n}")) for n in range(CLIENTS))
    )
    slow = [one.reservation.id for one in responses if one.HasField("reservation")]
    assert len(slow) == 10
    # Quick ones that come meanwhile get nothing.
    quick = await asyncio.gather(
        *(client.redeem(code, Customer(id=f"q-{n}"), an_order(f"{code}-q-{n}")) for n in range(CLIENTS))
    )
    assert redeemed(quick) == []
    assert len(redeemed(await asyncio.gather(*map(client.confirm, slow)))) == 10
    assert len(await rows_once_settled(service, code)) == 10


async def test_vendure_1466_sylius_10125_cancelled_orders_still_count(service: Service, client: Client) -> None:
    code = await create(client, limits={"total": 9, "per_customer": 1})

    async def shop(number: int) -> None:
        """Buys and changes their mind twice; then buys, and the first eight keep it."""
        for attempt in range(3):
            while True:
                outcome = await client.redeem(code, Customer(id=f"c-{number}"), an_order(f"{code}-{number}-{attempt}"))
                if isinstance(outcome, Redemption):
                    break
                assert reason(outcome) == "CAMPAIGN_LIMIT_REACHED"
                await asyncio.sleep(0.01)
            if attempt < 2 or number >= 8:
                assert isinstance(await client.roll_back(outcome.id), Rollback)

    await asyncio.gather(*map(shop, range(16)))
    assert await uses(client, code) == [8]
    late = [await client.redeem(code, Customer(id=f"late-{n}"), an_order(f"{code}-late-{n}")) for n in range(2)]
    assert len(redeemed(late)) == 1
    assert len(await rows_once_settled(service, code)) == 16 * 3 + 1


async def test_magento_776_polar_13394_guests_escape_the_limit_per_customer(service: Service, client: Client) -> None:
    kinds = [f"IDENTITY_KIND_{kind}" for kind in ("CUSTOMER_ID", "EMAIL", "CARD", "DEVICE")]
    code = await create(client, limits={"identities": {"kinds": kinds, "uses": 1}})
    outcomes = await asyncio.gather(
        *(client.redeem(code, DISGUISES[n % 4], an_order(f"{code}-{n}")) for n in range(CLIENTS))
    )
    assert len(redeemed(outcomes)) == 1
    assert {reason(one) for one in outcomes if isinstance(one, Refusal)} == {"IDENTITY_LIMIT_REACHED"}
    assert len(await rows_once_settled(service, code)) == 1
