"""A PostgreSQL that dies or hangs: callers are told soon, nothing is written twice, and it goes on by itself."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Iterator

import asyncpg
import psutil
import pytest

from tests.ledger.events import EPOCH, PARTITION, SUMMER, redeemed
from vouchsafe.domain.errors import AlreadyExists, Unavailable
from vouchsafe.domain.redemption import STREAM_START
from vouchsafe.embedded import EmbeddedPostgres
from vouchsafe.ledger.connection import dropped_when_cancelled, transaction
from vouchsafe.ledger.ledger import Ledger, OffsetMoved
from vouchsafe.ledger.migrate import migrate

TIMEOUT_MS = 500
# One timeout, and then some for a busy machine.
SOON_S = 1.5


@pytest.fixture
async def ledger(own_postgres: EmbeddedPostgres) -> AsyncIterator[Ledger]:
    await migrate(own_postgres.url, 5_000)
    connected = await Ledger.connect(own_postgres.url, pool_size=4, timeout_ms=TIMEOUT_MS)
    try:
        await connected.bootstrap(16)
        await connected.create_campaign("summer", SUMMER, [])
        yield connected
    finally:
        await connected.close()


@contextlib.contextmanager
def hanging(postgres: EmbeddedPostgres) -> Iterator[None]:
    """Everything of the server stands still: connections are accepted, and nothing is answered."""
    server = psutil.Process(postgres.pid)
    stopped = [server, *server.children(recursive=True)]
    for process in stopped:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


async def assert_unavailable_soon(*calls: Awaitable[object]) -> None:
    began = time.monotonic()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert time.monotonic() - began < SOON_S
    assert [type(answer) for answer in answers] == [Unavailable] * len(calls)


def some_of_everything(ledger: Ledger) -> list[Awaitable[object]]:
    """More calls than the pool has connections."""
    return [
        ledger.get_campaign("summer"),
        ledger.list_campaigns(10, None),
        ledger.create_campaign("winter", SUMMER, []),
        ledger.persist(PARTITION, EPOCH, STREAM_START, [redeemed(0)]),
        ledger.bootstrap(16),
        ledger.ping(),
    ]


async def test_a_server_that_was_killed_is_told_soon_and_used_again_once_it_is_back(
    ledger: Ledger, own_postgres: EmbeddedPostgres
) -> None:
    under_way = asyncio.create_task(slow_query(ledger))
    await asyncio.sleep(0.1)
    own_postgres.kill()
    await assert_unavailable_soon(under_way, *some_of_everything(ledger))
    async with contextlib.AsyncExitStack() as stack:
        await assert_unavailable_soon(
            Ledger.connect(own_postgres.url, pool_size=1, timeout_ms=TIMEOUT_MS),
            stack.enter_async_context(ledger.partition_locks()),
        )
    own_postgres.start()
    assert await ledger.get_campaign("winter") is None
    await ledger.persist(PARTITION, EPOCH, STREAM_START, [redeemed(0)])
    assert await ledger.count_redemptions("summer") == 1


async def slow_query(ledger: Ledger) -> None:
    async with ledger.connection() as connection:
        await connection.execute("select pg_sleep(60)")


async def test_a_server_that_hangs_hangs_nobody(ledger: Ledger, own_postgres: EmbeddedPostgres) -> None:
    async with ledger.partition_locks() as locks:
        assert await locks.try_lock(1)
        with hanging(own_postgres):
            await assert_unavailable_soon(*some_of_everything(ledger))
            # The pool is not used up by what was given up.
            await assert_unavailable_soon(*some_of_everything(ledger))
            await assert_unavailable_soon(
                Ledger.connect(own_postgres.url, pool_size=1, timeout_ms=TIMEOUT_MS),
                migrate(own_postgres.url, TIMEOUT_MS),
                locks.try_lock(2),
            )
            assert not await locks.alive()
    assert await ledger.get_campaign("summer") is not None


async def test_a_server_that_hangs_in_the_middle_of_a_transaction_hangs_nobody(
    ledger: Ledger, own_postgres: EmbeddedPostgres
) -> None:
    stack = contextlib.ExitStack()

    async def hang_inside() -> None:
        async with ledger.connection() as connection, transaction(connection):
            await connection.execute("insert into campaigns (id, definition) values ('half', '{}')")
            stack.enter_context(hanging(own_postgres))
            raise AlreadyExists("so that it is rolled back")

    with stack:
        await assert_unavailable_soon(hang_inside())
    # The row was locked by the server's half of the transaction, which ends by itself.
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(Unavailable):
                await ledger.create_campaign("half", SUMMER, [])
                break


async def test_cancelling_a_call_neither_waits_nor_spoils_a_connection(
    ledger: Ledger, own_postgres: EmbeddedPostgres
) -> None:
    with hanging(own_postgres):
        calls = [asyncio.create_task(slow_query(ledger)) for _ in range(4)]
        await asyncio.sleep(0.05)
        for call in calls:
            call.cancel()
        began = time.monotonic()
        await asyncio.gather(*calls, return_exceptions=True)
        assert time.monotonic() - began < 0.2
    assert [campaign.id for campaign in await ledger.list_campaigns(10, None)] == ["summer"]


async def test_closing_does_not_wait_for_a_server_that_hangs(ledger: Ledger, own_postgres: EmbeddedPostgres) -> None:
    with hanging(own_postgres):
        under_way = asyncio.create_task(slow_query(ledger))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        await ledger.close()
        assert time.monotonic() - began < SOON_S
        await assert_unavailable_soon(under_way)


async def test_killed_again_and_again_while_persisting_every_event_is_written_once(
    ledger: Ledger, own_postgres: EmbeddedPostgres
) -> None:
    count = 20_000
    events = [redeemed(number) for number in range(count)]
    offsets = [STREAM_START, *(one.position.stream_id for one in events)]
    failures = done = 0

    async def persist() -> None:
        nonlocal failures, done
        while done < count:
            try:
                done = offsets.index((await ledger.partition(PARTITION)).offset)
                while done < count:
                    await ledger.persist(PARTITION, EPOCH, offsets[done], events[done : done + 100])
                    done += 100
            except Unavailable:
                failures += 1
                await asyncio.sleep(0.01)

    task = asyncio.create_task(persist())
    for quarter in range(1, 4):
        async with asyncio.timeout(30):
            while done < quarter * count // 4:  # noqa: ASYNC110  # what is waited for is counted, nobody signals
                await asyncio.sleep(0)
        assert not task.done()
        await asyncio.to_thread(own_postgres.kill)
        await asyncio.to_thread(own_postgres.start)
    await task
    assert failures >= 3
    assert await ledger.count_redemptions("summer") == count
    with pytest.raises(OffsetMoved):
        await ledger.persist(PARTITION, EPOCH, STREAM_START, events[:1])


async def test_who_is_cancelled_behind_a_connection_that_is_lost_is_cancelled(own_postgres: EmbeddedPostgres) -> None:
    async with asyncpg.create_pool(own_postgres.url, min_size=1, max_size=1) as pool:
        connection = await pool.acquire()
        own_postgres.kill()
        with pytest.raises((asyncpg.PostgresError, OSError)):
            await connection.execute("select 1")
        with pytest.raises(asyncio.CancelledError), dropped_when_cancelled(connection):
            raise asyncio.CancelledError
        pool.terminate()
