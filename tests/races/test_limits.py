"""Every kind of limit under 64 clients at once, through real gRPC and two workers: exact to the use and to the cent."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from tests.grpc.test_combined import create, reason
from tests.service import Service, an_order, rows_once_settled
from vouchsafe.client import Client, Customer, Order, OrderLine, Redemption, Refusal

CLIENTS = 64


async def race(client: Client, code: str, shoppers: list[Customer], orders: list[Order]) -> list[Redemption | Refusal]:
    """All at once, in any order."""
    asked = list(zip(shoppers, orders, strict=True))
    random.shuffle(asked)
    return await asyncio.gather(*(client.redeem(code, shopper, order) for shopper, order in asked))


def taken(found: list[Redemption | Refusal]) -> list[Redemption]:
    return [outcome for outcome in found if isinstance(outcome, Redemption)]


def refused(found: list[Redemption | Refusal]) -> set[str]:
    return {reason(outcome) for outcome in found if isinstance(outcome, Refusal)}


def priced(code: str, prices: list[int]) -> list[Order]:
    return [
        Order(
            id=f"{code}-{number}",
            currency_code="EUR",
            lines=[OrderLine(sku="shirt", quantity=1, unit_price_minor=price)],
        )
        for number, price in enumerate(prices)
    ]


async def test_a_budget_is_spent_to_the_last_cent_and_never_beyond(service: Service, client: Client) -> None:
    # Half of each order is given; 40 of 64 equal orders use up the budget exactly.
    code = await create(client, 5_000, currency_code="EUR", limits={"budget_minor": 40 * 1_250})
    found = await race(client, code, [Customer(id=f"c-{n}") for n in range(CLIENTS)], priced(code, [2_500] * CLIENTS))
    assert sum(one.discount_minor for one in taken(found)) == 40 * 1_250
    assert len(taken(found)) == 40
    assert refused(found) == {"BUDGET_EXHAUSTED"}
    assert len(await rows_once_settled(service, code)) == 40


async def test_a_budget_of_unequal_orders_is_never_passed_and_nothing_that_fits_is_left(client: Client) -> None:
    budget = 10_000
    code = await create(client, 10_000, currency_code="EUR", limits={"budget_minor": budget})
    prices = [random.Random(3).randint(1, 900) for _ in range(CLIENTS)]
    found = await race(client, code, [Customer(id=f"c-{n}") for n in range(CLIENTS)], priced(code, prices))
    spent = sum(one.discount_minor for one in taken(found))
    assert spent <= budget
    # What is left over is less than anything that was refused asks for, tried once more now.
    for size in (budget - spent, budget - spent + 1):
        if size:
            outcome = await client.redeem(code, Customer(id="last"), priced(f"{code}-{size}", [size])[0])
            assert isinstance(outcome, Refusal) == (size > budget - spent)
            break


@pytest.mark.parametrize(
    ("limits", "why", "expected"),
    [
        ({"per_code": 9}, "CODE_LIMIT_REACHED", 9),
        ({"total": 11}, "CAMPAIGN_LIMIT_REACHED", 11),
        ({"distinct_customers": 5}, "DISTINCT_CUSTOMERS_REACHED", 5 * 4),
        ({"per_customer": 3}, "CUSTOMER_LIMIT_REACHED", 16 * 3),
        ({"periods": [{"period": "PERIOD_MONTH", "uses": 2}]}, "CUSTOMER_PERIOD_LIMIT_REACHED", 16 * 2),
        ({"windows": [{"window": "3600s", "uses": 1}]}, "CUSTOMER_PERIOD_LIMIT_REACHED", 16),
        ({"customer_budget_minor": 1_000}, "CUSTOMER_BUDGET_EXHAUSTED", 16 * 2),
        ({"attributes": [{"key": "store", "uses": 6}]}, "ATTRIBUTE_LIMIT_REACHED", 2 * 6),
        ({"identities": {"kinds": ["IDENTITY_KIND_CARD"], "uses": 3}}, "IDENTITY_LIMIT_REACHED", 8 * 3),
        ({"per_customer": 3, "distinct_customers": 5, "total": 12}, None, 12),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
async def test_64_clients_take_exactly_what_a_limit_allows(
    service: Service, client: Client, limits: dict[str, Any], why: str | None, expected: int
) -> None:
    # 16 customers with 4 orders each, 2 stores, 8 cards: every limit has somebody to stop.
    code = await create(client, currency_code="EUR", limits=limits)
    shoppers, orders = [], priced(code, [5_000] * CLIENTS)
    for number in range(CLIENTS):
        shoppers.append(Customer(id=f"c-{number % 16}", card_fingerprint=f"card-{number % 8}"))
        orders[number].metadata["store"] = f"store-{number % 2}"
    found = await race(client, code, shoppers, orders)
    assert len(taken(found)) == expected
    assert refused(found) == {why} or why is None
    counts = Counter(one.customer_id for one in taken(found))
    if "per_customer" in limits:
        assert max(counts.values()) <= limits["per_customer"]
    if "distinct_customers" in limits:
        assert len(counts) <= limits["distinct_customers"]
    assert (await client.get_campaign(code)).redeemed_count == expected
    assert len(await rows_once_settled(service, code)) == expected


async def test_guests_do_not_escape_by_an_alias_another_card_or_another_account(client: Client) -> None:
    # magento 776, polar PR 13394
    code = await create(
        client,
        limits={
            "identities": {
                "kinds": [f"IDENTITY_KIND_{kind}" for kind in ("CUSTOMER_ID", "EMAIL", "CARD", "DEVICE")],
                "uses": 1,
            }
        },
    )
    ann = Customer(id="ann", email="Ann.B@gmail.com", card_fingerprint="card-1", device_id="phone-1")
    assert isinstance(await client.redeem(code, ann, an_order(f"{code}-0")), Redemption)
    disguises = [
        Customer(id="ann", email="other@example.com", card_fingerprint="card-2", device_id="phone-2"),
        Customer(id="guest-1", email="annb+sale@googlemail.com"),
        Customer(id="guest-2", card_fingerprint="card-1"),
        Customer(id="guest-3", email="new@example.com", device_id="phone-1"),
    ]
    for number, disguise in enumerate(disguises, 1):
        outcome = await client.redeem(code, disguise, an_order(f"{code}-{number}"))
        assert isinstance(outcome, Refusal)
        assert reason(outcome) == "IDENTITY_LIMIT_REACHED"
    bob = Customer(id="bob", email="bob@example.com", card_fingerprint="card-3", device_id="phone-3")
    assert isinstance(await client.redeem(code, bob, an_order(f"{code}-9")), Redemption)


async def test_a_limit_below_what_is_used_admits_nothing_more_and_takes_nothing_back(client: Client) -> None:
    code = await create(client)
    for number in range(5):
        assert isinstance(await client.redeem(code, Customer(id="c"), an_order(f"{code}-{number}")), Redemption)
    definition = (await client.get_campaign(code)).definition
    # Uses by customer were counted before anybody limited them.
    definition.limits.per_customer = 3
    lowered = await client.update_campaign(code, definition)
    assert lowered.redeemed_count == 5
    outcome = await client.redeem(code, Customer(id="c"), an_order(f"{code}-x"))
    assert isinstance(outcome, Refusal)
    assert (reason(outcome), outcome.metadata["limit"], outcome.metadata["used"]) == (
        "CUSTOMER_LIMIT_REACHED",
        "3",
        "5",
    )
    assert isinstance(await client.redeem(code, Customer(id="d"), an_order(f"{code}-y")), Redemption)
