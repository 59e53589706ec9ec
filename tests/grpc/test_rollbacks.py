"""Rollbacks through real gRPC: what comes back, by whose rules, and only once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.grpc.test_combined import create, reason, redemption, uses
from tests.service import Service, an_order, settle
from vouchsafe.client import (
    CampaignStats,
    Client,
    Customer,
    InvalidArgument,
    NotFound,
    Order,
    OrderLine,
    Redemption,
    Refusal,
    RequestIdReused,
    ReturnedLine,
    Rollback,
)

SHOPPER = Customer(id="customer-1")


async def redeem(client: Client, code: str, order: Order) -> Redemption:
    outcome = await client.redeem(code, SHOPPER, order)
    assert isinstance(outcome, Redemption), outcome
    return outcome


async def roll_back(client: Client, redeemed: Redemption, **kwargs: Any) -> Rollback:
    outcome = await client.roll_back(redeemed.id, **kwargs)
    assert isinstance(outcome, Rollback), outcome
    return outcome


async def stats(service: Service, client: Client, campaign: str) -> CampaignStats:
    await settle(service.settings)
    return await client.get_campaign_stats(campaign)


def two_lines(id_: str) -> Order:
    lines = [
        OrderLine(sku="shirt", quantity=3, unit_price_minor=3_333),
        OrderLine(sku="socks", quantity=1, unit_price_minor=1_000),
    ]
    return Order(id=id_, currency_code="EUR", lines=lines)


async def test_the_whole_comes_back_and_the_order_may_use_the_code_again(service: Service, client: Client) -> None:
    # vendure 1466, Sylius 10125: a cancelled order does not count.
    code = await create(client, limits={"total": 1, "per_customer": 1, "budget_minor": 500}, currency_code="EUR")
    order = an_order(f"o-{code}")
    redeemed = await redeem(client, code, order)
    rollback = await roll_back(client, redeemed, reason="payment failed")
    assert (rollback.discount_minor, rollback.left_minor, rollback.reason) == (500, 0, "payment failed")
    assert (rollback.redemption_id, rollback.order_id) == (redeemed.id, order.id)
    assert [(one.code.lower(), one.use_returned) for one in rollback.codes] == [(code, True)]
    assert await uses(client, code) == [0]
    again = await redeem(client, code, order)
    assert again.id != redeemed.id
    found = await stats(service, client, code)
    for counters in (found.gate, found.ledger):
        assert (counters.redeemed_count, counters.discount_minor) == (1, 500)


async def test_twice_is_refused_and_the_same_request_is_answered_again(client: Client) -> None:
    code = await create(client)
    redeemed = await redeem(client, code, an_order(f"o-{code}"))
    first = await roll_back(client, redeemed, request_id=f"r-{code}")
    assert await roll_back(client, redeemed, request_id=f"r-{code}") == first
    second = await client.roll_back(redeemed.id, request_id=f"s-{code}")
    assert isinstance(second, Refusal)
    assert (reason(second), second.metadata["redemption_id"]) == ("ALREADY_ROLLED_BACK", redeemed.id)
    assert await client.roll_back(redeemed.id, request_id=f"s-{code}") == second
    with pytest.raises(RequestIdReused):
        await client.roll_back(redeemed.id, request_id=f"r-{code}", reason="another")
    assert await uses(client, code) == [0]


async def test_units_take_their_share_to_the_last_cent(service: Service, client: Client) -> None:
    # woocommerce 28436: how a partial refund is shared out.
    code = await create(client, 1_000)
    redeemed = await redeem(client, code, two_lines(f"o-{code}"))
    assert [line.discount_minor for line in redeemed.applied_codes[0].lines] == [1_000, 100]
    one_shirt = [ReturnedLine(line_index=0, quantity=1)]
    found = [await roll_back(client, redeemed, lines=one_shirt) for _ in range(3)]
    assert [one.discount_minor for one in found] == [333, 333, 334]
    assert [one.left_minor for one in found] == [767, 434, 100]
    assert [one.codes[0].use_returned for one in found] == [False] * 3
    too_many = await client.roll_back(redeemed.id, lines=one_shirt)
    assert isinstance(too_many, Refusal)
    assert (reason(too_many), too_many.metadata["line"], too_many.metadata["left_quantity"]) == (
        "ROLLBACK_TOO_LARGE",
        "0",
        "0",
    )
    assert (await client.get_campaign_stats(code)).gate.discount_minor == 100
    last = await roll_back(client, redeemed, lines=[ReturnedLine(line_index=1, discount_minor=100)])
    assert (last.discount_minor, last.left_minor, last.codes[0].use_returned) == (100, 0, True)
    gone = await client.roll_back(redeemed.id)
    assert isinstance(gone, Refusal)
    assert reason(gone) == "ALREADY_ROLLED_BACK"
    found_stats = await stats(service, client, code)
    for counters in (found_stats.gate, found_stats.ledger):
        assert (counters.redeemed_count, counters.discount_minor) == (0, 0)


async def test_more_than_is_left_of_a_line_is_refused_and_changes_nothing(client: Client) -> None:
    code = await create(client)
    redeemed = await redeem(client, code, two_lines(f"o-{code}"))
    for lines, left in (
        ([ReturnedLine(line_index=1, discount_minor=101)], ("left_minor", "100")),
        ([ReturnedLine(line_index=0, quantity=4)], ("left_quantity", "3")),
        ([ReturnedLine(line_index=7, discount_minor=1)], ("left_minor", "0")),
    ):
        refused = await client.roll_back(redeemed.id, lines=lines)
        assert isinstance(refused, Refusal)
        assert (reason(refused), refused.metadata[left[0]]) == ("ROLLBACK_TOO_LARGE", left[1])
    assert (await client.get_campaign_stats(code)).gate.discount_minor == 1_100


async def test_what_is_left_is_evaluated_again(client: Client) -> None:
    code = await create(
        client,
        currency_code="EUR",
        conditions=[{"amount": {"min_minor": 5_000}}],
        rollback={"on_partial": "ON_PARTIAL_EVALUATE_AGAIN"},
    )
    order = two_lines(f"o-{code}")
    redeemed = await redeem(client, code, order)
    with pytest.raises(InvalidArgument) as caught:
        await client.roll_back(redeemed.id, lines=[ReturnedLine(line_index=0, quantity=1)])
    assert set(caught.value.violations) == {"order"}
    with pytest.raises(InvalidArgument):
        await client.roll_back(
            redeemed.id, lines=[ReturnedLine(line_index=0, quantity=1)], order=an_order(f"other-{code}")
        )
    first = await roll_back(client, redeemed, lines=[ReturnedLine(line_index=0, quantity=1)], order=order)
    # 10 percent of two shirts and the socks.
    assert (first.discount_minor, first.left_minor) == (1_100 - 767, 767)
    # One shirt and the socks are below the threshold: nothing is left of it, and the use comes back.
    second = await roll_back(client, redeemed, lines=[ReturnedLine(line_index=0, quantity=1)], order=order)
    assert (second.discount_minor, second.left_minor, second.codes[0].use_returned) == (767, 0, True)
    assert await uses(client, code) == [0]


async def test_a_campaign_says_what_comes_back_to_it(service: Service, client: Client) -> None:
    limits = {"total": 5, "budget_minor": 10_000, "periods": [{"period": "PERIOD_MONTH", "uses": 1}]}
    policies: dict[str, dict[str, Any]] = {
        "use": {"keeps_use": True},
        "budget": {"keeps_budget": True},
        "periods": {"keeps_periods": True},
    }
    for kept, policy in policies.items():
        code = await create(client, currency_code="EUR", limits=limits, rollback=policy)
        redeemed = await redeem(client, code, an_order(f"o-{code}"))
        rollback = await roll_back(client, redeemed)
        assert rollback.codes[0].use_returned == (kept != "use")
        found = await stats(service, client, code)
        assert found.gate.redeemed_count == found.ledger.redeemed_count == (1 if kept == "use" else 0)
        assert found.gate.discount_minor == found.ledger.discount_minor == (500 if kept == "budget" else 0)
        again = await client.redeem(code, SHOPPER, an_order(f"p-{code}"))
        assert isinstance(again, Refusal) == (kept == "periods")
        if isinstance(again, Refusal):
            assert reason(again) == "CUSTOMER_PERIOD_LIMIT_REACHED"


async def test_a_kept_discount_stays_until_everything_comes_back(client: Client) -> None:
    code = await create(client, rollback={"on_partial": "ON_PARTIAL_KEEP"})
    redeemed = await redeem(client, code, two_lines(f"o-{code}"))
    part = await roll_back(client, redeemed, lines=[ReturnedLine(line_index=0, quantity=2)])
    assert (part.discount_minor, part.left_minor, len(part.codes)) == (0, 1_100, 0)
    whole = await roll_back(client, redeemed)
    assert (whole.discount_minor, whole.left_minor) == (1_100, 0)


async def test_several_codes_come_back_each_where_it_lies(service: Service, client: Client) -> None:
    codes = [await create(client, 1_000, limits={"total": 1}), await create(client, 2_000, limits={"total": 1})]
    redeemed = redemption(await client.redeem_codes(codes, SHOPPER, two_lines(f"o-{codes[0]}")))
    part = await roll_back(client, redeemed, lines=[ReturnedLine(line_index=1, quantity=1)])
    assert [one.discount_minor for one in part.codes] == [100, 180]
    assert await uses(client, *codes) == [1, 1]
    rest = await roll_back(client, redeemed)
    assert rest.discount_minor + part.discount_minor == redeemed.discount_minor
    assert await uses(client, *codes) == [0, 0]
    await settle(service.settings)
    for code in codes:
        counters = (await client.get_campaign_stats(code)).ledger
        assert (counters.redeemed_count, counters.discount_minor) == (0, 0)
    # And the order may redeem both again.
    redemption(await client.redeem_codes(codes, SHOPPER, two_lines(f"o-{codes[0]}")))


async def test_an_old_redemption_is_rolled_back_from_the_book(service: Service, client: Client) -> None:
    code = await create(client, limits={"windows": [{"window": "3600s", "uses": 1}]})
    redeemed = await redeem(client, code, an_order(f"o-{code}"))
    assert isinstance(await client.redeem(code, SHOPPER, an_order(f"p-{code}")), Refusal)
    await settle(service.settings)
    await client.pause_campaign(code)
    await roll_back(client, redeemed)
    await client.resume_campaign(code)
    # Its moment has come back to the window, too.
    assert isinstance(await client.redeem(code, SHOPPER, an_order(f"q-{code}")), Redemption)


async def test_what_was_confirmed_can_be_rolled_back(client: Client) -> None:
    code = await create(client, limits={"total": 1})
    reservation = (await client.reserve([code], SHOPPER, an_order(f"o-{code}"))).reservation
    redeemed = await client.confirm(reservation.id)
    assert isinstance(redeemed, Redemption)
    await roll_back(client, redeemed)
    assert await uses(client, code) == [0]
    assert await client.confirm(reservation.id) == redeemed


async def test_two_rollbacks_in_the_same_moment(client: Client) -> None:
    # Voucherify, July 2026: both succeeded.
    code = await create(client)
    orders = [an_order(f"{code}-{number}") for number in range(8)]
    redeemed = await asyncio.gather(*(redeem(client, code, order) for order in orders))
    for one in redeemed:
        found = await asyncio.gather(*(client.roll_back(one.id) for _ in range(4)))
        assert sum(isinstance(outcome, Rollback) for outcome in found) == 1
        assert {reason(outcome) for outcome in found if isinstance(outcome, Refusal)} == {"ALREADY_ROLLED_BACK"}
    assert await uses(client, code) == [0]


async def test_nothing_is_rolled_back_that_is_not_there(client: Client) -> None:
    for id_ in ("r00-1-1700000000000-0", "r99-1-1700000000000-0"):
        with pytest.raises(NotFound):
            await client.roll_back(id_)
    code = await create(client)
    redeemed = await redeem(client, code, two_lines(f"o-{code}"))
    for lines, field in (
        ([ReturnedLine(line_index=0)], "lines[0]"),
        ([ReturnedLine(line_index=0, quantity=0)], "lines[0].quantity"),
        ([ReturnedLine(line_index=0, quantity=1)] * 2, "lines[1].line_index"),
        ([ReturnedLine(line_index=9, quantity=1)], "lines[0].line_index"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            await client.roll_back(redeemed.id, lines=lines)
        assert any(name.startswith(field) for name in caught.value.violations), caught.value.violations
    assert await uses(client, code) == [1]


async def test_what_came_back_is_no_answer_to_a_new_request(client: Client) -> None:
    kept = await create(client, rollback={"keeps_use": True})
    order = an_order(f"o-{kept}")
    redeemed = await redeem(client, kept, order)
    await roll_back(client, redeemed)
    code = await create(client)
    other = two_lines(f"o-{code}")
    partly = await redeem(client, code, other)
    await roll_back(client, partly, lines=[ReturnedLine(line_index=0, quantity=2)])
    for asked, again, first in ((kept, order, redeemed), (code, other, partly)):
        for outcome in (await client.redeem(asked, SHOPPER, again), await client.validate(asked, SHOPPER, again)):
            assert isinstance(outcome, Refusal)
            assert (reason(outcome), outcome.metadata["redemption_id"]) == ("ORDER_ALREADY_REDEEMED", first.id)


async def test_another_order_of_the_same_total_is_not_taken_for_it(client: Client) -> None:
    code = await create(client)
    redeemed = await redeem(client, code, two_lines(f"o-{code}"))
    bogus = two_lines(f"o-{code}")
    bogus.lines[0].quantity, bogus.lines[0].unit_price_minor = 9_999, 1
    with pytest.raises(InvalidArgument) as caught:
        await client.roll_back(redeemed.id, lines=[ReturnedLine(line_index=0, quantity=4_000)], order=bogus)
    assert set(caught.value.violations) == {"order.lines[0]"}
    assert (await client.get_campaign_stats(code)).gate.discount_minor == 1_100


async def test_a_policy_that_changes_meanwhile_goes_on_from_what_is_left(client: Client) -> None:
    code = await create(client, rollback={"on_partial": "ON_PARTIAL_EVALUATE_AGAIN"})
    order = two_lines(f"o-{code}")
    redeemed = await redeem(client, code, order)
    first = await roll_back(client, redeemed, lines=[ReturnedLine(line_index=0, quantity=3)], order=order)
    assert (first.discount_minor, first.left_minor) == (1_000, 100)
    definition = (await client.get_campaign(code)).definition
    definition.ClearField("rollback")
    await client.update_campaign(code, definition)
    last = await roll_back(client, redeemed, lines=[ReturnedLine(line_index=1, quantity=1)])
    assert (last.discount_minor, last.left_minor, last.codes[0].use_returned) == (100, 0, True)


async def test_all_units_are_everything_even_where_parts_are_kept(client: Client) -> None:
    code = await create(client, rollback={"on_partial": "ON_PARTIAL_KEEP"})
    order = two_lines(f"o-{code}")
    redeemed = await redeem(client, code, order)
    lines = [ReturnedLine(line_index=0, quantity=3), ReturnedLine(line_index=1, quantity=1)]
    rollback = await roll_back(client, redeemed, lines=lines, order=order)
    assert (rollback.discount_minor, rollback.left_minor) == (1_100, 0)
    assert await uses(client, code) == [0]
