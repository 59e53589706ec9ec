"""The whole service for tests that look at it from outside: real stores, two workers, a persister."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import asyncpg
import psutil
import pytest

from tests.valkeys import clients, new_valkey
from vouchsafe import app
from vouchsafe.client import CampaignDefinition, Client, Limits, Order, OrderLine
from vouchsafe.domain.audit import Audit
from vouchsafe.embedded import EmbeddedValkey
from vouchsafe.gate.backlog import BacklogReader
from vouchsafe.gate.gate import Gate
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.ledger.stops import StopBook
from vouchsafe.local import LocalService
from vouchsafe.service.backlog import Backlog
from vouchsafe.settings import Settings

SETTLE_S = 30.0
# API keys, signed tokens, private keys, and passwords in addresses.
CREDENTIALS = re.compile(r"vs_[0-9a-f]{12}_|eyJ[\w-]{8}|PRIVATE KEY|://[^\s/@]*:[^\s/@]+@")


class Service(LocalService):
    """Everything that runs, and what only a test looks at."""

    # Not any more once a test has made the stores disagree.
    agrees = True

    def __init__(self, data_dir: Path, *, workers: int = 1, valkey: EmbeddedValkey | None = None) -> None:
        """With `valkey` on that one and the replicas that it has, else on one of its own."""
        super().__init__(data_dir, workers=workers)
        self._has_own_valkey = valkey is None
        if valkey is not None:
            self._valkey = valkey

    def _start_valkey(self) -> None:
        if self._has_own_valkey:
            super()._start_valkey()
        else:
            self._stack.enter_context(self._valkey)

    async def taken_while_paused(self, campaign_id: str) -> int:
        """By the order of the stream."""
        ledger = await Ledger.connect(self.settings.postgres_url, pool_size=1, timeout_ms=5_000)
        try:
            return await StopBook(ledger).taken_while_paused(campaign_id)
        finally:
            await ledger.close()

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The key, for calls without the client."""
        return (("authorization", f"Bearer {self.api_key}"),)

    def kill(self, *victims: str) -> None:
        """Kills with SIGKILL, all at the same moment, and starts again what does not start by itself."""
        stores = {"valkey": self._valkey, "postgres": self._postgres}
        commands = {"server": "serve", "persister": "persist"}
        for victim in victims:
            if victim in stores:
                stores[victim].kill()
            elif victim == "worker":
                random.choice(self._processes("serve")[1:]).kill()
            else:
                for process in self._processes(commands[victim]):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
        for victim in victims:
            if victim in stores:
                stores[victim].start()
            elif victim in commands:
                self._children[commands[victim]].wait()
                self._spawn(commands[victim])

    def _processes(self, command: str) -> list[psutil.Process]:
        """The command's own process first, then those that it started."""
        parent = psutil.Process(self._children[command].pid)
        return [parent, *parent.children(recursive=True)]

    def first(self, command: str) -> psutil.Process:
        """The server or persister that was started with the service."""
        return self._processes(command)[0]

    def start_another(self, command: str) -> psutil.Process:
        """One more server or persister beside the one that runs, which ends with the service."""
        first = self._children[command]
        self._spawn(command)
        another, self._children[command] = self._children[command], first
        return psutil.Process(another.pid)

    @contextlib.contextmanager
    def frozen(self, command: str) -> Iterator[None]:
        """All processes of the server or the persister stand still where they are."""
        processes = self._processes(command)
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    def connected_from(self) -> set[int]:
        """The ports from which this process has connections to the server."""
        ends = psutil.Process().net_connections("tcp")
        return {one.laddr.port for one in ends if one.raddr and one.raddr.port == self.settings.port}

    @contextlib.contextmanager
    def one_frozen(self, spared: set[int]) -> Iterator[None]:
        """A worker stands still where it is, none that is connected with one of these ports."""
        ends = {worker: worker.net_connections("tcp") for worker in self._processes("serve")[1:]}
        workers = [
            worker
            for worker, own in ends.items()
            if any(one.laddr.port == self.settings.port for one in own)
            and not any(one.raddr and one.raddr.port in spared for one in own)
        ]
        frozen = random.choice(workers)
        frozen.suspend()
        try:
            yield
        finally:
            frozen.resume()

    def stop_server(self) -> None:
        """SIGTERM; the test goes on while it drains."""
        self._children["serve"].terminate()

    def wait_for_server(self) -> int:
        """Its exit status, once it has ended."""
        return self._children["serve"].wait(SETTLE_S)

    def said(self, command: str) -> str:
        """The log of the server or the persister."""
        return self._log(command).read_text()

    def stop_postgres(self) -> None:
        self._postgres.stop()

    def start_postgres(self) -> None:
        self._postgres.start()

    def stop_valkey(self) -> None:
        self._valkey.stop()

    def start_valkey(self) -> None:
        self._valkey.start()

    @property
    def valkey_data(self) -> Path:
        """Where Valkey keeps what it was told."""
        return self._valkey.data_dir

    def valkeys(self) -> Iterator[Any]:
        """A client of each node."""
        return clients(self._valkey.url)

    async def flush_valkey(self) -> None:
        """What an operator's slip or a lost disk does."""
        for valkey in self.valkeys():
            await asyncio.to_thread(valkey.flushall)


