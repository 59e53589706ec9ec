"""A yardstick that is wrong would be quick for nothing: what is built on PostgreSQL only keeps the cap as well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from benchmarks.postgres_only import CONNECTIONS, RIVALS, Row, prepare

CAP = 100


@pytest.fixture
async def pool(ledger_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(ledger_url, min_size=CONNECTIONS, max_size=CONNECTIONS) as connected:
        await prepare(connected, CAP)
        yield connected


@pytest.mark.parametrize("name", RIVALS)
async def test_calls_and_batches_take_the_cap_and_no_more(pool: asyncpg.Pool, name: str) -> None:
    rival = RIVALS[name](pool)
    batches = [[_row(number) for number in range(first, first + 7)] for first in range(0, 140, 7)]

    answers, singles = await asyncio.gather(
        asyncio.gather(*map(rival.redeem_many, batches)),
        asyncio.gather(*(rival.redeem(_row(number)) for number in range(140, 200))),
    )

    assert sum(map(sum, answers)) + sum(singles) == CAP
    assert await _kept(pool) == (CAP, CAP)


@pytest.mark.parametrize("name", RIVALS)
async def test_one_that_stands_already_fails_alone_and_takes_nothing(pool: asyncpg.Pool, name: str) -> None:
    rival = RIVALS[name](pool)
    known, rows = [_row(number) for number in range(3)], [_row(number) for number in range(10)]
    assert await rival.redeem_many(known) == [True] * 3
    again = "request-again", *rows[0][1:]  # of a customer who has had one

    one, other = await asyncio.gather(rival.redeem_many(rows), rival.redeem_many(rows[::-1]))

    assert [a + b for a, b in zip(one, other[::-1], strict=True)] == [0] * 3 + [1] * 7
    assert [await rival.redeem(row) for row in (rows[5], again, _row(10))] == [False, False, True]
    assert await _kept(pool) == (11, 11)


def _row(number: int) -> Row:
    return f"request-{number}", f"customer-{number}", f"order-{number}", 100


async def _kept(pool: asyncpg.Pool) -> tuple[int, int]:
    """Uses that were counted, and redemptions that stand."""
    used = await pool.fetchval("select used from yardstick.campaigns")
    return used, await pool.fetchval("select count(*) from yardstick.redemptions")
