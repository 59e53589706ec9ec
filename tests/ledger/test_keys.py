"""The keys of callers in PostgreSQL, and the copy of them that a worker holds."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import asyncpg
import pytest

from vouchsafe.domain.access import Principal, Role
from vouchsafe.domain.errors import Misconfigured, Unauthenticated, Unavailable
from vouchsafe.embedded import EmbeddedPostgres
from vouchsafe.ledger.keys import KeyBook
from vouchsafe.ledger.migrate import migrate
from vouchsafe.service.keys import Keys, new_key

TIMEOUT_MS = 10_000


@pytest.fixture
async def book(ledger_url: str) -> AsyncIterator[KeyBook]:
    async with KeyBook.open(ledger_url, TIMEOUT_MS) as opened:
        yield opened


async def test_what_is_kept_is_read_again(book: KeyBook) -> None:
    end_ms = time.time_ns() // 1_000_000 + 60_000
    _, kept = new_key("pos", [Role.SUPPORT, Role.CHECKOUT], end_ms)
    await book.create(kept)
    (read,) = await book.keys()
    assert (read.id, read.name, read.roles, read.secret_hash) == (kept.id, "pos", kept.roles, kept.secret_hash)
    assert (read.expire_time_ms, read.revoke_time_ms) == (end_ms, None)
    assert abs(read.create_time_ms - kept.create_time_ms) < TIMEOUT_MS
    assert await book.revoke(kept.id)
    assert not await book.revoke("nobody")
    assert await book.keys(usable=True) == []
    assert (await book.keys())[0].revoke_time_ms


async def test_every_change_is_another_version(book: KeyBook, sql: asyncpg.Connection) -> None:
    versions = [await book.version()]
    for name in ("a", "b"):
        await book.create(new_key(name, [Role.VIEWER])[1])
        versions.append(await book.version())
    assert await book.version() == versions[-1]
    # Whoever revokes first may be seen last: their times are those of the beginning of what they do.
    await sql.execute("begin")
    await sql.execute("update api_keys set revoked_at = now() where name = 'a'")
    (later,) = [key for key in await book.keys() if key.name == "b"]
    await book.revoke(later.id)
    versions.append(await book.version())
    await sql.execute("commit")
    versions.append(await book.version())
    assert len(set(versions)) == len(versions) == 5


async def test_a_copy_follows_and_outlives_postgres(own_postgres: EmbeddedPostgres) -> None:
    url = own_postgres.url
    await migrate(url, TIMEOUT_MS)
    token, kept = new_key("pos", [Role.CHECKOUT])
    short, ends = new_key("short", [Role.CHECKOUT], time.time_ns() // 1_000_000 + 1_000)
    async with KeyBook.open(url, TIMEOUT_MS) as book:
        await book.create(kept)
        await book.create(ends)
    keys = Keys(url, TIMEOUT_MS)
    with pytest.raises(Unavailable):
        keys.principal_of(token)
    await keys.refresh()
    principal = Principal("key:pos", frozenset({Role.CHECKOUT}))
    assert keys.principal_of(token) == principal
    own_postgres.stop()
    for _ in range(2):
        with pytest.raises(Unavailable):
            await keys.refresh()
        assert keys.principal_of(token) == principal
    own_postgres.start()
    await keys.refresh()
    async with KeyBook.open(url, TIMEOUT_MS) as book:
        await book.revoke(kept.id)
    assert keys.principal_of(token) == principal
    await keys.refresh()
    while time.time() * 1000 < (ends.expire_time_ms or 0):
        time.sleep(0.01)  # noqa: ASYNC251  # nothing else is to run
    for over in (token, short, new_key("pos", [Role.CHECKOUT])[0]):
        with pytest.raises(Unauthenticated):
            keys.principal_of(over)
    await keys.close()


async def test_a_database_without_the_table_is_told(empty_url: str) -> None:
    async with KeyBook.open(empty_url, TIMEOUT_MS) as book:
        with pytest.raises(Misconfigured, match="vouchsafe migrate"):
            await book.check()


async def test_roles_that_are_not_known_here_count_for_nothing(book: KeyBook, sql: asyncpg.Connection) -> None:
    """A later release may have more."""
    await book.create(new_key("pos", [Role.VIEWER])[1])
    await sql.execute("update api_keys set roles = array['viewer', 'emperor']")
    assert (await book.keys())[0].roles == {Role.VIEWER}