class CreateCampaign(Protocol):
    """Creates a campaign of 10 percent with one shared code, or with single-use codes `<code>-0`, `<code>-1`, …"""

    def __call__(
        self, *, limit: int | None = None, per_customer: int | None = None, percent: float = 10, single_use: int = 0
    ) -> Awaitable[tuple[str, str]]:
        """Answers the campaign's id and its code."""


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Service]:
    with a_service(tmp_path_factory.mktemp("service"), pytestconfig) as running:
        yield running
        check_agrees(running)


@pytest.fixture
def own_service(tmp_path: Path, pytestconfig: pytest.Config) -> Iterator[Service]:
    """To stop and to kill."""
    with a_service(tmp_path, pytestconfig) as running:
        yield running
        check_agrees(running)


def a_service(directory: Path, config: pytest.Config, *, workers: int = 2) -> Service:
    """On what the tests run on."""
    return Service(directory / "service", workers=workers, valkey=new_valkey(directory / "valkey", config))


def check_agrees(service: Service) -> None:
    """Whatever a test has done, gate and ledger say the same in the end, and no log has told a secret."""
    if service.agrees:
        asyncio.run(check_discreet(service))
        asyncio.run(settle(service.settings))
        found = asyncio.run(audit(service))
        assert found.agrees, found


async def check_discreet(service: Service) -> None:
    """No log of the service has a code, or something that lets a caller in."""
    logs = "".join(service.said(command) for command in ("serve", "persist"))
    assert CREDENTIALS.search(logs) is None
    ledger = await asyncpg.connect(service.settings.postgres_url)
    try:
        told = set(re.findall(r"[\w-]+", logs))
        assert await ledger.fetchval("select count(*) from codes where code = any($1)", told) == 0
    finally:
        await ledger.close()


async def audit(service: Service, campaign_id: str | None = None) -> Audit:
    """What `vouchsafe audit` finds."""
    return await app.audit(service.settings, campaign_id, lambda _: None)


@pytest.fixture
async def client(service: Service) -> AsyncIterator[Client]:
    async with service.client(timeout_s=30, channels=16) as connected:
        yield connected


@pytest.fixture
def create_campaign(client: Client) -> CreateCampaign:
    async def create(
        *, limit: int | None = None, per_customer: int | None = None, percent: float = 10, single_use: int = 0
    ) -> tuple[str, str]:
        return await a_campaign(client, limit=limit, per_customer=per_customer, percent=percent, single_use=single_use)

    return create


async def a_campaign(
    client: Client,
    *,
    limit: int | None = None,
    per_customer: int | None = None,
    percent: float = 10,
    single_use: int = 0,
) -> tuple[str, str]:
    id_ = f"c-{uuid.uuid4()}"
    definition = CampaignDefinition(display_name=id_, limits=Limits(total=limit, per_customer=per_customer))
    definition.effects.add().percent_off.basis_points = round(percent * 100)
    code = id_.upper()
    if single_use:
        codes = [f"{code}-{number}" for number in range(single_use)]
        await client.create_campaign(id_, definition, single_use_codes=codes)
    else:
        await client.create_campaign(id_, definition, shared_codes=[code])
    return id_, code


def an_order(id_: str, *, amount_minor: int = 5_000) -> Order:
    lines = [OrderLine(sku="shirt", quantity=1, unit_price_minor=amount_minor)]
    return Order(id=id_, currency_code="EUR", lines=lines)


async def until(holds: Callable[[], Awaitable[bool]], timeout_s: float = 20) -> None:
    """Returns once it holds; raises TimeoutError when it never does."""
    async with asyncio.timeout(timeout_s):
        while not await holds():  # noqa: ASYNC110  # nobody signals what is looked at
            await asyncio.sleep(0.05)


async def rows_once_settled(service: Service, campaign_id: str) -> set[str]:
    """The ids of the campaign's redemptions in PostgreSQL, once the persister has moved every event there."""
    await settle(service.settings)
    connection = await asyncpg.connect(service.settings.postgres_url)
    try:
        rows = await connection.fetch("select id from redemptions where campaign_id = $1", campaign_id)
    finally:
        await connection.close()
    ids = {row["id"] for row in rows}
    assert len(ids) == len(rows)
    return ids


def a_backlog(gate: Gate, settings: Settings) -> Backlog:
    """One that nobody looks at, so that there is always room."""
    return Backlog(BacklogReader(gate), settings)


async def settle(settings: Settings) -> None:
    """Returns once every partition is open and every event in the ledger."""
    deadline = time.monotonic() + SETTLE_S
    while (found := await app.status(settings)).closed or found.waiting_events:
        assert time.monotonic() < deadline, f"not settled: {found}"
        await asyncio.sleep(0.02)
