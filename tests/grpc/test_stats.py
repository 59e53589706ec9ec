"""What a campaign has given, by both stores."""

from __future__ import annotations

import asyncio

import pytest

from tests.grpc.test_combined import create
from tests.service import Service, an_order, settle
from vouchsafe.client import CampaignState, Client, Customer, NotFound, Redemption


async def test_gate_and_ledger_agree_once_the_book_has_followed(service: Service, client: Client) -> None:
    code = await create(client, limits={"distinct_customers": 100})
    await asyncio.gather(
        *(
            client.redeem(
                code, Customer(id=f"c-{number % 7}"), an_order(f"{code}-{number}", amount_minor=1_000 + number)
            )
            for number in range(30)
        )
    )
    at_once = await client.get_campaign_stats(code)
    off = sum(round((1_000 + number) / 10 + 1e-9) for number in range(30))
    assert (at_once.gate.redeemed_count, at_once.gate.customer_count) == (30, 7)
    assert at_once.gate.discount_minor == pytest.approx(off, abs=30)
    assert at_once.ledger.redeemed_count <= 30
    assert at_once.state == CampaignState.CAMPAIGN_STATE_ACTIVE
    await settle(service.settings)
    settled = await client.get_campaign_stats(code)
    assert settled.ledger == settled.gate == at_once.gate
    assert settled.ledger_position.count("-") == 3


async def test_different_customers_are_counted_by_the_book_even_where_nobody_limits_them(
    service: Service, client: Client
) -> None:
    code = await create(client)
    for number in range(3):
        outcome = await client.redeem(code, Customer(id=f"c-{number % 2}"), an_order(f"{code}-{number}"))
        assert isinstance(outcome, Redemption)
    await settle(service.settings)
    stats = await client.get_campaign_stats(code)
    assert not stats.gate.HasField("customer_count")
    assert stats.ledger.customer_count == 2


async def test_stats_without_postgresql_say_so(own_service: Service) -> None:
    async with own_service.client(timeout_s=30) as client:
        code = await create(client)
        own_service.stop_postgres()
        stats = await client.get_campaign_stats(code)
        assert stats.gate.redeemed_count == 0
        assert not stats.HasField("ledger")
        assert not stats.ledger_position
        own_service.start_postgres()


async def test_there_are_no_stats_of_nothing(client: Client) -> None:
    with pytest.raises(NotFound):
        await client.get_campaign_stats("nobody")
