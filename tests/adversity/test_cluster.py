"""A Valkey Cluster of three primaries: partitions lie everywhere, slots move under load, a primary dies and its replica
takes its place."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.adversity.test_metrics import until_told
from tests.cluster import EmbeddedCluster
from tests.grpc.test_combined import create
from tests.service import Service, a_campaign, an_order, check_agrees, rows_once_settled, settle, until
from tests.valkeys import connected
from vouchsafe import app
from vouchsafe.client import ClientError, Customer, Redemption
from vouchsafe.domain.errors import Unavailable
from vouchsafe.embedded import free_port
from vouchsafe.gate.backlog import BacklogReader
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.keys import Keys, partition_of
from vouchsafe.settings import Settings

SHOPPERS = 16


@pytest.fixture
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> EmbeddedCluster:
    replicas: int = getattr(request, "param", 0)
    return EmbeddedCluster(tmp_path / "cluster", replicas=replicas)


@pytest.fixture
def service(
    tmp_path: Path, cluster: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Service]:
    """With another contract than `gate` if that is asked for."""
    monkeypatch.setenv("VOUCHSAFE_ACKNOWLEDGE", getattr(request, "param", "gate"))
    monkeypatch.setenv("VOUCHSAFE_METRICS_PORT", str(free_port()))
    with Service(tmp_path / "service", workers=2, valkey=cluster) as running:
        yield running
        check_agrees(running)


async def shop(service: Service, codes: list[str], over: asyncio.Event, told: dict[str, str]) -> None:
    """Orders of one code and of two until it is over. What is not answered is asked again under its request id until it
    is."""
    async with service.client(timeout_s=60, channels=8) as client:

        async def one(shopper: int) -> None:
            for number in itertools.count():
                if over.is_set():
                    return
                id_ = f"{codes[0]}-{shopper}-{number}"
                wanted = [codes[number % len(codes)], codes[(number + shopper + 1) % len(codes)]]
                chosen = list(dict.fromkeys(wanted))[: 1 + number % 2]
                with contextlib.suppress(ClientError):
                    answer = await client.redeem_codes(
                        chosen, Customer(id=f"c-{shopper}"), an_order(id_), request_id=id_
                    )
                    if answer.HasField("redemption"):
                        told[id_] = answer.redemption.id

        await asyncio.gather(*(one(shopper) for shopper in range(SHOPPERS)))


async def check(service: Service, told: dict[str, str]) -> None:
    """What was acknowledged is in the ledger once, whole."""
    await settle(service.settings)
    connection = await asyncpg.connect(service.settings.postgres_url)
    try:
        rows = await connection.fetch("select order_id, id, combined_id from redemptions")
    finally:
        await connection.close()
    by_order: dict[str, Counter[str]] = {}
    for row in rows:
        by_order.setdefault(row["order_id"], Counter())[row["combined_id"] or row["id"]] += 1
    assert all(len(ids) == 1 for ids in by_order.values())
    assert {order: id_ for order, id_ in told.items() if id_ not in by_order.get(order, ())} == {}
    parts = Counter(next(iter(ids.values())) for ids in by_order.values())
    assert set(parts) <= {1, 2}


@contextlib.asynccontextmanager
async def shopping_goes_on(service: Service) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Shoppers, and what returns once a hundred more of their orders were told; what they were told is checked in the
    end."""
    async with service.client(timeout_s=60) as client:
        codes = [await create(client, limits={"total": 100_000}) for _ in range(6)]
    told: dict[str, str] = {}
    over = asyncio.Event()

    async def a_hundred_more() -> None:
        before = len(told)
        async with asyncio.timeout(60):
            while len(told) < before + 100:  # noqa: ASYNC110  # what is waited for is counted, nobody signals
                await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as shopping:
        shopping.create_task(shop(service, codes, over, told))
        yield a_hundred_more
        over.set()
    await check(service, told)


async def test_the_first_500_are_500_wherever_they_lie(service: Service, cluster: EmbeddedCluster) -> None:
    owners = {cluster.owner(partition).port for partition in range(service.settings.partitions)}
    assert len(owners) == 3
    async with service.client(timeout_s=60, channels=8) as client:
        sales = [await a_campaign(client, limit=50) for _ in range(6)]

        async def ask(code: str, number: int) -> bool:
            order = an_order(f"{code}-{number}")
            return isinstance(await client.redeem(code, Customer(id=order.id), order), Redemption)

        for campaign, code in sales:
            found = await asyncio.gather(*(ask(code, number) for number in range(150)))
            assert sum(found) == 50
            assert len(await rows_once_settled(service, campaign)) == 50
            await client.pause_campaign(campaign, "over")
            assert await service.taken_while_paused(campaign) == 0
        assert len([campaign async for campaign in client.list_campaigns()]) == len(sales)


