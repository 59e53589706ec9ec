"""Real stores for every test: started once, emptied or made afresh for each."""

from __future__ import annotations

import asyncio
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.valkeys import clients, new_valkey
from vouchsafe.embedded import EmbeddedPostgres, EmbeddedValkey, free_port
from vouchsafe.ledger.migrate import migrate
from vouchsafe.settings import Settings

# A machine that runs tests two at a time is slow, but its servers are not overloaded: tests that want that, say so.
os.environ.setdefault("VOUCHSAFE_MAX_WAIT_MS", "10000")

pytest_plugins = ["tests.service", "tests.guarded", "tests.gate.moved_clock"]
# What they assert is said as fully as what a test asserts.
pytest.register_assert_rewrite("tests.gate")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sequences", type=int, default=150, help="in how many the gate is held against its model")
    parser.addoption(
        "--repeat", type=int, default=1, help="how often to run each race, and how many more kills to make"
    )
    parser.addoption("--codes", type=int, default=100_000, help="how many are generated while everything is killed")
    parser.addoption("--cluster", action="store_true", help="run on a Valkey Cluster of three primaries")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On a cluster nothing runs that is about one node."""
    if config.getoption("--cluster"):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("one_node")])
        items[:] = [item for item in items if not item.get_closest_marker("one_node")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Races are run as often as --repeat says: one that goes wrong once in fifty goes wrong in production."""
    count = metafunc.config.getoption("--repeat")
    if count > 1 and metafunc.module.__name__.startswith("tests.races."):
        metafunc.fixturenames.append("repetition")
        metafunc.parametrize("repetition", range(count))


@pytest.fixture(scope="session")
def valkey(pytestconfig: pytest.Config) -> Iterator[EmbeddedValkey]:
    """In memory where that is a file system: thousands of random histories would wait for the disk otherwise."""
    memory = Path("/dev/shm")  # noqa: S108
    with (
        tempfile.TemporaryDirectory(prefix="vouchsafe-test-", dir=memory if memory.is_dir() else None) as directory,
        new_valkey(Path(directory) / "data", pytestconfig) as running,
    ):
        yield running


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(Path(tmp_path_factory.mktemp("postgres")) / "data", free_port()) as running:
        yield running


@pytest.fixture
def own_valkey(tmp_path: Path, pytestconfig: pytest.Config) -> Iterator[EmbeddedValkey]:
    """To stop and to kill."""
    with new_valkey(tmp_path / "valkey", pytestconfig) as running:
        yield running


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """To stop and to kill."""
    with EmbeddedPostgres(tmp_path / "postgres", free_port()) as running:
        yield running


@pytest.fixture
def valkey_url(valkey: EmbeddedValkey) -> str:
    """A Valkey with nothing in it."""
    for client in clients(valkey.url):
        client.flushall()
    return valkey.url


@pytest.fixture(scope="session")
def template(postgres: EmbeddedPostgres) -> str:
    """The name of a database at the newest schema, to copy from."""
    name = "migrated"
    asyncio.run(_statement(postgres.url, f"create database {name}"))
    asyncio.run(migrate(_database(postgres.url, name), 30_000))
    return name


@pytest.fixture
def ledger_url(postgres: EmbeddedPostgres, template: str) -> Iterator[str]:
    """A database of its own, migrated and empty."""
    name = f"test_{uuid.uuid4().hex}"
    asyncio.run(_statement(postgres.url, f"create database {name} template {template}"))
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
