"""The ledger over a fresh, migrated database of a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from vouchsafe.ledger.ledger import Ledger


@pytest.fixture
async def ledger(ledger_url: str) -> AsyncIterator[Ledger]:
    connected = await Ledger.connect(ledger_url, pool_size=8, timeout_ms=5_000)
    try:
        yield connected
    finally:
        await connected.close()


@pytest.fixture
async def sql(ledger_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that looks at the ledger from outside."""
    connection = await asyncpg.connect(ledger_url)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def empty_url(ledger_url: str, sql: asyncpg.Connection) -> AsyncIterator[str]:
    """A database that was never migrated."""
    name = f"empty_{uuid4().hex}"
    await sql.execute(f"create database {name}")
    try:
        yield urlunsplit(urlsplit(ledger_url)._replace(path=f"/{name}"))
    finally:
        await sql.execute(f"drop database {name} with (force)")
