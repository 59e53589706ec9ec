"""Real stores for every test: started once, emptied or made afresh for each."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
import redis

from vouchsafe.embedded import EmbeddedPostgres, EmbeddedValkey, free_port
from vouchsafe.ledger.migrate import migrate
from vouchsafe.settings import Settings

pytest_plugins = ["tests.service"]

TEMPLATE = "migrated"


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(Path(tmp_path_factory.mktemp("valkey")) / "data", free_port()) as running:
        yield running


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """Without fsync: no test that shares it kills it."""
    with EmbeddedPostgres(Path(tmp_path_factory.mktemp("postgres")) / "data", free_port(), durable=False) as running:
        yield running


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    """To stop and to kill."""
    with EmbeddedValkey(tmp_path / "valkey", free_port()) as running:
        yield running


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """To stop and to kill."""
    with EmbeddedPostgres(tmp_path / "postgres", free_port()) as running:
        yield running


@pytest.fixture
def valkey_url(valkey: EmbeddedValkey) -> str:
    """A Valkey with nothing in it."""
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
    return valkey.url


@pytest.fixture(scope="session")
def template_url(postgres: EmbeddedPostgres) -> str:
    """A database at the newest schema, to copy from."""
    asyncio.run(_statement(postgres.url, f"create database {TEMPLATE}"))
    url = _database(postgres.url, TEMPLATE)
    asyncio.run(migrate(url, 30_000))
    return url


@pytest.fixture
def ledger_url(postgres: EmbeddedPostgres, template_url: str) -> Iterator[str]:
    """A database of its own, migrated and empty."""
    name = f"test_{uuid.uuid4().hex}"
    asyncio.run(_statement(postgres.url, f"create database {name} template {TEMPLATE}"))
    yield _database(postgres.url, name)
    asyncio.run(_statement(postgres.url, f"drop database {name} with (force)"))


@pytest.fixture
def settings(valkey_url: str, ledger_url: str) -> Settings:
    """For the emptied stores, and a port of its own."""
    return Settings(valkey_url=valkey_url, postgres_url=ledger_url, port=free_port(), log_format="console")


def _database(url: str, name: str) -> str:
    return url.rsplit("/", 1)[0] + f"/{name}"


async def _statement(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()
