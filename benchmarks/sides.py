"""What is measured: a server, with the processes that it pays with; and the yardsticks that are servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import psutil

from benchmarks.message import Way
from benchmarks.processes import cpu_of_tree_s, listener, yardstick
from vouchsafe.domain.errors import VouchsafeError
from vouchsafe.embedded import HOST, EmbeddedPostgres, free_port


@dataclass(frozen=True)
class Side:
    """Who is called, and who works for it: the processes by part, each with all below it."""

    target: str
    parts: Mapping[str, psutil.Process]
    api_key: str = ""
    # Returns when nothing is left to do of what was answered.
    settle: Callable[[], None] = lambda: None
    # How many redemptions stand.
    redeemed: Callable[[], int] = lambda: 0

    def cpu_s(self) -> dict[str, float]:
        """What each part has spent so far."""
        return {part: cpu_of_tree_s(process) for part, process in self.parts.items()}


@contextlib.contextmanager
def echo(response_bytes: Mapping[Way, int]) -> Iterator[Side]:
    """An empty gRPC server whose responses have those sizes."""
    with yardstick("benchmarks.echo", json.dumps(response_bytes)) as port:
        yield Side(f"{HOST}:{port}", {"server": listener(port)})


@contextlib.contextmanager
def postgres_only(directory: Path, rival: str) -> Iterator[Side]:
    """A server of one kind, "plain" or "tuned", on a PostgreSQL of its own that runs as the service's does."""
    with (
        EmbeddedPostgres(directory / f"postgres-{rival}", free_port()) as postgres,
        yardstick("benchmarks.postgres_only", rival, POSTGRES_URL=postgres.url) as port,
    ):
        yield Side(
            target=f"{HOST}:{port}",
            parts={"server": listener(port), "PostgreSQL": psutil.Process(postgres.pid)},
            redeemed=lambda: asyncio.run(_used(postgres.url)),
        )


async def _used(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        used = await connection.fetchval("select used from yardstick.campaigns")
        rows = await connection.fetchval("select count(*) from yardstick.redemptions")
    finally:
        await connection.close()
    if used != rows:
        raise VouchsafeError(f"{used} uses, {rows} redemptions")
    return int(used)
