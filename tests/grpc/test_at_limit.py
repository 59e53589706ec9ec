"""What happens at the limit, through real gRPC: the rest of a budget is given and said so, and quotes are honoured."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.grpc.test_combined import PART, create, reason, redemption, uses
from tests.service import Service, an_order, rows_once_settled
from vouchsafe.client import (
    Client,
    Combining,
    Customer,
    DiscountCap,
    InvalidArgument,
    Offer,
    Order,
    OrderLine,
    Redemption,
    Refusal,
    Sequencing,
)

SHOPPER = Customer(id="customer-1")
NO_QUOTE = "of something else"
BUDGET = [DiscountCap.DISCOUNT_CAP_BUDGET]
QUOTED = {"total": 1, "honour_quoted": {"within": "900s", "overdraft_uses": 2}}


async def partial(client: Client, budget_minor: int, basis_points: int = 5_000, **fields: Any) -> str:
    """A campaign that gives the rest of a budget."""
    limits = {"budget_minor": budget_minor, "partial_budget": True, **fields}
    return await create(client, basis_points, currency_code="EUR", limits=limits)


async def taken(client: Client, code: str, order: Order, **more: Any) -> Redemption:
    outcome = await client.redeem(code, SHOPPER, order, **more)
    assert isinstance(outcome, Redemption), outcome
    return outcome


async def refused(client: Client, code: str, order: Order, **more: Any) -> Refusal:
    outcome = await client.redeem(code, SHOPPER, order, **more)
    assert isinstance(outcome, Refusal), outcome
    return outcome


async def quoted(client: Client, codes: list[str], order: Order, **more: Any) -> str:
    offer = (await client.validate_codes(codes, SHOPPER, order, **more)).offer
    assert offer.quote_token
    return offer.quote_token


# -- the rest of a budget ----------------------------------------------------------------------------------------------


async def test_the_last_order_gets_the_rest_and_is_told(service: Service, client: Client) -> None:
    code = await partial(client, 4_000)
    assert (await taken(client, code, an_order(f"{code}-0"))).discount_minor == 2_500
    lines = [OrderLine(sku=f"s{n}", quantity=1, unit_price_minor=2_000) for n in range(3)]
    order, request_id = Order(id=f"{code}-1", currency_code="EUR", lines=lines), str(uuid.uuid4())
    offer = await client.validate(code, SHOPPER, order)
    last = await taken(client, code, order, request_id=request_id)
    assert isinstance(offer, Offer)
    assert list(offer.applied_codes) == list(last.applied_codes)
    (applied,) = last.applied_codes
    assert (applied.discount_minor, applied.desired_minor, list(applied.caps)) == (1_500, 3_000, BUDGET)
    assert [(line.discount_minor, line.desired_minor, list(line.caps)) for line in applied.lines] == [
        (500, 1_000, BUDGET)
    ] * 3
    assert (await refused(client, code, an_order(f"{code}-2"))).metadata == {"limit": "4000", "used": "4000"}
    assert await taken(client, code, order, request_id=request_id) == last
    assert await taken(client, code, order) == last
    stats = await client.get_campaign_stats(code)
    assert (stats.gate.redeemed_count, stats.gate.discount_minor) == (2, 4_000)
    assert len(await rows_once_settled(service, code)) == 2
    stats = await client.get_campaign_stats(code)
    assert (stats.ledger.redeemed_count, stats.ledger.discount_minor) == (2, 4_000)
    assert await client.get_redemption(last.id) == last


async def test_a_refusal_at_an_empty_budget_is_answered_again(client: Client) -> None:
    code = await partial(client, 1)
    assert (await taken(client, code, an_order(f"{code}-0"))).discount_minor == 1
    order, request_id = an_order(f"{code}-1"), str(uuid.uuid4())
    first = await refused(client, code, order, request_id=request_id)
    assert reason(first) == "BUDGET_EXHAUSTED"
    definition = (await client.get_campaign(code)).definition
    definition.limits.budget_minor = 10**6
    definition.limits.partial_budget = False
    await client.update_campaign(code, definition)
    assert await refused(client, code, order, request_id=request_id) == first
    assert (await taken(client, code, order)).discount_minor == 2_500


async def test_the_smaller_rest_counts_of_a_customers_budget_and_the_campaigns(client: Client) -> None:
    code = await partial(client, 4_000, customer_budget_minor=3_000)
    assert (await taken(client, code, an_order(f"{code}-0"))).discount_minor == 2_500
    assert (await taken(client, code, an_order(f"{code}-1"))).discount_minor == 500
    assert reason(await refused(client, code, an_order(f"{code}-2"))) == "CUSTOMER_BUDGET_EXHAUSTED"
    other = await client.redeem(code, Customer(id="other"), an_order(f"{code}-3"))
    assert isinstance(other, Redemption)
    assert other.discount_minor == 1_000
    end = await client.redeem(code, Customer(id="other"), an_order(f"{code}-4"))
    assert isinstance(end, Refusal)
    assert reason(end) == "BUDGET_EXHAUSTED"


async def test_without_it_a_budget_that_does_not_cover_refuses(client: Client) -> None:
    code = await create(client, 5_000, currency_code="EUR", limits={"budget_minor": 2_499})
    assert (await refused(client, code, an_order(f"{code}-0"))).metadata == {"limit": "2499", "used": "0"}


async def test_a_later_code_sees_what_the_cut_one_leaves(client: Client) -> None:
    short, other = await partial(client, 1_000), await create(client, 1_000)
    order = an_order(f"{short}-0")
    offer = (await client.validate_codes([short, other], SHOPPER, order)).offer
    found = redemption(await client.redeem_codes([short, other], SHOPPER, order))
    assert [(one.discount_minor, list(one.caps)) for one in found.applied_codes] == [(1_000, BUDGET), (400, [])]
    assert found.applied_codes == offer.applied_codes
    response = await client.redeem_codes([short, other], SHOPPER, an_order(f"{short}-1"), combining=PART)
    assert [one.discount_minor for one in redemption(response).applied_codes] == [500]
    assert [reason(one) for one in response.inapplicable] == ["BUDGET_EXHAUSTED"]


async def test_the_best_deal_is_the_best_of_what_is_left(client: Client) -> None:
    half = await partial(client, 300)
    tenth = await create(client, 1_000)
    best = Combining(sequencing=Sequencing.SEQUENCING_BEST_DEAL, coverage=PART.coverage, max_codes=1)
    response = await client.redeem_codes([half, tenth], SHOPPER, an_order(f"{half}-0"), combining=best)
    found = redemption(response)
    assert [one.campaign_id for one in found.applied_codes] == [tenth]
    assert (found.discount_minor, found.is_best_deal) == (500, True)


async def test_two_codes_of_one_campaign_share_its_budget(client: Client) -> None:
    code = await partial(client, 3_000)
    campaign = f"two-{uuid.uuid4()}"
    definition = (await client.get_campaign(code)).definition
    codes = [f"{campaign}-A".upper(), f"{campaign}-B".upper()]
    await client.create_campaign(campaign, definition, shared_codes=codes)
    found = redemption(await client.redeem_codes(codes, SHOPPER, an_order(f"{campaign}-0")))
    assert [(one.discount_minor, list(one.caps)) for one in found.applied_codes] == [(2_500, []), (500, BUDGET)]
    response = await client.redeem_codes(codes, SHOPPER, an_order(f"{campaign}-1"))
    assert reason(response.refusal) == "BUDGET_EXHAUSTED"


async def test_two_codes_of_one_campaign_are_refused_when_only_one_is_left(client: Client) -> None:
    campaign = f"one-{uuid.uuid4()}"
    definition = (await client.get_campaign(await create(client, limits={"per_customer": 1}))).definition
    codes = [f"{campaign}-A".upper(), f"{campaign}-B".upper()]
    await client.create_campaign(campaign, definition, shared_codes=codes)
    response = await client.redeem_codes(codes, SHOPPER, an_order(f"{campaign}-0"))
    assert (reason(response.refusal), response.refusal.code) == ("CUSTOMER_LIMIT_REACHED", codes[1])
    response = await client.redeem_codes(codes, SHOPPER, an_order(f"{campaign}-0"), combining=PART)
    assert [one.code for one in redemption(response).applied_codes] == codes[:1]


# -- quotes ------------------------------------------------------------------------------------------------------------


async def test_what_was_offered_is_honoured_beyond_the_limit(service: Service, client: Client) -> None:
    code = await create(client, limits=QUOTED)
    orders = [an_order(f"{code}-{number}") for number in range(5)]
    tokens = [await quoted(client, [code], order) for order in orders]
    await taken(client, code, orders[0])
    # Who was not offered anything is refused, and so is another customer, or another order, with this token.
    plain = await refused(client, code, orders[1])
    assert plain.metadata == {"limit": "1", "used": "1"}
    for shopper, order in ((Customer(id="other"), orders[1]), (SHOPPER, orders[2])):
        outcome = await client.redeem(code, shopper, order, quote_token=tokens[1])
        assert isinstance(outcome, Refusal)
        assert outcome.metadata == {"limit": "1", "used": "1", "quote": "invalid"}
    for number in (1, 2):
        await taken(client, code, orders[number], quote_token=tokens[number])
    end = await refused(client, code, orders[3], quote_token=tokens[3])
    assert reason(end) == "CAMPAIGN_LIMIT_REACHED"
    assert end.metadata == {"limit": "3", "used": "3"}
    assert (await refused(client, code, orders[4], quote_token=NO_QUOTE)).metadata["quote"] == "invalid"
    assert await uses(client, code) == [3]
    assert len(await rows_once_settled(service, code)) == 3
    # Nothing is offered at the limit.
    validated = await client.validate(code, SHOPPER, orders[4])
    assert isinstance(validated, Refusal)


async def test_a_token_is_no_part_of_what_a_repetition_repeats(client: Client) -> None:
    code = await create(client, limits=QUOTED)
    order, request_id = an_order(f"{code}-0"), str(uuid.uuid4())
    token = await quoted(client, [code], order)
    first = await taken(client, code, order, request_id=request_id, quote_token=token)
    assert await taken(client, code, order, request_id=request_id) == first
    assert await taken(client, code, order, request_id=request_id, quote_token=NO_QUOTE) == first
    # A refusal is remembered, too, with or without a token.
    refusal = await refused(client, code, an_order(f"{code}-1"), request_id=f"{request_id}-1")
    again = await refused(client, code, an_order(f"{code}-1"), request_id=f"{request_id}-1")
    assert again == refusal


async def test_several_codes_are_honoured_as_they_were_offered(client: Client) -> None:
    code, other = await create(client, limits=QUOTED), await create(client)
    order = an_order(f"{code}-0")
    token = await quoted(client, [code, other], order)
    await taken(client, code, an_order(f"{code}-1"))
    for codes in ([code], [code, other, await create(client)]):
        response = await client.redeem_codes(codes, SHOPPER, an_order(order.id), quote_token=token)
        assert response.refusal.metadata["quote"] == "invalid"
    response = await client.redeem_codes([other, code], SHOPPER, order, quote_token=token)
    assert {one.campaign_id for one in redemption(response).applied_codes} == {code, other}


async def test_a_quote_is_for_what_was_applied_and_not_for_what_was_left_out(client: Client) -> None:
    code, full = await create(client, limits=QUOTED), await create(client, limits=QUOTED)
    await taken(client, full, an_order(f"{full}-0"))
    order = an_order(f"{code}-0")
    token = await quoted(client, [code, full], order, combining=PART)
    await taken(client, code, an_order(f"{code}-1"))
    both = await client.redeem_codes([code, full], SHOPPER, order, combining=PART, quote_token=token)
    assert {refusal.metadata["quote"] for refusal in both.inapplicable} == {"invalid"}
    await taken(client, code, order, quote_token=token)


async def test_a_quote_passes_the_budget_and_what_is_left_of_it_is_given(client: Client) -> None:
    honour = {"within": "900s", "overdraft_minor": 1_000}
    code = await partial(client, 2_500, honour_quoted=honour)
    order = an_order(f"{code}-1")
    token = await quoted(client, [code], order)
    await taken(client, code, an_order(f"{code}-0"))
    assert (await refused(client, code, an_order(f"{code}-2"))).metadata == {"limit": "2500", "used": "2500"}
    found = await taken(client, code, order, quote_token=token)
    assert (found.discount_minor, list(found.applied_codes[0].caps)) == (1_000, BUDGET)


async def test_a_campaign_that_honours_nothing_gives_no_token(client: Client) -> None:
    code = await create(client, limits={"total": 1})
    offer = await client.validate(code, SHOPPER, an_order(f"{code}-0"))
    assert isinstance(offer, Offer)
    assert offer.quote_token == ""
    await taken(client, code, an_order(f"{code}-0"), quote_token="5-" + "0" * 32)
    assert (await refused(client, code, an_order(f"{code}-1"), quote_token=NO_QUOTE)).metadata == {
        "limit": "1",
        "used": "1",
    }


async def test_a_token_has_a_bound(client: Client) -> None:
    code = await create(client, limits=QUOTED)
    with pytest.raises(InvalidArgument) as caught:
        await client.redeem(code, SHOPPER, an_order(f"{code}-0"), quote_token="9" * 129)
    assert "quote_token" in caught.value.violations


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        ({"total": 1, "partial_budget": True}, "definition.limits.partial_budget"),
        ({"total": 1, "honour_quoted": {"overdraft_uses": 1}}, "definition.limits.honour_quoted.within"),
        (
            {"total": 1, "honour_quoted": {"within": "86401s", "overdraft_uses": 1}},
            "definition.limits.honour_quoted.within",
        ),
        ({"total": 1, "honour_quoted": {"within": "1s"}}, "definition.limits.honour_quoted"),
        (
            {"total": 1, "honour_quoted": {"within": "1s", "overdraft_uses": -1}},
            "definition.limits.honour_quoted.overdraft_uses",
        ),
        (
            {"total": 1, "honour_quoted": {"within": "1s", "overdraft_minor": 1}},
            "definition.limits.honour_quoted.overdraft_minor",
        ),
    ],
)
async def test_what_makes_no_sense_at_a_limit_is_refused(client: Client, limits: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await create(client, currency_code="EUR", limits=limits)
    assert field in caught.value.violations
