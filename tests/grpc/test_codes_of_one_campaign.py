"""Two codes of one campaign on one order, through real gRPC: what the order holds of them is never in its own way."""

from __future__ import annotations

from typing import Any

import pytest

from tests.grpc.test_combined import create, create_pair, reason, redemption, uses
from tests.grpc.test_reservations import SHOPPER, held, reserve
from tests.service import Service, an_order, rows_once_settled
from vouchsafe.client import Client, Customer, Redemption, Refusal

# Each has room for the two codes on an order of 50.00, and for nothing more: 5.00 and 4.50.
FULL: list[dict[str, Any]] = [
    {"total": 2},
    {"per_customer": 2},
    {"budget_minor": 950},
    {"customer_budget_minor": 950},
    {"distinct_customers": 1},
    {"windows": [{"window": "3600s", "uses": 2}]},
    {"periods": [{"period": "PERIOD_MONTH", "uses": 2}]},
    {"identities": {"kinds": ["IDENTITY_KIND_CUSTOMER_ID"], "uses": 2}},
]
full = pytest.mark.parametrize("limits", FULL, ids=[next(iter(limits)) for limits in FULL])


@full
async def test_a_changed_cart_is_held_again_and_then_redeemed(
    service: Service, client: Client, limits: dict[str, Any]
) -> None:
    campaign, codes = await create_pair(client, limits=limits)
    order = an_order(f"o-{campaign}")
    first = await reserve(client, codes, order)
    # The other way round the first code takes less than before, and the second one more.
    second = await reserve(client, codes[::-1], order)
    assert [one.discount_minor for one in second.applied_codes] == [500, 450]
    assert await held(client, campaign) == [2]
    late = await client.confirm(first.id)
    assert isinstance(late, Refusal)
    assert reason(late) == "RESERVATION_REPLACED"
    assert isinstance(await client.confirm(second.id), Redemption)
    assert (await uses(client, campaign), await held(client, campaign)) == ([2], [0])
    assert len(await rows_once_settled(service, campaign)) == 2


@full
async def test_a_changed_cart_is_offered_and_redeemed_what_it_holds(
    service: Service, client: Client, limits: dict[str, Any]
) -> None:
    campaign, codes = await create_pair(client, limits=limits)
    order = an_order(f"o-{campaign}")
    await reserve(client, codes, order)
    # To everybody else nothing is left, as far as others are concerned by the limit.
    other = await client.validate(codes[0], Customer(id="other"), an_order(f"x-{campaign}"))
    assert isinstance(other, Refusal) == any(name in limits for name in ("total", "budget_minor", "distinct_customers"))
    offered = (await client.validate_codes(codes[::-1], SHOPPER, order)).offer
    taken = redemption(await client.redeem_codes(codes[::-1], SHOPPER, order))
    assert taken.discount_minor == 950
    assert taken.applied_codes == offered.applied_codes
    assert (await uses(client, campaign), await held(client, campaign)) == ([2], [0])
    assert len(await rows_once_settled(service, campaign)) == 2


async def test_a_smaller_cart_and_one_of_the_codes_can_be_asked_for_too(client: Client) -> None:
    campaign, codes = await create_pair(client, limits={"total": 2, "budget_minor": 950})
    await reserve(client, codes, an_order(f"o-{campaign}"))
    small = an_order(f"o-{campaign}", amount_minor=4_000)
    second = await reserve(client, codes, small)
    assert [one.discount_minor for one in second.applied_codes] == [400, 360]
    third = await reserve(client, codes[1:], small)
    assert (third.discount_minor, await held(client, campaign)) == (400, [1])


async def test_a_larger_cart_gets_the_rest_of_the_budget_and_not_more(client: Client) -> None:
    campaign, codes = await create_pair(client, limits={"budget_minor": 1_000, "partial_budget": True})
    await reserve(client, codes, an_order(f"o-{campaign}"))
    large = an_order(f"o-{campaign}", amount_minor=9_000)
    offer = (await client.validate_codes(codes, SHOPPER, large)).offer
    second = await reserve(client, codes, large)
    assert [one.discount_minor for one in second.applied_codes] == [900, 100]
    assert second.applied_codes == offer.applied_codes
    assert isinstance(await client.confirm(second.id), Redemption)


async def test_what_does_not_fit_is_refused_and_what_is_held_stands(client: Client) -> None:
    campaign, codes = await create_pair(client, limits={"budget_minor": 950})
    other = await create(client)
    first = await reserve(client, codes, an_order(f"o-{campaign}"))
    large = an_order(f"o-{campaign}", amount_minor=9_000)
    assert reason((await client.validate_codes(codes, SHOPPER, large)).refusal) == "BUDGET_EXHAUSTED"
    for wanted in (codes, [*codes, other]):
        assert reason((await client.reserve(wanted, SHOPPER, large)).refusal) == "BUDGET_EXHAUSTED"
        assert reason((await client.redeem_codes(wanted, SHOPPER, large)).refusal) == "BUDGET_EXHAUSTED"
    assert await held(client, campaign, other) == [2, 0]
    assert isinstance(await client.confirm(first.id), Redemption)
