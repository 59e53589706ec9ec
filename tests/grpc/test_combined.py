"""Several codes on one order, redeemed through real gRPC: all that apply or none, once, and read back as answered."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from tests.service import Service, an_order, rows_once_settled, settle
from vouchsafe.client import (
    CampaignDefinition,
    Client,
    Combining,
    Coverage,
    Customer,
    Redemption,
    Refusal,
    RefusalReason,
    RequestIdReused,
    Sequencing,
    ValidateAndRedeemResponse,
)

SHOPPER = Customer(id="customer-1")
PART = Combining(coverage=Coverage.COVERAGE_APPLICABLE_PART)


async def create(client: Client, basis_points: int = 1_000, **fields: Any) -> str:
    """A campaign whose id is its only code, and which combines with all others."""
    code = f"c-{uuid.uuid4()}"
    definition = {
        "display_name": code,
        "effects": [{"percent_off": {"basis_points": basis_points}}],
        "stacking": {"mode": "COMBINE_MODE_JOINT"},
        **fields,
    }
    await client.create_campaign(code, ParseDict(definition, CampaignDefinition()), shared_codes=[code])
    return code


async def create_pair(client: Client, **fields: Any) -> tuple[str, list[str]]:
    """A campaign of 10 percent with two codes that combine with each other; its id, and the codes."""
    campaign = f"c-{uuid.uuid4()}"
    definition = {
        "display_name": campaign,
        "currency_code": "EUR",
        "effects": [{"percent_off": {"basis_points": 1_000}}],
        "stacking": {"mode": "COMBINE_MODE_JOINT"},
        **fields,
    }
    codes = [f"{campaign}-{letter}" for letter in "ab"]
    await client.create_campaign(campaign, ParseDict(definition, CampaignDefinition()), shared_codes=codes)
    return campaign, codes


def reason(outcome: Refusal) -> str:
    return RefusalReason.Name(outcome.reason).removeprefix("REFUSAL_REASON_")


def redemption(response: ValidateAndRedeemResponse) -> Redemption:
    assert response.HasField("redemption"), response
    return response.redemption


async def uses(client: Client, *campaigns: str) -> list[int]:
    return [(await client.get_campaign(campaign)).redeemed_count for campaign in campaigns]


async def test_all_codes_are_redeemed_as_one(service: Service, client: Client) -> None:
    codes = [await create(client), await create(client, 2_000), await create(client, 5_000)]
    order = an_order(f"o-{codes[0]}")
    taken = redemption(await client.redeem_codes(codes, SHOPPER, order))
    assert [(one.code.lower(), one.discount_minor) for one in taken.applied_codes] == [
        (codes[0], 500),
        (codes[1], 900),
        (codes[2], 1_800),
    ]
    assert (taken.discount_minor, taken.order_amount_minor) == (3_200, 5_000)
    assert await uses(client, *codes) == [1, 1, 1]
    assert await client.get_redemption(taken.id) == taken
    for code in codes:
        assert len(await rows_once_settled(service, code)) == 1
    assert await client.get_redemption(taken.id) == taken


async def test_what_an_order_has_stands_when_nothing_of_it_applies_any_more(client: Client) -> None:
    campaign, codes = await create_pair(client)
    order = an_order(f"o-{campaign}")
    taken = redemption(await client.redeem_codes(codes, SHOPPER, order))
    definition = (await client.get_campaign(campaign)).definition
    definition.currency_code = "JPY"
    await client.update_campaign(campaign, definition)
    # Under another request id it is told again, and never takes nothing at all.
    assert redemption(await client.redeem_codes(codes, SHOPPER, order)) == taken
    refused = (await client.reserve(codes, SHOPPER, order)).refusal
    assert reason(refused) == "ORDER_ALREADY_REDEEMED"
    assert refused.metadata["redemption_id"] == taken.id
    assert await uses(client, campaign) == [2]


async def test_all_or_nothing_takes_nothing_when_one_does_not_apply(client: Client) -> None:
    good, full = await create(client), await create(client, limits={"total": 1})
    assert isinstance(await client.redeem(full, SHOPPER, an_order(f"{full}-0")), Redemption)
    response = await client.redeem_codes([good, full], SHOPPER, an_order(f"{full}-1"))
    assert reason(response.refusal) == "CAMPAIGN_LIMIT_REACHED"
    assert response.refusal.code.lower() == full
    assert await uses(client, good, full) == [0, 1]


async def test_the_applicable_part_is_taken_and_the_rest_is_told(client: Client) -> None:
    good, full = await create(client), await create(client, limits={"total": 1})
    assert isinstance(await client.redeem(full, SHOPPER, an_order(f"{full}-0")), Redemption)
    request_id = str(uuid.uuid4())
    first = await client.redeem_codes(
        [full, good, "NOBODY"], SHOPPER, an_order(f"{full}-1"), combining=PART, request_id=request_id
    )
    assert [one.code.lower() for one in redemption(first).applied_codes] == [good]
    assert {reason(one) for one in first.inapplicable} == {"CAMPAIGN_LIMIT_REACHED", "CODE_UNKNOWN"}
    again = await client.redeem_codes(
        [full, good, "NOBODY"], SHOPPER, an_order(f"{full}-1"), combining=PART, request_id=request_id
    )
    assert again == first


async def test_the_best_deal_is_redeemed_as_it_was_offered(client: Client) -> None:
    sums = await create(client, currency_code="EUR", effects=[{"amount_off": {"amount_minor": 1_000}}])
    half = await create(client, 5_000)
    best = Combining(sequencing=Sequencing.SEQUENCING_BEST_DEAL)
    order = an_order(f"o-{sums}")
    offer = (await client.validate_codes([sums, half], SHOPPER, order, combining=best)).offer
    taken = redemption(await client.redeem_codes([sums, half], SHOPPER, order, combining=best))
    assert taken.applied_codes == offer.applied_codes
    assert (taken.discount_minor, taken.is_best_deal) == (3_500, True)


async def test_a_repetition_gets_the_first_answer(service: Service, client: Client) -> None:
    codes = [await create(client), await create(client)]
    order, request_id = an_order(f"o-{codes[0]}"), str(uuid.uuid4())
    first = await client.redeem_codes(codes, SHOPPER, order, request_id=request_id)
    assert await client.redeem_codes(codes, SHOPPER, order, request_id=request_id) == first
    await settle(service.settings)
    assert await client.redeem_codes(codes, SHOPPER, order, request_id=request_id) == first
    with pytest.raises(RequestIdReused):
        await client.redeem_codes(codes[::-1], SHOPPER, order, request_id=request_id)
    with pytest.raises(RequestIdReused):
        await client.redeem(codes[0], SHOPPER, order, request_id=request_id)
    assert await uses(client, *codes) == [1, 1]


async def test_a_payment_that_is_tried_ten_times_is_one_use(client: Client) -> None:
    # lunar PR 2637: each payment retry consumed another use
    codes = [await create(client, limits={"per_customer": 1}), await create(client, limits={"total": 1})]
    order = an_order(f"o-{codes[0]}")
    found = await asyncio.gather(*(client.redeem_codes(codes, SHOPPER, order) for _ in range(10)))
    assert len({redemption(one).id for one in found}) == 1
    assert await uses(client, *codes) == [1, 1]
    changed = await client.redeem_codes(codes, SHOPPER, an_order(order.id, amount_minor=1))
    assert reason(changed.refusal) == "ORDER_ALREADY_REDEEMED"
    assert changed.refusal.metadata["redemption_id"] == redemption(found[0]).id


async def test_a_refusal_is_answered_again(client: Client) -> None:
    good, paused = await create(client), await create(client)
    await client.pause_campaign(paused)
    order, request_id = an_order(f"o-{good}"), str(uuid.uuid4())
    first = await client.redeem_codes([good, paused], SHOPPER, order, request_id=request_id)
    assert (reason(first.refusal), first.refusal.code.lower()) == ("CAMPAIGN_PAUSED", paused)
    await client.resume_campaign(paused)
    again = await client.redeem_codes([good, paused], SHOPPER, order, request_id=request_id)
    assert again.refusal == first.refusal
    assert await uses(client, good, paused) == [0, 0]


async def test_two_codes_of_one_campaign_share_its_window(client: Client) -> None:
    campaign, codes = await create_pair(client, limits={"windows": [{"window": "3600s", "uses": 1}]})
    response = await client.redeem_codes(codes, SHOPPER, an_order(f"o-{campaign}"))
    assert reason(response.refusal) == "CUSTOMER_PERIOD_LIMIT_REACHED"
    assert await uses(client, campaign) == [0]
