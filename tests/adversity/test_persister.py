"""The persister, killed and cut off in every place: each event is in the ledger exactly once, and leaves the outbox.

Run as a program, this file is a persister that kills itself between commit and trim.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import asyncpg
import pytest
import structlog

from tests.opened import seen
from tests.valkeys import connected, on_every_node
from tests.values import a_claim
from vouchsafe.domain.errors import Unavailable
from vouchsafe.domain.partitions import Finding, examine
from vouchsafe.domain.redemption import EventKind, StreamId
from vouchsafe.embedded import EmbeddedPostgres, EmbeddedValkey
from vouchsafe.gate.connection import Command
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.keys import Keys
from vouchsafe.gate.outbox import Outbox
from vouchsafe.ledger.ledger import Installation, Ledger
from vouchsafe.ledger.migrate import migrate
from vouchsafe.service.persist import Persister
from vouchsafe.service.rebuild import Rebuild, open_verified
from vouchsafe.service.recover import Recovery, followed
from vouchsafe.settings import Settings

PARTITIONS = 4
SETTLE_S = 20.0


class World:
    """Both stores, an installation whose partitions are open, and events as the gate would record them."""

    def __init__(
        self, settings: Settings, ledger: Ledger, gate: Gate, installation: Installation, recovery: Recovery
    ) -> None:
        self.settings = settings
        self.ledger = ledger
        self.gate = gate
        self.installation = installation
        self.recovery = recovery
        self.recorded = 0

    async def record(self, count: int, partitions: Sequence[int] = range(PARTITIONS)) -> None:
        """Redemptions 0, 1, 2 … of campaign "summer", in turn to the partitions."""
        commands = []
        for number in range(self.recorded, self.recorded + count):
            body = a_claim(number).to_json()
            commands.append(_event(partitions[number % len(partitions)], EventKind.REDEEMED, body))
        self.recorded += count
        await self.enter(commands)

    async def enter(self, commands: Sequence[Command]) -> None:
        """Entries of outboxes, over a connection of its own."""
        async with connected(self.settings.valkey_url) as valkey:
            assert all(isinstance(reply, bytes) for reply in await valkey.execute(commands))

    def persister(self) -> Persister:
        return persister_of(self.settings, self.ledger, self.gate, self.installation)

    async def assert_settled(self) -> None:
        """Everything that was recorded gets to the ledger, exactly once and in order, and nothing stays behind."""
        await until(self.no_events_wait, "the outbox is not empty")
        connection = await asyncpg.connect(self.settings.postgres_url)
        try:
            rows = await connection.fetch("select substr(order_id, 7)::int from redemptions order by 1")
            assert [number for (number,) in rows] == list(range(self.recorded))
            assert await connection.fetchval("select count(*) from events") == self.recorded
            out_of_order = """
                select count(*) from (
                    select number < lag(number) over (partition by partition order by event_ms, event_seq) as wrong
                    from (select *, substr(order_id, 7)::int as number from redemptions) as numbered
                ) as compared where wrong
            """
            assert await connection.fetchval(out_of_order) == 0
        finally:
            await connection.close()

    async def no_events_wait(self) -> bool:
        with contextlib.suppress(Unavailable):
            # As every process does: a gate that was restarted is closed until somebody has looked at it.
            await self.recovery.look()
            return await self.gate.waiting_events() == 0
        return False


def _event(partition: int, kind: EventKind, body: bytes) -> Command:
    now_ms = int(time.time() * 1000)
    return ("XADD", Keys(partition).outbox, "*", "kind", kind, "at", now_ms, "campaign", "summer", "body", body)


def persister_of(settings: Settings, ledger: Ledger, gate: Gate, installation: Installation) -> Persister:
    def outbox(partition: int, epoch: int) -> Outbox:
        return Outbox(gate.connections(), partition, installation.id, epoch)

    return Persister(ledger, installation, outbox, settings)


async def until(condition: Callable[[], Awaitable[bool]], complaint: str) -> None:
    deadline = time.monotonic() + SETTLE_S
    while not await condition():
        assert time.monotonic() < deadline, complaint
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running(*persisters: Persister) -> AsyncIterator[asyncio.Event]:
    """Stops them at the end, or earlier by the event that it gives."""
    stop = asyncio.Event()
    runs = [asyncio.create_task(persister.run(stop)) for persister in persisters]
    try:
        yield stop
    finally:
        stop.set()
        async with asyncio.timeout(2):
            await asyncio.gather(*runs)


@contextlib.asynccontextmanager
async def a_world(settings: Settings) -> AsyncIterator[World]:
    ledger = await Ledger.connect(settings.postgres_url, pool_size=4, timeout_ms=settings.ledger_timeout_ms)
    try:
        installation = await ledger.bootstrap(PARTITIONS)
        gate = await Gate.connect(settings, PARTITIONS)
        try:
            recovery = Recovery(gate, ledger, installation, Rebuild(gate, ledger, installation.id, settings))
            assert await recovery.look() == {}
            yield World(settings, ledger, gate, installation, recovery)
        finally:
            await gate.close()
    finally:
        await ledger.close()


@pytest.fixture
async def world(settings: Settings) -> AsyncIterator[World]:
    async with a_world(settings) as made:
        yield made


async def test_every_event_is_moved_once_and_in_order(world: World) -> None:
    await world.record(5_000)
    async with running(world.persister()):
        await world.record(5_000)
        await world.assert_settled()
        await world.record(1)
        await world.assert_settled()


async def test_killed_between_commit_and_trim_nothing_is_written_twice(world: World) -> None:
    await world.record(500, partitions=[2])
    for _ in range(2):
        # It dies at its first trim: the first time after its first batch, then at that of what its predecessor left.
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.adversity.test_persister",
            env=os.environ
            | {
                "VOUCHSAFE_VALKEY_URL": world.settings.valkey_url,
                "VOUCHSAFE_POSTGRES_URL": world.settings.postgres_url,
                "VOUCHSAFE_PERSIST_BATCH": "100",
            },
        )
        assert await child.wait() == -signal.SIGKILL
        assert await world.ledger.count_redemptions("summer") == 100
        assert await world.gate.waiting_events() == 500
    async with running(world.persister()):
        await world.assert_settled()


async def test_of_several_persisters_one_follows_a_partition_and_another_takes_over(world: World) -> None:
    async with running(world.persister()) as stop:
        await world.record(2_000)
        await world.assert_settled()
        async with running(world.persister(), world.persister()):
            await world.record(2_000)
            await world.assert_settled()
            await world.record(2_000)
            stop.set()
            await world.record(2_000)
            await world.assert_settled()


async def test_without_locks_the_ledger_still_keeps_two_apart(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # As after a network that hid the loss of a session: both believe to own every partition.
    async def everybody_may(*_: object) -> bool:
        return True

    monkeypatch.setattr("vouchsafe.ledger.locks.PartitionLocks.try_lock", everybody_may)
    async with running(world.persister(), world.persister(), world.persister()):
        for _ in range(20):
            await world.record(200)
            await asyncio.sleep(0.05)
        await world.assert_settled()


async def test_a_persister_whose_locks_are_lost_takes_them_again(world: World) -> None:
    connection = await asyncpg.connect(world.settings.postgres_url)

    async def one_session_holds_all() -> bool:
        return [row["locks"] for row in await connection.fetch(held)] == [PARTITIONS]

    held = """
        select pid, count(*) as locks from pg_locks join pg_database on pg_database.oid = database
        where locktype = 'advisory' and granted and datname = current_database() group by pid
    """
    end = "select pg_terminate_backend($1)"
    try:
        async with running(world.persister()):
            for _ in range(2):
                await until(one_session_holds_all, "the partitions are not followed")
                await world.record(100)
                await world.assert_settled()
                await connection.execute(end, await connection.fetchval(held))
            await until(one_session_holds_all, "the partitions are not followed again")
            await world.record(100)
            await world.assert_settled()
    finally:
        await connection.close()


async def test_what_moves_between_two_looks_closes_nothing(
    own_valkey: EmbeddedValkey, own_postgres: EmbeddedPostgres
) -> None:
    await migrate(own_postgres.url, 5_000)
    async with a_world(Settings(valkey_url=own_valkey.url, postgres_url=own_postgres.url)) as world:
        installation = await world.ledger.installation()
        assert installation is not None
        states = installation.partitions
        await world.record(100)
        async with running(world.persister()):
            await until(world.no_events_wait, "the outbox is not empty")
        seen = await world.gate.inspect()
        assert [examine(installation.id, *pair) for pair in zip(states, seen, strict=True)] == [
            Finding.LEDGER_BEHIND
        ] * PARTITIONS
        asked = await followed(world.ledger, states, seen)
        assert [examine(installation.id, *pair) for pair in zip(states, asked, strict=True)] == [
            Finding.OPEN
        ] * PARTITIONS

        # What this process has read of the ledger last may be older still, once it is away.
        recovery = Recovery(world.gate, world.ledger, installation)
        await asyncio.to_thread(own_postgres.kill)
        assert await recovery.look() == {}


async def test_what_was_moved_while_a_partition_was_closed_is_trimmed_when_it_is_open(world: World) -> None:
    async with running(world.persister()):
        await on_every_node(world.gate, ("FUNCTION", "FLUSH"))  # as a restart does
        await world.record(100)
        await until(lambda: has(world, 100), "nothing is moved")
        installation = await world.ledger.installation()
        assert installation is not None
        begun = [
            await world.ledger.begin_epoch(state, one.epoch, one.last)
            for state, one in zip(installation.partitions, await seen(world.gate), strict=True)
        ]
        # The gate comes later than the ledger, and until then the partitions are followed, but closed.
        await world.record(100)
        await until(lambda: has(world, 200), "nothing is moved under the new epoch")
        assert await world.gate.waiting_events() == 200
        pairs = [(one, found) for one, found in zip(begun, await seen(world.gate), strict=True) if one is not None]
        assert await open_verified(world.gate, world.ledger, installation.id, pairs) == list(range(PARTITIONS))
        await world.assert_settled()


async def has(world: World, count: int) -> bool:
    return await world.ledger.count_redemptions("summer") == count


async def test_stopping_is_quick_when_idle_and_when_busy(world: World) -> None:
    for events in (0, 20_000):
        await world.record(events)
        async with running(world.persister()) as stop:
            await asyncio.sleep(0.3)
            began = time.monotonic()
            stop.set()
        assert time.monotonic() - began < 1
    async with running(world.persister()):
        await world.assert_settled()


async def test_stores_that_go_away_are_waited_for_and_that_is_said_once(
    own_valkey: EmbeddedValkey, own_postgres: EmbeddedPostgres
) -> None:
    await migrate(own_postgres.url, 5_000)
    settings = Settings(
        valkey_url=own_valkey.url, postgres_url=own_postgres.url, ledger_timeout_ms=1_000, gate_timeout_ms=500
    )
    async with a_world(settings) as world:
        with structlog.testing.capture_logs() as lines:
            async with running(world.persister()):
                for store in (own_postgres, own_valkey):
                    await world.record(100)
                    await world.assert_settled()
                    if store is own_postgres:
                        await world.record(1_000)
                    await asyncio.to_thread(store.kill)
                    await asyncio.sleep(1.5)
                    await asyncio.to_thread(store.start)
                    await world.record(1_000)
                    await world.assert_settled()
    said = [line["event"] for line in lines if line.get("what") == "persister"]
    # An outage looks different while it begins, lasts and ends: refused, cut off, starting up.
    assert 2 <= said.count("waiting") <= 8, lines
    assert said[-1] == "going on", lines


async def _die(_: Outbox, __: StreamId) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


async def _persist_until_the_first_trim() -> None:
    settings = Settings()
    ledger = await Ledger.connect(settings.postgres_url, pool_size=2, timeout_ms=settings.ledger_timeout_ms)
    gate = await Gate.connect(settings, PARTITIONS)
    await persister_of(settings, ledger, gate, await ledger.bootstrap(PARTITIONS)).run(asyncio.Event())


if __name__ == "__main__":
    Outbox.trim = _die  # type: ignore[assignment, method-assign]  # what this program is for
    asyncio.run(_persist_until_the_first_trim())
