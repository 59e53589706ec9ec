"""Whose ledger it is, how far it has come, and who may follow a partition."""

from __future__ import annotations

import asyncio

import asyncpg

from vouchsafe.domain.partitions import PartitionState
from vouchsafe.domain.redemption import STREAM_START
from vouchsafe.ledger.ledger import Ledger


async def test_8_bootstrapping_at_once_make_one_installation(ledger: Ledger) -> None:
    assert await ledger.installation() is None
    made = await asyncio.gather(*(ledger.bootstrap(partitions) for partitions in range(1, 9)))
    assert len(set(made)) == 1
    assert len({state.partition for state in made[0].partitions}) == len(made[0].partitions)
    assert await ledger.installation() == made[0]


async def test_a_new_partition_begins_at_the_start_of_the_stream(ledger: Ledger) -> None:
    installation = await ledger.bootstrap(100)
    assert installation.partitions == tuple(
        PartitionState(partition, epoch=1, opened=False, offset=STREAM_START) for partition in range(100)
    )


async def test_opening_is_noted_once_and_for_its_epoch_only(ledger: Ledger, sql: asyncpg.Connection) -> None:
    await ledger.bootstrap(2)
    await ledger.mark_opened(0, epoch=7)
    assert not (await ledger.partition(0)).opened

    await ledger.mark_opened(0, epoch=1)
    first = await sql.fetchval("select opened_at from partitions where partition = 0")
    await ledger.mark_opened(0, epoch=1)
    assert (await ledger.partition(0)).opened
    assert not (await ledger.partition(1)).opened
    assert await sql.fetchval("select opened_at from partitions where partition = 0") == first


async def test_one_session_at_a_time_holds_a_partition(ledger: Ledger) -> None:
    async with ledger.partition_locks() as one, ledger.partition_locks() as other:
        tries = await asyncio.gather(one.try_lock(5), other.try_lock(5))
        assert sorted(tries) == [False, True]
        assert await one.try_lock(6)
        assert not await other.try_lock(6)
        await one.unlock(6)
        assert await other.try_lock(6)


async def test_leaving_frees_every_lock(ledger: Ledger) -> None:
    async with ledger.partition_locks() as locks:
        assert await locks.try_lock(5)
    async with ledger.partition_locks() as locks:
        async with asyncio.timeout(5):
            # The server notices the end of the other session a moment later, and tells nobody.
            while not await locks.try_lock(5):  # noqa: ASYNC110  # the server tells nobody
                await asyncio.sleep(0.01)


async def test_a_session_that_was_ended_knows_that_it_holds_nothing(ledger: Ledger, sql: asyncpg.Connection) -> None:
    async with ledger.partition_locks() as locks:
        assert await locks.try_lock(5)
        assert await locks.alive()
        ended = await sql.fetch(
            "select pg_terminate_backend(pid, 5000) from pg_locks where locktype = 'advisory' and objid = 5 and granted"
        )
        assert len(ended) == 1
        assert not await locks.alive()
