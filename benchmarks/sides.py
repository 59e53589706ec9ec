"""What is measured: the service and its yardsticks, each with the processes that it pays with."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import psutil

from benchmarks.message import BATCH, DEFINITION, Way, redeem_request
from benchmarks.processes import cpu_of_tree_s, listener, wait_while, yardstick
from vouchsafe.client import Redemption
from vouchsafe.domain.errors import VouchsafeError
from vouchsafe.edge.convert_campaigns import definition_message
from vouchsafe.embedded import HOST, EmbeddedPostgres, free_port
from vouchsafe.gate.gate import Gate
from vouchsafe.local import LocalService
from vouchsafe.v1.redemption_service_pb2 import (
    BatchValidateAndRedeemResponse,
    RedemptionResult,
    StreamValidateAndRedeemResponse,
    ValidateAndRedeemResponse,
)

CODE = "BENCH"
CAMPAIGN = "bench"
SETTLE_WAIT_S = 60.0

LAGS = """
select (extract(epoch from pg_xact_commit_timestamp(xmin)) * 1000 - ms)::float8 as lag_ms
from events where kind = 'redeemed' and ms >= $1 order by 1
"""


@dataclass(frozen=True)
class Side:
    """Who is called, and who works for it: the processes by part, each with all below it."""

    name: str
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


class Service(LocalService):
    """The service, with a PostgreSQL that notes when it commits."""

    @property
    def valkey_port(self) -> int:
        """Where to reach Valkey."""
        return self._valkey.port

    def _start(self) -> None:
        with self._postgres:
            asyncio.run(_note_commits(self._postgres.url))
        super()._start()

    def side(self) -> Side:
        """To be measured."""
        return Side(
            name="vouchsafe",
            target=self.target,
            api_key=self.api_key,
            parts={
                "server": psutil.Process(self._children["serve"].pid),
                "Valkey": psutil.Process(self._valkey.pid),
                "PostgreSQL": psutil.Process(self._postgres.pid),
                "persister": psutil.Process(self._children["persist"].pid),
            },
            settle=self.settle,
            redeemed=lambda: asyncio.run(self._redeemed()),
        )

    def settle(self) -> None:
        """Returns when everything is in the ledger. Raises Unavailable when it takes too long, or something has
        ended."""
        wait_while(lambda: asyncio.run(self._waiting_events()) > 0, SETTLE_WAIT_S)
        self.check()

    def lags_ms(self, since_ms: int) -> list[float]:
        """From the decision by Valkey's clock until PostgreSQL began to flush its commit, of every redemption from that
        moment on; sorted."""
        return asyncio.run(self._lags_ms(since_ms))

    async def _lags_ms(self, since_ms: int) -> list[float]:
        connection = await asyncpg.connect(self.settings.postgres_url)
        try:
            return [row[0] for row in await connection.fetch(LAGS, since_ms)]
        finally:
            await connection.close()

    async def _waiting_events(self) -> int:
        gate = await Gate.connect(self.settings, self.settings.partitions)
        try:
            return await gate.waiting_events()
        finally:
            await gate.close()

    async def _redeemed(self) -> int:
        async with self.client(channels=1) as client:
            return (await client.get_campaign(CAMPAIGN)).redeemed_count


async def prepare(service: LocalService) -> dict[Way, int]:
    """Creates the campaign that is redeemed; answers the bytes of a response."""
    request = redeem_request(CODE, 0)
    async with service.client(channels=1) as client:
        await client.create_campaign(CAMPAIGN, definition_message(DEFINITION), shared_codes=[CODE])
        outcome = await client.redeem(CODE, request.customer, request.order, request_id=request.request_id)
    if not isinstance(outcome, Redemption):
        raise VouchsafeError(f"there is nothing to measure: {outcome}")
    response = ValidateAndRedeemResponse(redemption=outcome)
    result = RedemptionResult(request_id=request.request_id, response=response)
    return {
        "unary": response.ByteSize(),
        "stream": StreamValidateAndRedeemResponse(result=result).ByteSize(),
        "batch": BatchValidateAndRedeemResponse(results=[result] * BATCH).ByteSize(),
    }


@contextlib.contextmanager
def echo(response_bytes: Mapping[Way, int]) -> Iterator[Side]:
    """An empty gRPC server whose responses have those sizes."""
    with yardstick("benchmarks.echo", json.dumps(response_bytes)) as port:
        yield Side("empty echo", f"{HOST}:{port}", {"server": listener(port)})


@contextlib.contextmanager
def postgres_only(directory: Path) -> Iterator[Side]:
    """A server on a PostgreSQL of its own, which runs as the service's does."""
    with (
        EmbeddedPostgres(directory / "postgres-only", free_port()) as postgres,
        yardstick("benchmarks.postgres_only", POSTGRES_URL=postgres.url) as port,
    ):
        yield Side(
            name="PostgreSQL only",
            target=f"{HOST}:{port}",
            parts={"server": listener(port), "PostgreSQL": psutil.Process(postgres.pid)},
            redeemed=lambda: asyncio.run(_used(postgres.url)),
        )


async def _note_commits(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("alter system set track_commit_timestamp = on")
    finally:
        await connection.close()


async def _used(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        used = await connection.fetchval("select used from plain.campaigns")
        rows = await connection.fetchval("select count(*) from plain.redemptions")
    finally:
        await connection.close()
    if used != rows:
        raise VouchsafeError(f"{used} uses, {rows} redemptions")
    return int(used)
