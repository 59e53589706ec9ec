"""The contract `replica`: what is acknowledged is on the disks of two machines, so one of them may be lost."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import redis

from tests.adversity.slow_link import SlowLink
from tests.opened import open_all
from tests.values import a_claim, a_definition, attempt_of
from vouchsafe.domain.campaign import Campaign, CodeEntry
from vouchsafe.domain.errors import Misconfigured, Unavailable
from vouchsafe.domain.limits import Limits
from vouchsafe.domain.reasons import Reason, Refusal
from vouchsafe.domain.redemption import AppliedCode, CombinedClaim, Redemption
from vouchsafe.domain.reservation import Reservation
from vouchsafe.embedded import EmbeddedValkey, free_port
from vouchsafe.gate.attempts import Attempt
from vouchsafe.gate.checkout import Checkout
from vouchsafe.gate.directory import Directory
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.holds import Note
from vouchsafe.gate.keys import Keys
from vouchsafe.gate.states import States
from vouchsafe.settings import Acknowledge, Settings

CAP = 600
LIMITS = Limits(total=CAP)
LOSSES = 6
NOT_CONFIRMED = "no replica has confirmed in time"


pytestmark = pytest.mark.one_node("about one primary and its replica")


def attempt(number: int) -> Attempt:
    return attempt_of(a_claim(number, "sale", "SALE"), limits=LIMITS)


@dataclass
class Server:
    """What one server process has: connections of its own."""

    gate: Gate
    checkout: Checkout


@contextlib.asynccontextmanager
async def a_server(
    valkey: EmbeddedValkey, acknowledge: Acknowledge = "replica", timeout_ms: int = 400
) -> AsyncIterator[Server]:
    settings = Settings(valkey_url=valkey.url, acknowledge=acknowledge, gate_timeout_ms=timeout_ms)
    gate = await Gate.connect(settings, 1)
    checkout = Checkout(gate, settings)
    try:
        await open_all(gate)
        yield Server(gate, checkout)
    finally:
        await checkout.close()
        await gate.close()


@contextlib.contextmanager
def standing_still(valkey: EmbeddedValkey) -> Iterator[None]:
    process = psutil.Process(valkey.pid)
    process.suspend()
    try:
        yield
    finally:
        process.resume()


@pytest.fixture
def replica(own_valkey: EmbeddedValkey, tmp_path: Path) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(tmp_path / "replica", free_port(), own_valkey.port) as running:
        yield running


@pytest.fixture
async def server(own_valkey: EmbeddedValkey, replica: EmbeddedValkey) -> AsyncIterator[Server]:
    assert replica.pid
    async with a_server(own_valkey) as running:
        await running.gate.publish(Campaign("sale", 1, a_definition("Sale", limits=LIMITS), 0))
        await Directory(running.gate).put([CodeEntry("SALE", "sale", None)])
        yield running


@pytest.fixture
async def another(server: Server, own_valkey: EmbeddedValkey) -> AsyncIterator[Server]:
    """Whose connections have written nothing."""
    assert server.gate.partitions == 1
    async with a_server(own_valkey) as running:
        yield running


async def redeemed_count(server: Server) -> int:
    (status,) = await server.gate.describe(["sale"])
    assert status is not None
    return status.redeemed_count


async def not_confirmed(call: Awaitable[object]) -> None:
    with pytest.raises(Unavailable, match=NOT_CONFIRMED):
        await call


async def test_what_no_replica_has_is_not_acknowledged_and_is_not_decided_twice(
    server: Server, another: Server, replica: EmbeddedValkey
) -> None:
    with standing_still(replica):
        await not_confirmed(server.checkout.redeem(attempt(1)))
        # What is recorded has not reached the replica any more than before; these only read it.
        await not_confirmed(another.checkout.redeem(attempt(1)))
        await not_confirmed(another.checkout.claim_id("request-1", attempt(1).claim.fingerprint))
        assert await redeemed_count(another) == 1
    redeemed = await another.checkout.redeem(attempt(1))
    assert isinstance(redeemed, Redemption)
    assert await server.checkout.redeem(attempt(1)) == redeemed
    assert await redeemed_count(server) == await server.gate.waiting_events() == 1


async def test_the_end_of_a_reservation_is_not_told_before_a_replica_has_it(
    server: Server, another: Server, replica: EmbeddedValkey
) -> None:
    claim = a_claim(1, "sale", "SALE")
    applied = AppliedCode(claim.code, "sale", 1, claim.discount, {}, 1)
    combined = CombinedClaim(
        request_id=claim.request_id,
        fingerprint=claim.fingerprint,
        customer_id=claim.customer_id,
        order_id=claim.order_id,
        currency_code="EUR",
        order_amount_minor=1_000,
        applied=(applied,),
        reservation_id="h00-1",
    )
    reservation = Reservation("h00-1", 2**42, combined)
    await server.checkout.holds.note(Note(reservation, claim.fingerprint, 60_000))
    with standing_still(replica):
        await not_confirmed(server.checkout.holds.end_released(reservation))
        await not_confirmed(another.checkout.holds.noted("h00-1"))
    noted = await another.checkout.holds.noted("h00-1")
    assert noted is not None
    assert noted.end is not None


async def test_a_pause_that_a_failover_could_forget_is_none(
    server: Server, another: Server, replica: EmbeddedValkey
) -> None:
    with standing_still(replica):
        await not_confirmed(States(server.gate).pause("sale", "stock is gone"))
        await not_confirmed(States(another.gate).pause("sale", "stock is gone"))
    paused = await States(another.gate).pause("sale", "stock is gone")
    assert paused is not None
    assert paused.campaign.kept == "paused"
    with redis.Redis.from_url(replica.url) as client:
        assert client.hget(Keys(0).campaign("sale"), "state") == b"paused"
    refused = await server.checkout.redeem(attempt(1))
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.CAMPAIGN_PAUSED
    assert await server.gate.waiting_events() == 1


async def test_while_nothing_is_confirmed_nothing_more_is_taken(server: Server, replica: EmbeddedValkey) -> None:
    with standing_still(replica):
        for number in range(4):
            await not_confirmed(server.checkout.redeem(attempt(number)))
        assert await redeemed_count(server) == 1
    assert isinstance(await server.checkout.redeem(attempt(3)), Redemption)
    assert await redeemed_count(server) == 2


async def test_what_only_reads_does_not_wait(server: Server, replica: EmbeddedValkey) -> None:
    redeemed = await server.checkout.redeem(attempt(1))
    assert isinstance(redeemed, Redemption)
    with standing_still(replica):
        await not_confirmed(server.checkout.redeem(attempt(2)))
        assert await server.checkout.resolve("SALE") == CodeEntry("SALE", "sale", None)
        assert await server.checkout.definition("sale") is not None
        assert await server.checkout.event(redeemed.position) is not None
        assert await redeemed_count(server) == 2


async def test_a_full_store_is_paused_with_a_confirmation(server: Server, own_valkey: EmbeddedValkey) -> None:
    with redis.Redis.from_url(own_valkey.url) as store:
        store.config_set("maxmemory", 1)
    with pytest.raises(Unavailable, match="memory is full"):
        await server.checkout.redeem(attempt(1))
    paused = await States(server.gate).pause("sale", "full")
    assert paused is not None
    assert paused.campaign.kept == "paused"


async def test_a_replica_without_a_disk_confirms_nothing(server: Server, replica: EmbeddedValkey) -> None:
    with redis.Redis.from_url(replica.url) as client:
        client.config_set("appendonly", "no")
        await not_confirmed(server.checkout.redeem(attempt(1)))


async def test_without_a_replica_nothing_is_decided_and_a_pause_stops_all_the_same(
    server: Server, own_valkey: EmbeddedValkey, replica: EmbeddedValkey
) -> None:
    replica.stop()
    async with a_server(own_valkey, "gate") as gate_server:
        await _until_refused(server)
        with pytest.raises(Unavailable, match="no replica that is connected"):
            await server.checkout.redeem(attempt(1))
        assert await redeemed_count(gate_server) == 0
        with pytest.raises(Unavailable, match=NOT_CONFIRMED):
            await States(server.gate).pause("sale", "stock is gone")
        assert isinstance(await gate_server.checkout.redeem(attempt(2)), Refusal)
    await asyncio.to_thread(replica.start)
    await server.gate.check_store()
    assert await States(server.gate).pause("sale", "stock is gone") is not None


async def _until_refused(server: Server) -> None:
    """The primary notices a moment later that the replica has gone."""
    async with asyncio.timeout(20):
        with contextlib.suppress(Misconfigured):
            while True:
                await server.gate.check_store()
                await asyncio.sleep(0.01)


# -- the machine of the primary is lost ------------------------------------------------------------------------------


@dataclass
class Sale:
    """Who asked, and what they were told."""

    asked: set[int] = field(default_factory=set)
    told: dict[int, Redemption] = field(default_factory=dict)


async def _shop(server: Server, sale: Sale, numbers: Iterator[int]) -> None:
    """Until the primary is gone."""
    for number in numbers:
        sale.asked.add(number)
        answer = await server.checkout.redeem(attempt(number))
        assert isinstance(answer, Redemption)
        sale.told[number] = answer


async def _lose_primary(directory: Path, acknowledge: Acknowledge) -> None:
    primary = EmbeddedValkey(directory / "primary", free_port())
    await asyncio.to_thread(primary.start)
    sale = Sale()
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(primary.stop)
        link = await stack.enter_async_context(SlowLink.to(primary.port))
        replica = EmbeddedValkey(directory / "replica", free_port(), link.port)
        await asyncio.to_thread(replica.start)
        stack.callback(replica.stop)
        server = await stack.enter_async_context(a_server(primary, acknowledge, timeout_ms=5_000))
        await server.gate.publish(Campaign("sale", 1, a_definition("Sale", limits=LIMITS), 0))
        numbers = itertools.count()
        shoppers = [asyncio.create_task(_shop(server, sale, numbers)) for _ in range(32)]
        enough = random.randint(1, 300)
        await _until(lambda: len(sale.told) >= enough)
        # Nothing else runs in between.
        primary.kill()
        link.cut()
        ended = await asyncio.gather(*shoppers, return_exceptions=True)
        assert {type(error) for error in ended} == {Unavailable}

        with redis.Redis.from_url(replica.url) as client:
            client.execute_command("REPLICAOF", "NO", "ONE")
        async with a_server(replica, "gate") as promoted:
            kept = await redeemed_count(promoted)
            assert len(sale.told) <= kept <= len(sale.asked)
            for number, redemption in sale.told.items():
                assert await promoted.checkout.redeem(attempt(number)) == redemption
            # Who was told nothing asks again; then others come, to the end of the campaign.
            for number in sale.asked - set(sale.told):
                assert isinstance(await promoted.checkout.redeem(attempt(number)), Redemption)
            rest = await asyncio.gather(*(promoted.checkout.redeem(attempt(10_000 + number)) for number in range(CAP)))
            assert sum(isinstance(answer, Redemption) for answer in rest) == CAP - len(sale.asked)
            assert await redeemed_count(promoted) == await promoted.gate.waiting_events() == CAP


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110  # what is waited for is counted, nobody signals
            await asyncio.sleep(0)


async def test_what_was_acknowledged_is_in_the_replica_when_the_primary_is_lost(tmp_path: Path) -> None:
    for number in range(LOSSES):
        await _lose_primary(tmp_path / str(number), "replica")
