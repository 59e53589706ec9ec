"""Bringing the ledger's schema to the program's version.

Migrations are plain SQL files `migrations/NNNN_name.sql`, numbered from 0001 without gaps. Each runs once, in a
transaction of its own; the table schema_migrations keeps which ran, with a checksum, so that editing one afterwards is
noticed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from vouchsafe.domain.errors import Misconfigured
from vouchsafe.ledger.connection import (
    LOCK_SPACE,
    MIGRATION_LOCK,
    Connection,
    check_server,
    connected,
    in_time,
    transaction,
)


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """64 hex digits over the SQL."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.version:04}_{self.name}"


def _load() -> tuple[Migration, ...]:
    migrations = []
    for file in (resources.files("vouchsafe.ledger") / "migrations").iterdir():
        match = re.fullmatch(r"(\d{4})_(\w+)\.sql", file.name)
        if match is not None:
            migrations.append(Migration(int(match[1]), match[2], file.read_text(encoding="utf-8")))
    return tuple(sorted(migrations, key=lambda migration: migration.version))


MIGRATIONS = _load()


async def migrate(url: str, timeout_ms: int, migrations: Sequence[Migration] = MIGRATIONS) -> list[str]:
    """Applies what is missing and answers its names; safe to run at the same time from many places.

    Every step may take `timeout_ms`. Raises Unavailable, or Misconfigured when the schema is another program's.
    """
    timeout_s = timeout_ms / 1000
    async with connected(url, timeout_s) as connection:
        async with in_time(connection, timeout_s):
            await check_server(connection)
            # Freed when the connection ends.
            await connection.execute("select pg_advisory_lock($1, $2)", LOCK_SPACE, MIGRATION_LOCK)
            missing = await _missing(connection, migrations)
        for migration in missing:
            async with in_time(connection, timeout_s), transaction(connection):
                if migration.version == 1:
                    await connection.execute(
                        "create table schema_migrations (version integer primary key, name text not null, "
                        "checksum text not null, applied_at timestamptz not null default now())"
                    )
                await connection.execute(migration.sql)
                await connection.execute(
                    "insert into schema_migrations (version, name, checksum) values ($1, $2, $3)",
                    migration.version,
                    migration.name,
                    migration.checksum,
                )
        return [str(migration) for migration in missing]


async def check_schema(connection: Connection) -> None:
    """Raises Misconfigured, saying what to do, when the ledger's schema is not this program's."""
    if missing := await _missing(connection, MIGRATIONS):
        raise Misconfigured(f"the ledger lacks {', '.join(map(str, missing))}; run `vouchsafe migrate`")


async def _missing(connection: Connection, migrations: Sequence[Migration]) -> Sequence[Migration]:
    if await connection.fetchval("select to_regclass('schema_migrations')") is None:
        return migrations
    applied = await connection.fetch("select version, name, checksum from schema_migrations order by version")
    if len(applied) > len(migrations):
        raise Misconfigured(
            f"the ledger's schema is at version {len(applied)} and this program knows {len(migrations)}; "
            "run the program that migrated it, or a later one"
        )
    for row, migration in zip(applied, migrations, strict=False):
        if (row["version"], row["name"], row["checksum"]) != (migration.version, migration.name, migration.checksum):
            raise Misconfigured(
                f"the ledger was migrated by another {row['version']:04}_{row['name']} than this program's "
                f"{migration}; run the program that migrated it, or a later one (an applied migration is never edited)"
            )
    return migrations[len(applied) :]
