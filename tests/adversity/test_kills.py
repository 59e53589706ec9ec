"""Processes killed with SIGKILL in the middle of a sale: what was acknowledged is in the ledger exactly once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from tests.service import Service, a_campaign, an_order, rows_once_settled
from vouchsafe.client import Client, ClientError, Customer, Redemption, Refusal

CAP = 3_000
SHOPPERS = 64


@dataclass
class Sale:
    """What shoppers were told while things broke."""

    acknowledged: dict[str, Redemption] = field(default_factory=dict)
    refused: int = 0
    unknown: list[str] = field(default_factory=list)


@contextlib.asynccontextmanager
async def a_sale(service: Service, code: str) -> AsyncIterator[Sale]:
    """Shoppers redeem until the block is left; every unknown outcome is then asked for again, by its request id."""
    sale = Sale()
    over = asyncio.Event()

    async def redeem(client: Client, request_id: str) -> None:
        try:
            outcome = await client.redeem(
                code, Customer(id=f"customer-{request_id}"), an_order(request_id), request_id=request_id
            )
        except ClientError:
            sale.unknown.append(request_id)
        else:
            if isinstance(outcome, Redemption):
                assert sale.acknowledged.setdefault(request_id, outcome) == outcome
            else:
                sale.refused += 1

    async def shop(client: Client, shopper: int) -> None:
        number = 0
        while not over.is_set():
            number += 1
            await redeem(client, f"{code}-{shopper}-{number}")

    async with service.client(timeout_s=2, channels=16) as client:
        shoppers = [asyncio.create_task(shop(client, shopper)) for shopper in range(SHOPPERS)]
        try:
            yield sale
        finally:
            over.set()
            await asyncio.gather(*shoppers)
    async with service.client(timeout_s=30, channels=16) as client:
        unknown, sale.unknown = sale.unknown, []
        await asyncio.gather(*(redeem(client, request_id) for request_id in unknown))
    assert sale.unknown == []


async def _until(condition: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # what is waited for is counted, nobody signals
            await asyncio.sleep(0.01)
    assert condition(), what


async def _check(service: Service, campaign: str, sale: Sale) -> None:
    rows = await rows_once_settled(service, campaign)
    # Every outcome was learnt in the end, so rows and acknowledgements are the same, not only a part of each other.
    assert rows == {redemption.id for redemption in sale.acknowledged.values()}
    async with service.client(timeout_s=30) as client:
        status = await client.get_campaign(campaign)
        assert status.redeemed_count == len(rows) <= CAP
        for redemption in list(sale.acknowledged.values())[:20]:
            assert await client.get_redemption(redemption.id) == redemption


@pytest.mark.parametrize("victim", ["persister", "worker", "server", "valkey"])
async def test_what_was_acknowledged_survives_a_kill(own_service: Service, victim: str) -> None:
    async with own_service.client(timeout_s=30) as client:
        campaign, code = await a_campaign(client, limit=CAP)
    async with a_sale(own_service, code) as sale:
        for round_ in range(1, 3):
            await _until(lambda: len(sale.acknowledged) >= 200 * round_, "the sale goes on")  # noqa: B023
            await asyncio.to_thread(own_service.kill, victim)
        before = len(sale.acknowledged)
        await _until(lambda: len(sale.acknowledged) > before + 100, "redemptions go on after the last kill")
    await _check(own_service, campaign, sale)


async def test_everything_killed_at_once_under_load(own_service: Service) -> None:
    async with own_service.client(timeout_s=30) as client:
        campaign, code = await a_campaign(client, limit=CAP)
    async with a_sale(own_service, code) as sale:
        await _until(lambda: len(sale.acknowledged) >= 300, "the sale goes on")
        await asyncio.to_thread(own_service.kill, "persister", "server", "valkey", "postgres")
        before = len(sale.acknowledged)
        await _until(lambda: len(sale.acknowledged) > before + 100, "redemptions go on")
        # To the end of the campaign, so that an overrun would show.
        await _until(lambda: sale.refused > 100, "the campaign is sold out")
    await _check(own_service, campaign, sale)
    assert len(sale.acknowledged) == CAP


async def test_postgres_away_stops_neither_redeeming_nor_pausing(own_service: Service) -> None:
    async with own_service.client(timeout_s=30) as client:
        campaign, code = await a_campaign(client)
        own_service.stop_postgres()
        redeemed = set()
        for number in range(50):
            outcome = await client.redeem(code, Customer(id=f"c-{number}"), an_order(f"{code}-{number}"))
            assert isinstance(outcome, Redemption)
            redeemed.add(outcome.id)
        paused = await client.pause_campaign(campaign, "PostgreSQL is away")
        assert paused.pause_reason == "PostgreSQL is away"
        refused = await client.redeem(code, Customer(id="late"), an_order(f"{code}-late"))
        assert isinstance(refused, Refusal)
        own_service.start_postgres()
        assert await rows_once_settled(own_service, campaign) == redeemed
        assert await own_service.taken_while_paused(campaign) == 0


async def test_valkey_away_is_unavailable_at_once_and_mends_itself(own_service: Service) -> None:
    async with own_service.client(timeout_s=30) as client:
        campaign, code = await a_campaign(client, limit=1)
        own_service.stop_valkey()
        loop = asyncio.get_running_loop()
        async with own_service.client(timeout_s=1) as impatient:
            started = loop.time()
            with pytest.raises(ClientError) as caught:
                await impatient.redeem(code, Customer(id="c"), an_order(code), request_id=code)
            assert caught.value.code.name == "UNAVAILABLE"
            assert loop.time() - started < 1.5
        own_service.start_valkey()
        # The same request, now decided; and decided once.
        outcome = await client.redeem(code, Customer(id="c"), an_order(code), request_id=code)
        assert isinstance(outcome, Redemption)
        assert await client.redeem(code, Customer(id="c"), an_order(code), request_id=code) == outcome
        assert await rows_once_settled(own_service, campaign) == {outcome.id}


async def test_a_gate_that_was_emptied_admits_nothing_before_it_is_rebuilt(own_service: Service) -> None:
    async with own_service.client(timeout_s=2) as client:
        campaign, code = await a_campaign(client, limit=1)
        redeemed = await client.redeem(code, Customer(id="c"), an_order(code))
        assert isinstance(redeemed, Redemption)
        await rows_once_settled(own_service, campaign)
        with own_service.frozen("persist"):
            await own_service.flush_valkey()
            for attempt in range(3):
                with pytest.raises(ClientError) as caught:
                    await client.redeem(code, Customer(id="c"), an_order(f"{code}-{attempt}"))
                assert caught.value.code.name == "UNAVAILABLE"
    async with own_service.client(timeout_s=30) as client:
        assert isinstance(await client.redeem(code, Customer(id="c"), an_order(f"{code}-0")), Refusal)
        assert await rows_once_settled(own_service, campaign) == {redeemed.id}