async def test_a_node_that_is_away_takes_along_only_what_lies_on_it(service: Service, cluster: EmbeddedCluster) -> None:
    """Without a replica."""
    partitions = service.settings.partitions
    victim = cluster.owner(1)
    away = {partition for partition in range(partitions) if cluster.owner(partition) is victim}
    async with service.client(timeout_s=30) as client:

        def goes_on(*names: str) -> bool:
            return away.isdisjoint(partition_of(name, partitions) for name in names)

        async def redeem(order: str) -> bool:
            request_id = next(id_ for number in itertools.count() if goes_on(id_ := f"{order}-{number}"))
            outcome = await client.redeem(code, Customer(id=order), an_order(order), request_id=request_id)
            return isinstance(outcome, Redemption)

        while not goes_on(*(sale := await a_campaign(client))):
            pass
        campaign, code = sale
        await settle(service.settings)
        await asyncio.to_thread(victim.kill)

        async def is_told() -> bool:
            return {one.partition for one in (await app.status(service.settings)).closed} == away

        async def is_given_up() -> bool:
            return "cluster_slots_fail:0" not in str(cluster.owner(0).ask("CLUSTER", "INFO"))

        await until(is_told)
        assert await redeem("order-one")
        told = {"partitions_open": partitions - len(away), "partitions_closed": len(away), "outbox_events": math.nan}
        await until_told(service, **told)
        await until(is_given_up)
        assert await redeem("order-two")
        await asyncio.to_thread(victim.start)
        assert len(await rows_once_settled(service, campaign)) == 2


async def test_who_goes_before_the_nodes_are_asked_leaves_nothing_behind(cluster: EmbeddedCluster) -> None:
    with cluster:
        async with connected(cluster.url) as valkey:
            commands = [("EXISTS", Keys(partition).meta) for partition in range(3)]
            asking = asyncio.create_task(valkey.execute(commands))
            await asyncio.sleep(0)  # every node has its turn next
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert await valkey.execute(commands) == [0, 0, 0]


async def test_what_waits_is_told_of_the_nodes_that_answer(cluster: EmbeddedCluster) -> None:
    with cluster:
        gate = await Gate.connect(Settings(valkey_url=cluster.url, gate_timeout_ms=500), 3)
        reader = BacklogReader(gate)
        try:
            await gate._execute_all([("XADD", Keys(partition).outbox, "*", "an", "event") for partition in range(3)])
            await asyncio.to_thread(cluster.owner(1).kill)
            waiting = await reader.read()
            assert waiting.entries == 2
            assert [age_ms is None for age_ms in waiting.ages_ms] == [False, True, False]
            await asyncio.to_thread(cluster.kill)
            with pytest.raises(Unavailable):
                await reader.read()
        finally:
            await reader.close()
            await gate.close()


async def test_slots_that_move_under_load_lose_nothing(service: Service, cluster: EmbeddedCluster) -> None:
    async with shopping_goes_on(service) as a_hundred_more:
        for turn in range(6):
            await a_hundred_more()
            partition = turn * 3 % service.settings.partitions
            owner = cluster.owner(partition)
            to = next(node for node in cluster.primaries if node is not owner)
            await asyncio.to_thread(cluster.move, partition, to)


@pytest.mark.parametrize("cluster", [1], indirect=True)
async def test_a_primary_that_is_killed_is_followed_by_its_replica(service: Service, cluster: EmbeddedCluster) -> None:
    async with shopping_goes_on(service) as a_hundred_more:
        for victim in cluster.primaries[:2]:
            await a_hundred_more()
            # With `gate`, what has not reached the replica may be lost (docs/durability.md): here all has.
            await asyncio.to_thread(victim.kill_in_step)
        await a_hundred_more()
        for victim in cluster.primaries[:2]:
            await asyncio.to_thread(victim.start)


@pytest.mark.parametrize("service", ["replica"], indirect=True)
@pytest.mark.parametrize("cluster", [1], indirect=True)
async def test_what_a_replica_has_confirmed_outlives_its_primary(service: Service, cluster: EmbeddedCluster) -> None:
    async with shopping_goes_on(service) as a_hundred_more:
        for victim in cluster.primaries:
            await a_hundred_more()
            await asyncio.to_thread(cluster.kill_and_replace, victim)
            await asyncio.to_thread(victim.start)
        await a_hundred_more()
