"""Stores that are full, older than they should be, or somebody else's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import redis

from tests.valkeys import client_of
from tests.values import a_definition, a_discount, attempt_of
from vouchsafe.domain.campaign import Campaign
from vouchsafe.domain.errors import Unavailable
from vouchsafe.domain.partitions import Finding
from vouchsafe.domain.redemption import STREAM_START, Claim, Redemption, StreamId
from vouchsafe.gate.attempts import Attempt
from vouchsafe.gate.checkout import Checkout
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.keys import Keys
from vouchsafe.gate.outbox import Outbox
from vouchsafe.gate.states import States
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.ledger.stops import StopBook
from vouchsafe.service.persist import Persister
from vouchsafe.service.recover import Recovery
from vouchsafe.settings import Settings


def attempt(number: int) -> Attempt:
    claim = Claim(
        request_id=f"request-{number}",
        fingerprint=f"{number:032x}",
        campaign_id="sale",
        campaign_version=1,
        code="SALE",
        customer_id=f"customer-{number}",
        order_id=f"order-{number}",
        currency_code="EUR",
        order_amount_minor=1_000,
        discount=a_discount(100),
    )
    return attempt_of(claim)


@pytest.fixture
def server(settings: Settings) -> Iterator[redis.Redis]:
    with client_of(settings.valkey_url, Keys(0).meta) as client:
        yield client
        client.config_set("maxmemory", 0)


@pytest.fixture
async def ledger(settings: Settings) -> AsyncIterator[Ledger]:
    ledger = await Ledger.connect(settings.postgres_url, pool_size=2, timeout_ms=5_000)
    yield ledger
    await ledger.close()


@pytest.fixture
async def gate(settings: Settings, ledger: Ledger) -> AsyncIterator[Gate]:
    gate = await Gate.connect(settings, 1)
    assert await Recovery(gate, ledger, await ledger.bootstrap(1)).look() == {}
    await gate.publish(Campaign("sale", 1, a_definition("Sale"), 0))
    yield gate
    await gate.close()


@pytest.fixture
async def checkout(gate: Gate, settings: Settings) -> AsyncIterator[Checkout]:
    checkout = Checkout(gate, settings)
    yield checkout
    await checkout.close()


async def persist_until_empty(gate: Gate, ledger: Ledger, settings: Settings) -> None:
    installation = await ledger.installation()
    assert installation is not None

    def outbox(partition: int, epoch: int) -> Outbox:
        return Outbox(gate.connections(), partition, installation.id, epoch)

    stop = asyncio.Event()
    run = asyncio.create_task(Persister(ledger, installation, outbox, settings).run(stop))
    async with asyncio.timeout(20):
        while await gate.waiting_events():  # noqa: ASYNC110  # the stream is looked at, nobody signals
            await asyncio.sleep(0.02)
    stop.set()
    await run


async def test_a_full_store_refuses_can_be_paused_and_drains(
    server: redis.Redis, gate: Gate, checkout: Checkout, ledger: Ledger, settings: Settings
) -> None:
    redeemed = [await checkout.redeem(attempt(number)) for number in range(50)]
    server.config_set("maxmemory", 1)
    with pytest.raises(Unavailable, match="memory is full"):
        await checkout.redeem(attempt(50))
    status = await States(gate).pause("sale", "full")
    assert status is not None
    assert status.campaign.kept == "paused"
    await persist_until_empty(gate, ledger, settings)
    assert await ledger.count_redemptions("sale") == len(redeemed) == 50
    assert await StopBook(ledger).taken_while_paused("sale") == 0


async def test_a_gate_restored_from_an_older_copy_stays_closed(
    server: redis.Redis, gate: Gate, checkout: Checkout, ledger: Ledger, settings: Settings
) -> None:
    installation = await ledger.installation()
    assert installation is not None
    await checkout.redeem(attempt(1))
    await persist_until_empty(gate, ledger, settings)
    keys = list(server.scan_iter())
    older = {key: server.dump(key) for key in keys}
    await checkout.redeem(attempt(2))
    await persist_until_empty(gate, ledger, settings)
    recovery = Recovery(gate, ledger, installation)
    assert await recovery.look() == {}

    server.flushdb()
    for key, value in older.items():
        assert value is not None
        server.restore(key, 0, value)
    assert await recovery.look() == {0: Finding.LOST}
    with pytest.raises(Unavailable, match="closed"):
        await checkout.redeem(attempt(3))


async def test_what_another_installation_wrote_is_not_persisted(
    server: redis.Redis, gate: Gate, checkout: Checkout, ledger: Ledger
) -> None:
    installation = await ledger.installation()
    assert installation is not None
    await checkout.redeem(attempt(1))
    server.set(Keys(0).meta, "another:1")
    outbox = Outbox(gate.connections(), 0, installation.id, 1)
    with pytest.raises(Unavailable, match="closed"):
        await outbox.read(STREAM_START, 10, 0)
    with pytest.raises(Unavailable, match="closed"):
        await outbox.trim(StreamId(2**62, 0))
    await outbox.close()
    assert server.xlen("{p00}:outbox") == 1


async def test_a_redemption_is_found_by_its_position_and_nothing_by_another(checkout: Checkout) -> None:
    redeemed = await checkout.redeem(attempt(1))
    assert isinstance(redeemed, Redemption)
    found = await checkout.event(redeemed.position)
    assert found is not None
    assert Redemption.from_event(found) == redeemed
    after = redeemed.position._replace(stream_id=StreamId(redeemed.position.stream_id.ms + 10**9, 0))
    assert await checkout.event(after) is None
    assert await checkout.event(redeemed.position._replace(epoch=2)) is None
    assert await checkout.event(redeemed.position._replace(partition=7)) is None
