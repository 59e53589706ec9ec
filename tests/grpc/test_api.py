"""What every method answers, through real gRPC."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from tests.service import CreateCampaign, an_order
from vouchsafe.client import (
    AlreadyExists,
    AmountOff,
    CampaignDefinition,
    CampaignState,
    Client,
    Customer,
    Effect,
    Limits,
    NotFound,
    Offer,
    Order,
    OrderLine,
    PercentOff,
    Redemption,
    Refusal,
    RefusalReason,
    RequestIdReused,
)

SHOPPER = Customer(id="customer-1")


def refusal(outcome: Redemption | Refusal | Offer) -> Refusal:
    assert isinstance(outcome, Refusal), outcome
    return outcome


def refused(outcome: Redemption | Refusal | Offer) -> str:
    return RefusalReason.Name(refusal(outcome).reason).removeprefix("REFUSAL_REASON_")


async def test_a_redemption_says_what_was_taken(client: Client, create_campaign: CreateCampaign) -> None:
    campaign, code = await create_campaign(percent=12.5)
    order = Order(
        id=f"{code}-1",
        currency_code="EUR",
        lines=[
            OrderLine(sku="shirt", quantity=2, unit_price_minor=1_999),
            OrderLine(sku="socks", quantity=1, unit_price_minor=500),
        ],
        shipping_minor=490,
    )
    redemption = await client.redeem(code.lower(), SHOPPER, order, request_id=f"{code}-request")
    assert isinstance(redemption, Redemption)
    assert redemption.request_id == f"{code}-request"
    assert redemption.order_id == order.id
    assert redemption.customer_id == "customer-1"
    assert redemption.currency_code == "EUR"
    assert redemption.order_amount_minor == 4_498
    assert redemption.discount_minor == 562  # 562.25
    (applied,) = redemption.applied_codes
    assert (applied.code, applied.campaign_id, applied.campaign_version, applied.discount_minor) == (
        code,
        campaign,
        1,
        562,
    )
    age = datetime.now(UTC) - redemption.redeem_time.ToDatetime(UTC)
    assert timedelta(seconds=-1) < age < timedelta(seconds=10)
    # It can be read at once, and still when it has moved on to the ledger.
    assert await client.get_redemption(redemption.id) == redemption


async def test_validate_takes_nothing_and_says_what_redeeming_would(
    client: Client, create_campaign: CreateCampaign
) -> None:
    campaign, code = await create_campaign(limit=1)
    for _ in range(2):
        assert isinstance(await client.validate(code, SHOPPER, an_order(code)), Offer)
    offer = await client.validate(code, SHOPPER, an_order(code))
    assert isinstance(offer, Offer)
    assert (await client.get_campaign(campaign)).redeemed_count == 0
    redemption = await client.redeem(code, SHOPPER, an_order(code))
    assert isinstance(redemption, Redemption)
    assert redemption.discount_minor == offer.discount_minor
    assert redemption.applied_codes == offer.applied_codes
    # The order that has it may ask again; another one may not.
    assert isinstance(await client.validate(code, SHOPPER, an_order(code)), Offer)
    assert refused(await client.validate(code, SHOPPER, an_order(f"{code}-2"))) == "CAMPAIGN_LIMIT_REACHED"


async def test_an_unknown_code_is_refused(client: Client) -> None:
    code = f"NO-{uuid.uuid4()}"
    outcome = await client.redeem(code, SHOPPER, an_order(code))
    assert refused(outcome) == "CODE_UNKNOWN"
    assert refusal(outcome).code == code.upper()
    assert refused(await client.validate(code, SHOPPER, an_order(code))) == "CODE_UNKNOWN"


async def test_a_refusal_carries_its_numbers(client: Client, create_campaign: CreateCampaign) -> None:
    _, code = await create_campaign(limit=2)
    for number in range(2):
        await client.redeem(code, SHOPPER, an_order(f"{code}-{number}"))
    outcome = await client.redeem(code, SHOPPER, an_order(f"{code}-3"))
    assert refused(outcome) == "CAMPAIGN_LIMIT_REACHED"
    assert refusal(outcome).metadata == {"limit": "2", "used": "2"}
    assert refusal(outcome).message


async def test_the_same_request_id_gets_the_first_answer_even_when_things_have_changed(
    client: Client, create_campaign: CreateCampaign
) -> None:
    campaign, code = await create_campaign()
    await client.pause_campaign(campaign)
    first = await client.redeem(code, SHOPPER, an_order(code), request_id=f"{code}-r")
    assert refused(first) == "CAMPAIGN_PAUSED"
    await client.resume_campaign(campaign)
    assert await client.redeem(code, SHOPPER, an_order(code), request_id=f"{code}-r") == first
    # A new attempt is decided anew.
    assert isinstance(await client.redeem(code, SHOPPER, an_order(code)), Redemption)


async def test_a_redemption_is_answered_again_while_the_campaign_is_paused(
    client: Client, create_campaign: CreateCampaign
) -> None:
    campaign, code = await create_campaign()
    first = await client.redeem(code, SHOPPER, an_order(code), request_id=f"{code}-r")
    await client.pause_campaign(campaign)
    assert await client.redeem(code, SHOPPER, an_order(code), request_id=f"{code}-r") == first
    assert await client.redeem(code, SHOPPER, an_order(code)) == first  # the payment is tried again
    assert refused(await client.redeem(code, SHOPPER, an_order(f"{code}-2"))) == "CAMPAIGN_PAUSED"


async def test_a_request_id_used_for_something_else_is_its_own_error(
    client: Client, create_campaign: CreateCampaign
) -> None:
    # Twenty campaigns, so that most of them live in another partition than the first.
    campaigns = [await create_campaign() for _ in range(20)]
    _, code = campaigns[0]
    request_id = f"{code}-r"
    assert isinstance(await client.redeem(code, SHOPPER, an_order(code), request_id=request_id), Redemption)
    for other in (Customer(id="customer-2"), Customer(id="customer-1", email="a@example.com")):
        with pytest.raises(RequestIdReused, match=request_id):
            await client.redeem(code, other, an_order(code), request_id=request_id)
    with pytest.raises(RequestIdReused):
        await client.redeem(code, SHOPPER, an_order(code, amount_minor=5_001), request_id=request_id)
    for campaign, other_code in campaigns[1:]:
        with pytest.raises(RequestIdReused):
            await client.redeem(other_code, SHOPPER, an_order(code), request_id=request_id)
        assert (await client.get_campaign(campaign)).redeemed_count == 0


async def test_a_changed_order_does_not_take_the_code_again(client: Client, create_campaign: CreateCampaign) -> None:
    campaign, code = await create_campaign()
    first = await client.redeem(code, SHOPPER, an_order(code))
    assert isinstance(first, Redemption)
    outcome = await client.redeem(code, SHOPPER, an_order(code, amount_minor=9_999))
    assert refused(outcome) == "ORDER_ALREADY_REDEEMED"
    assert refusal(outcome).metadata == {"redemption_id": first.id}
    assert (await client.get_campaign(campaign)).redeemed_count == 1


async def test_an_amount_in_another_currency_is_refused_and_costs_no_use(client: Client) -> None:
    id_ = f"c-{uuid.uuid4()}"
    definition = CampaignDefinition(
        display_name="5.00 off", currency_code="EUR", effects=[Effect(amount_off=AmountOff(amount_minor=500))]
    )
    await client.create_campaign(id_, definition, shared_codes=[id_])
    order = an_order(id_)
    order.currency_code = "JPY"
    outcome = await client.redeem(id_, SHOPPER, order)
    assert refused(outcome) == "CURRENCY_MISMATCH"
    assert refusal(outcome).metadata == {"expected_currency_code": "EUR", "order_currency_code": "JPY"}
    assert refused(await client.redeem(id_, SHOPPER, an_order(f"{id_}-2", amount_minor=0))) == "NO_EFFECT"
    small = await client.redeem(id_, SHOPPER, an_order(f"{id_}-3", amount_minor=499))
    assert isinstance(small, Redemption)
    assert small.discount_minor == 499
    assert (await client.get_campaign(id_)).redeemed_count == 1


async def test_a_paused_campaign_says_so_before_anything_else(client: Client, create_campaign: CreateCampaign) -> None:
    campaign, code = await create_campaign(limit=1)
    await client.redeem(code, SHOPPER, an_order(code))
    await client.pause_campaign(campaign, "stock is gone")
    assert refused(await client.redeem(code, SHOPPER, an_order(f"{code}-2"))) == "CAMPAIGN_PAUSED"
    shown = await client.get_campaign(campaign)
    assert (shown.state, shown.pause_reason) == (CampaignState.CAMPAIGN_STATE_PAUSED, "stock is gone")
    resumed = await client.resume_campaign(campaign)
    assert (resumed.state, resumed.pause_reason) == (CampaignState.CAMPAIGN_STATE_ACTIVE, "")


async def test_pausing_twice_changes_nothing(client: Client, create_campaign: CreateCampaign) -> None:
    campaign, _ = await create_campaign()
    first = await client.pause_campaign(campaign, "first")
    assert await client.pause_campaign(campaign, "second") == first
    first = await client.resume_campaign(campaign)
    assert await client.resume_campaign(campaign) == first


async def test_a_campaign_is_shown_as_it_was_created(client: Client) -> None:
    id_ = f"c-{uuid.uuid4()}"
    definition = CampaignDefinition(
        display_name="Schwarzer Freitag 🖤",
        currency_code="KWD",
        effects=[Effect(amount_off=AmountOff(amount_minor=1_250))],
        limits=Limits(total=10, per_customer=2),
    )
    definition.start_time.FromJsonString("2031-11-28T00:00:00.123Z")
    definition.end_time.FromJsonString("2031-11-29T00:00:00Z")
    created = await client.create_campaign(id_, definition, shared_codes=[id_])
    assert created.definition == definition
    assert (created.id, created.version, created.redeemed_count) == (id_, 1, 0)
    assert created.state == CampaignState.CAMPAIGN_STATE_SCHEDULED
    assert await client.get_campaign(id_) == created


@pytest.mark.parametrize("taken", ["id", "shared code", "single-use code"])
async def test_what_is_taken_is_refused_and_nothing_is_created(
    client: Client, create_campaign: CreateCampaign, taken: str
) -> None:
    campaign, code = await create_campaign()
    new = f"c-{uuid.uuid4()}"
    definition = CampaignDefinition(display_name="x", effects=[Effect(percent_off=PercentOff(basis_points=1))])
    codes = [new, code.lower()] if taken != "id" else [new]
    with pytest.raises(AlreadyExists, match=campaign if taken == "id" else code):
        await client.create_campaign(
            campaign if taken == "id" else new,
            definition,
            shared_codes=codes if taken != "single-use code" else [],
            single_use_codes=codes if taken == "single-use code" else [],
        )
    assert refused(await client.redeem(new, SHOPPER, an_order(new))) == "CODE_UNKNOWN"
    if taken != "id":
        with pytest.raises(NotFound):
            await client.get_campaign(new)


async def test_all_campaigns_are_listed_once_over_any_page_size(
    client: Client, create_campaign: CreateCampaign
) -> None:
    mine = [(await create_campaign())[0] for _ in range(7)]
    for page_size in (1, 3, 500):
        listed = [campaign.id async for campaign in client.list_campaigns(page_size=page_size)]
        assert len(listed) == len(set(listed))
        assert [id_ for id_ in listed if id_ in mine] == mine[::-1]


async def test_what_does_not_exist_is_not_found(client: Client) -> None:
    with pytest.raises(NotFound, match="nobody"):
        await client.get_campaign("nobody")
    with pytest.raises(NotFound, match="nobody"):
        await client.pause_campaign("nobody")
    with pytest.raises(NotFound, match="nobody"):
        await client.resume_campaign("nobody")
    for id_ in ("r03-1-1700000000000-0", "r99-1-1700000000000-0", "r03-7-1700000000000-0"):
        with pytest.raises(NotFound, match=id_):
            await client.get_redemption(id_)


async def test_windows_open_and_close_to_the_millisecond(client: Client) -> None:
    id_ = f"c-{uuid.uuid4()}"
    start = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2, milliseconds=123)
    end = start + timedelta(seconds=1.2)
    definition = CampaignDefinition(display_name="short", effects=[Effect(percent_off=PercentOff(basis_points=1_000))])
    definition.start_time.FromDatetime(start)
    definition.end_time.FromDatetime(end)
    start_ms, end_ms = definition.start_time.ToMilliseconds(), definition.end_time.ToMilliseconds()
    await client.create_campaign(id_, definition, shared_codes=[id_])
    seen: list[tuple[int, str]] = []
    number = 0
    while not seen or seen[-1][1] != "CAMPAIGN_ENDED":
        number += 1
        before_ms = int(datetime.now(UTC).timestamp() * 1000)
        outcome = await client.redeem(id_, SHOPPER, an_order(f"{id_}-{number}"))
        after_ms = int(datetime.now(UTC).timestamp() * 1000)
        # Stores and test share one clock here, so the answer must fit a moment between the call and its answer.
        if isinstance(outcome, Redemption):
            at_ms = outcome.redeem_time.ToMilliseconds()
            assert start_ms <= at_ms < end_ms
            assert before_ms <= at_ms <= after_ms
            seen.append((at_ms, "REDEEMED"))
        elif refused(outcome) == "CAMPAIGN_NOT_STARTED":
            assert before_ms < start_ms
            assert refusal(outcome).metadata["start_time"] == definition.start_time.ToJsonString()
            seen.append((before_ms, "CAMPAIGN_NOT_STARTED"))
        else:
            assert refused(outcome) == "CAMPAIGN_ENDED"
            assert after_ms >= end_ms
            seen.append((after_ms, "CAMPAIGN_ENDED"))
    kinds = [kind for _, kind in seen]
    assert set(kinds) == {"CAMPAIGN_NOT_STARTED", "REDEEMED", "CAMPAIGN_ENDED"}
    assert kinds == sorted(kinds, key=["CAMPAIGN_NOT_STARTED", "REDEEMED", "CAMPAIGN_ENDED"].index)
