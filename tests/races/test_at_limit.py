"""64 clients at once at the limit: a budget is given to the last cent, and quotes pass limits as far as they may."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from tests.grpc.test_combined import create, uses
from tests.races.test_limits import CLIENTS, priced, race, refused, taken
from tests.service import Service, rows_once_settled
from vouchsafe.client import Client, Customer, DiscountCap, Offer, Order, Redemption, ValidateAndRedeemResponse

SHOPPERS = [Customer(id=f"c-{number}") for number in range(CLIENTS)]


def unequal(seed: int) -> list[int]:
    chance = random.Random(seed)
    return [chance.choice([1, 7, 333, 900, chance.randint(1, 5_000)]) for _ in range(CLIENTS)]


async def spent(client: Client, code: str) -> int:
    return (await client.get_campaign_stats(code)).gate.discount_minor


async def of_two(client: Client, codes: list[str], orders: list[Order], tokens: list[str]) -> list[Redemption]:
    """Both codes on every order, all at once; half of them name the codes the other way round."""

    async def shop(number: int) -> ValidateAndRedeemResponse:
        named = codes if number % 2 else codes[::-1]
        return await client.redeem_codes(named, SHOPPERS[number], orders[number], quote_token=tokens[number])

    numbers = random.sample(range(CLIENTS), CLIENTS)
    responses = await asyncio.gather(*map(shop, numbers))
    return [response.redemption for response in responses if response.HasField("redemption")]


@pytest.mark.parametrize("seed", range(3))
async def test_a_partial_budget_is_given_to_the_last_cent(service: Service, client: Client, seed: int) -> None:
    prices = unequal(seed)
    budget = sum(prices) // 3
    limits = {"budget_minor": budget, "partial_budget": True}
    code = await create(client, 10_000, currency_code="EUR", limits=limits)
    found = await race(client, code, SHOPPERS, priced(code, prices))
    assert sum(one.discount_minor for one in taken(found)) == budget == await spent(client, code)
    assert refused(found) == {"BUDGET_EXHAUSTED"}
    for one in taken(found):
        (applied,) = one.applied_codes
        is_cut = applied.discount_minor < applied.desired_minor == one.order_amount_minor
        assert list(applied.caps) == [DiscountCap.DISCOUNT_CAP_BUDGET] * is_cut
    # Whoever is cut gets all that is left, so nobody comes after.
    assert sum(bool(one.applied_codes[0].caps) for one in taken(found)) <= 1
    assert len(await rows_once_settled(service, code)) == len(taken(found))


async def test_every_customer_gets_their_budget_to_the_last_cent(client: Client) -> None:
    limits = {"customer_budget_minor": 1_001, "partial_budget": True}
    code = await create(client, 5_000, currency_code="EUR", limits=limits)
    shoppers = [Customer(id=f"c-{number % 16}") for number in range(CLIENTS)]
    found = await race(client, code, shoppers, priced(code, [random.Random(1).randint(1_000, 3_000)] * CLIENTS))
    given: Counter[str] = Counter()
    for one in taken(found):
        given[one.customer_id] += one.discount_minor
    assert dict(given) == dict.fromkeys({shopper.id for shopper in shoppers}, 1_001)
    assert refused(found) == {"CUSTOMER_BUDGET_EXHAUSTED"}


async def test_a_partial_budget_of_two_codes_orders_is_given_to_the_last_cent(service: Service, client: Client) -> None:
    prices = unequal(9)
    budget = sum(prices) // 3
    limits = {"budget_minor": budget, "partial_budget": True}
    short = await create(client, 9_000, currency_code="EUR", limits=limits)
    other = await create(client, 5_000)
    # Every price is high enough for the other code to have something to give, too.
    orders = priced(short, [price + 100 for price in prices])
    found, alone = await asyncio.gather(
        of_two(client, [short, other], orders, [""] * CLIENTS),
        race(client, short, SHOPPERS, priced(f"{short}-x", prices)),
    )
    parts = [part for one in (*found, *taken(alone)) for part in one.applied_codes if part.campaign_id == short]
    assert sum(part.discount_minor for part in parts) == budget == await spent(client, short)
    assert all(len(one.applied_codes) == 2 for one in found)
    assert await uses(client, short, other) == [len(parts), len(found)]
    for campaign, count in ((short, len(parts)), (other, len(found))):
        assert len(await rows_once_settled(service, campaign)) == count


async def quotes(client: Client, codes: list[str], orders: list[Order]) -> list[str]:
    async def quote(number: int) -> str:
        offer = (await client.validate_codes(codes, SHOPPERS[number], orders[number])).offer
        assert isinstance(offer, Offer)
        assert offer.quote_token
        return offer.quote_token

    return await asyncio.gather(*map(quote, range(CLIENTS)))


USES = {"total": 20, "honour_quoted": {"within": "600s", "overdraft_uses": 7}}
MONEY = {"budget_minor": 20 * 500, "honour_quoted": {"within": "600s", "overdraft_minor": 7 * 500}}


@pytest.mark.parametrize("limits", [USES, MONEY], ids=["uses", "money"])
@pytest.mark.parametrize(("with_quote", "expected"), [(CLIENTS, 27), (CLIENTS // 2, 27), (0, 20)])
async def test_quotes_pass_the_limit_exactly_as_far_as_it_says(
    service: Service, client: Client, limits: dict[str, Any], with_quote: int, expected: int
) -> None:
    code = await create(client, currency_code="EUR", limits=limits)
    orders = priced(code, [5_000] * CLIENTS)
    tokens = await quotes(client, [code], orders)

    async def shop(number: int) -> bool:
        token = tokens[number] if number < with_quote else ""
        return isinstance(await client.redeem(code, SHOPPERS[number], orders[number], quote_token=token), Redemption)

    found = await asyncio.gather(*map(shop, random.sample(range(CLIENTS), CLIENTS)))
    assert sum(found) == expected
    assert await uses(client, code) == [expected]
    assert await spent(client, code) == expected * 500
    assert len(await rows_once_settled(service, code)) == expected


@pytest.mark.parametrize("limits", [USES, MONEY], ids=["uses", "money"])
async def test_quotes_of_two_codes_pass_the_limit_exactly_as_far_as_it_says(
    service: Service, client: Client, limits: dict[str, Any]
) -> None:
    code, other = await create(client, currency_code="EUR", limits=limits), await create(client)
    orders = priced(code, [5_000] * CLIENTS)
    # Whichever way round they are named, the limited one is worked out first.
    definition = (await client.get_campaign(code)).definition
    definition.stacking.priority = 1
    await client.update_campaign(code, definition)
    tokens = await quotes(client, [other, code], orders)
    found = await of_two(client, [code, other], orders, tokens)
    assert len(found) == 27
    assert await uses(client, code, other) == [27, 27]
    assert await spent(client, code) == 27 * 500
    assert len(await rows_once_settled(service, code)) == 27
