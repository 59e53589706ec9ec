"""Valkey as tests look into it from outside: one, or a cluster of several nodes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import MovedError

from tests.cluster import EmbeddedCluster
from vouchsafe.embedded import EmbeddedValkey, free_port
from vouchsafe.gate.connection import Command
from vouchsafe.gate.connections import Connections
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.routes import Routes

TIMEOUT_MS = 5_000


def new_valkey(data_dir: Path, config: pytest.Config) -> EmbeddedValkey:
    """What the tests run on, not yet started: with --cluster a cluster of three."""
    return EmbeddedCluster(data_dir) if config.getoption("--cluster") else EmbeddedValkey(data_dir, free_port())


def nodes_of(valkey: EmbeddedValkey) -> Sequence[EmbeddedValkey]:
    """The processes of which it consists."""
    return valkey.nodes if isinstance(valkey, EmbeddedCluster) else [valkey]


def clients(url: str, *, decode: bool = False) -> Iterator[redis.Redis]:
    """One of each node; with `decode` it answers in strings."""
    for node in url.split(","):
        with redis.Redis.from_url(node, decode_responses=decode) as client:
            yield client


@contextlib.contextmanager
def client_of(url: str, key: str, *, decode: bool = False) -> Iterator[redis.Redis]:
    """A client of the node that has the key."""
    for client in clients(url, decode=decode):
        try:
            client.exists(key)
        except MovedError:
            continue
        yield client
        return
    raise AssertionError(f"no node has {key}")


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connections]:
    """Sends each command to the node that has its first key."""
    routes = await Routes.discover(url, TIMEOUT_MS)
    connections = Connections(routes, TIMEOUT_MS)
    try:
        yield connections
    finally:
        await connections.close()
        await routes.close()


async def on_every_node(gate: Gate, command: Command) -> list[Any]:
    """What each node of a gate answers to a command without a key."""
    async with gate._lock:
        replies = await asyncio.gather(*(node.call([command]) for node in gate._connections.all()))
    assert not any(isinstance(reply, Exception) for (reply,) in replies), replies
    return [reply for (reply,) in replies]
