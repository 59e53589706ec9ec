"""Starting and stopping the server and its workers, through the commands that production runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.service import Service, a_campaign, an_order, rows_once_settled
from tests.valkeys import client_of, new_valkey
from vouchsafe.client import Client, ClientError, Customer, Redemption
from vouchsafe.embedded import EmbeddedPostgres, EmbeddedValkey, free_port, group_runs
from vouchsafe.gate.keys import Keys
from vouchsafe.ledger.migrate import migrate
from vouchsafe.settings import Settings

WAIT_S = 30.0


class Command:
    """A `vouchsafe` command as a process of its own, with what it says."""

    def __init__(self, settings: Settings, *args: str, log: Path) -> None:
        self._log = log
        environment = {f"VOUCHSAFE_{name.upper()}": str(value) for name, value in settings.model_dump().items()}
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vouchsafe", *args],
                env=os.environ | environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    def children(self) -> list[psutil.Process]:
        """The workers; not the helper that multiprocessing starts."""
        found = psutil.Process(self.process.pid).children()
        return [child for child in found if "resource_tracker" not in " ".join(child.cmdline())]

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    started: list[Command] = []

    def start(settings: Settings, *args: str) -> Command:
        started.append(Command(settings, *args, log=tmp_path / f"command-{len(started)}.log"))
        return started[-1]

    yield start
    for command in started:
        command.close()


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def until_ready(server: Command, settings: Settings) -> None:
    """All workers, not only the one that a connection happens to reach."""
    until(lambda: server.said.count("ready") - server.said.count("not ready") >= settings.workers, "all are ready")


def health(settings: Settings, name: str) -> str:
    with grpc.insecure_channel(f"{settings.host}:{settings.port}") as channel:
        try:
            request = health_pb2.HealthCheckRequest(service=name)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=2)
        except grpc.RpcError as error:
            return str(error.code().name)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def test_a_killed_worker_is_started_again_and_reported(settings: Settings, run: Callable[..., Command]) -> None:
    server = run(settings, "serve")
    until(lambda: health(settings, "readiness") == "SERVING", "it becomes ready")
    until(lambda: len(server.children()) == settings.workers, "all workers run")
    victim = server.children()[0]
    victim.kill()
    until(lambda: server.said.count("process started") == settings.workers + 1, "it is started again")
    assert str(victim.pid) in server.said
    assert "SIGKILL" in server.said
    until(lambda: len(server.children()) == settings.workers, "as many workers as before run")


def test_sigterm_ends_everything_with_status_0(settings: Settings, run: Callable[..., Command]) -> None:
    for args in (("serve",), ("persist",)):
        command = run(settings, *args)
        until(lambda: "ready" in command.said, "it becomes ready")  # noqa: B023
        command.process.terminate()
        assert command.process.wait(WAIT_S) == 0
        until(lambda: not group_runs(command.process.pid), "nothing is left")  # noqa: B023


def test_a_store_that_cannot_keep_the_promises_is_refused(
    own_valkey: EmbeddedValkey, settings: Settings, run: Callable[..., Command]
) -> None:
    with client_of(own_valkey.url, Keys(1).meta) as client:
        client.config_set("appendfsync", "everysec")
    server = run(settings.model_copy(update={"valkey_url": own_valkey.url}), "serve")
    assert server.process.wait(WAIT_S) == 1
    assert "Valkey has appendfsync everysec" in server.said
    assert "set it to always" in server.said
    assert "Traceback" not in server.said


def test_a_store_of_the_wrong_kind_is_refused(settings: Settings, run: Callable[..., Command]) -> None:
    ledger = urlsplit(settings.postgres_url)
    wrong = f"redis://{ledger.hostname}:{ledger.port}/0"
    for command in ("serve", "persist"):
        server = run(settings.model_copy(update={"valkey_url": wrong}), command)
        assert server.process.wait(WAIT_S) == 1
        assert "VOUCHSAFE_VALKEY_URL leads to a PostgreSQL" in server.said
        assert "Traceback" not in server.said


def test_a_store_that_is_changed_while_it_runs_ends_readiness(
    own_valkey: EmbeddedValkey, settings: Settings, run: Callable[..., Command]
) -> None:
    changed = settings.model_copy(update={"valkey_url": own_valkey.url})
    server = run(changed, "serve")
    until_ready(server, changed)
    with client_of(own_valkey.url, Keys(1).meta) as client:
        client.config_set("appendfsync", "everysec")
        until(lambda: health(changed, "readiness") == "NOT_SERVING", "it notices")
        until(lambda: "Valkey has appendfsync everysec" in server.said, "it says why")
        client.config_set("appendfsync", "always")
        until(lambda: health(changed, "readiness") == "SERVING", "it goes on")


def test_one_closed_partition_ends_completeness_but_not_readiness(
    own_valkey: EmbeddedValkey, settings: Settings, run: Callable[..., Command]
) -> None:
    own = settings.model_copy(update={"valkey_url": own_valkey.url})
    until_ready(run(own, "serve"), own)
    until(lambda: health(own, "completeness") == "SERVING", "all partitions are open")
    with client_of(own_valkey.url, Keys(1).meta) as client:
        client.delete(Keys(1).meta)
        until(lambda: health(own, "completeness") == "NOT_SERVING", "it notices that one is not")
        assert health(own, "readiness") == "SERVING"


def test_a_database_without_its_schema_is_refused(
    postgres: EmbeddedPostgres, settings: Settings, run: Callable[..., Command]
) -> None:
    # The database that the server comes with; tests use copies of another.
    server = run(settings.model_copy(update={"postgres_url": postgres.url}), "serve")
    assert server.process.wait(WAIT_S) == 1
    assert "run `vouchsafe migrate`" in server.said
    assert "Traceback" not in server.said


def test_a_server_that_comes_before_its_stores_lives_and_then_becomes_ready(
    tmp_path: Path, run: Callable[..., Command], pytestconfig: pytest.Config
) -> None:
    valkey, postgres = new_valkey(tmp_path / "v", pytestconfig), EmbeddedPostgres(tmp_path / "p", free_port())
    with postgres, valkey:  # a cluster is formed when it is first started
        url = postgres.url
        asyncio.run(migrate(url, 30_000))
    settings = Settings(valkey_url=valkey.url, postgres_url=url, port=free_port(), workers=1)
    run(settings, "serve")
    until(lambda: health(settings, "liveness") == "SERVING", "it lives")
    assert health(settings, "readiness") == "NOT_SERVING"
    assert health(settings, "vouchsafe.v1.RedemptionService") == "NOT_SERVING"
    assert health(settings, "nobody") == "NOT_FOUND"

    async def ask() -> None:
        async with Client(f"127.0.0.1:{settings.port}", timeout_s=0.5) as client:
            for question in (
                client.get_campaign("x"),
                anext(client.watch_campaign("x")),
                client.redeem("x", Customer(id="c"), an_order("o")),
            ):
                with pytest.raises(ClientError, match="the server is starting") as caught:
                    await question
                assert caught.value.code.name == "UNAVAILABLE"

    asyncio.run(ask())
    with postgres, valkey:
        until(lambda: health(settings, "readiness") == "SERVING", "it becomes ready by itself")


def test_a_server_that_comes_before_the_replica_that_confirms_waits_for_it(
    own_valkey: EmbeddedValkey, settings: Settings, tmp_path: Path, run: Callable[..., Command]
) -> None:
    """They may have been killed together, or it was the primary until now."""
    changed = settings.model_copy(update={"valkey_url": own_valkey.url, "acknowledge": "replica"})
    server = run(changed, "serve")
    until(lambda: "no replica that is connected" in server.said, "it says what it waits for")
    with EmbeddedValkey(tmp_path / "replica", free_port(), own_valkey.port):
        until(lambda: health(changed, "readiness") == "SERVING", "it becomes ready by itself")


async def test_calls_under_way_are_finished_on_sigterm(own_service: Service) -> None:
    async with own_service.client(timeout_s=30, channels=8) as client:
        campaign, code = await a_campaign(client)
    stopping = asyncio.Event()
    redeemed: set[str] = set()
    errors: set[str] = set()

    async def shop(client: Client, shopper: int) -> None:
        for number in range(10_000):
            try:
                outcome = await client.redeem(code, Customer(id=f"c-{shopper}"), an_order(f"{code}-{shopper}-{number}"))
            except ClientError as error:
                errors.add(error.code.name)
                assert stopping.is_set()
                return
            assert isinstance(outcome, Redemption)
            redeemed.add(outcome.id)

    async with own_service.client(timeout_s=1, channels=8) as client:
        shoppers = [asyncio.create_task(shop(client, shopper)) for shopper in range(32)]
        while len(redeemed) < 500:  # noqa: ASYNC110  # the shoppers count, nobody signals
            await asyncio.sleep(0.01)
        stopping.set()
        own_service.stop_server()
        await asyncio.gather(*shoppers)
    # Those that came too late are told that nobody is there; none was cut off in the middle.
    assert errors == {"UNAVAILABLE"}
    assert await rows_once_settled(own_service, campaign) == redeemed
