"""The schema: migrated once, by whoever comes first, and never mistaken for another program's."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from vouchsafe.domain.errors import Misconfigured, Unavailable
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.ledger.migrate import MIGRATIONS, Migration, migrate

TIMEOUT_MS = 5_000


async def connect(url: str) -> None:
    ledger = await Ledger.connect(url, pool_size=1, timeout_ms=TIMEOUT_MS)
    await ledger.close()


def test_migrations_are_numbered_without_gaps() -> None:
    assert [migration.version for migration in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))


async def test_8_migrating_at_once_apply_everything_once(empty_url: str) -> None:
    applied = await asyncio.gather(*(migrate(empty_url, TIMEOUT_MS) for _ in range(8)))
    assert sorted(applied, key=len) == [[]] * 7 + [[str(migration) for migration in MIGRATIONS]]
    await connect(empty_url)


async def test_a_ledger_that_was_never_migrated_is_not_used(empty_url: str) -> None:
    names = ", ".join(map(str, MIGRATIONS))
    with pytest.raises(Misconfigured, match=f"lacks {names}; run `vouchsafe migrate`"):
        await connect(empty_url)


async def test_a_migration_that_was_edited_after_it_ran_is_refused(ledger_url: str, sql: asyncpg.Connection) -> None:
    await sql.execute("update schema_migrations set checksum = repeat('0', 64) where version = 1")
    with pytest.raises(Misconfigured, match="another 0001_first_light"):
        await migrate(ledger_url, TIMEOUT_MS)
    with pytest.raises(Misconfigured, match="another 0001_first_light"):
        await connect(ledger_url)


async def test_a_schema_newer_than_the_program_is_refused(ledger_url: str) -> None:
    newer = [*MIGRATIONS, Migration(len(MIGRATIONS) + 1, "of_tomorrow", "create table tomorrow ()")]
    assert await migrate(ledger_url, TIMEOUT_MS, newer) == [str(newer[-1])]
    with pytest.raises(Misconfigured, match="run the program that migrated it, or a later one"):
        await migrate(ledger_url, TIMEOUT_MS)
    with pytest.raises(Misconfigured, match="run the program that migrated it, or a later one"):
        await connect(ledger_url)


async def test_a_migration_that_fails_leaves_nothing_behind(ledger_url: str, sql: asyncpg.Connection) -> None:
    broken = Migration(len(MIGRATIONS) + 1, "broken", "create table half (); select nonsense")
    with pytest.raises(Unavailable, match="UndefinedColumnError"):
        await migrate(ledger_url, TIMEOUT_MS, [*MIGRATIONS, broken])
    assert await sql.fetchval("select to_regclass('half')") is None
    await connect(ledger_url)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("alter database {} set synchronous_commit = off", "set synchronous_commit = on"),
        ("update pg_database set encoding = 0 where datname = '{}'", "create one with encoding UTF8"),
    ],
)
async def test_a_server_that_would_lose_or_refuse_redemptions_is_not_used(
    ledger_url: str, sql: asyncpg.Connection, change: str, complaint: str
) -> None:
    await sql.execute(change.format(await sql.fetchval("select current_database()")))
    with pytest.raises(Misconfigured, match=complaint):
        await connect(ledger_url)


@pytest.mark.parametrize("url", ["mysql://localhost/vouchsafe", "postgresql://localhost:none/vouchsafe"])
async def test_an_address_that_is_none_says_which_setting_to_correct(url: str) -> None:
    with pytest.raises(Misconfigured, match="VOUCHSAFE_POSTGRES_URL"):
        await migrate(url, TIMEOUT_MS)
