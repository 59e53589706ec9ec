"""The whole service on one machine: what `vouchsafe dev` and `vouchsafe demo` run.

Stores are real, on loopback; server and persister are the same commands that production runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vouchsafe.app import create_key, list_keys
from vouchsafe.client import AlreadyExists, CampaignDefinition, Client, Effect, PercentOff
from vouchsafe.domain.access import Role
from vouchsafe.domain.errors import Unavailable
from vouchsafe.embedded import (
    HOST,
    EmbeddedPostgres,
    EmbeddedValkey,
    count_listening,
    free_port,
    group_runs,
    in_starter,
    launched,
)
from vouchsafe.ledger.migrate import migrate
from vouchsafe.service.keys import is_of
from vouchsafe.settings import Settings
from vouchsafe.supervisor import check_port

KEY_FILE = "api-key"
READY_WAIT_S = 60.0
STOP_MARGIN_S = 5.0
CHECKS_PER_WORKER = 8
POLL_S = 0.1


class LocalService:
    """A context: entered, everything runs and is ready; left, everything that it started is stopped.

    Raises Misconfigured when a port is taken or a part is missing, Unavailable when something does not come up.
    """

    def __init__(self, data_dir: Path, *, port: int | None = None, workers: int = 1) -> None:
        """Without `port` all three ports are free ones; with it they are that one and the two behind it."""
        grpc_port, valkey_port, postgres_port = range(port, port + 3) if port else (free_port() for _ in range(3))
        self._data_dir = data_dir.resolve()
        self._port = grpc_port
        self._valkey = EmbeddedValkey(self._data_dir / "valkey", valkey_port)
        self._postgres = EmbeddedPostgres(self._data_dir / "postgres", postgres_port)
        self._workers = workers
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._stack = contextlib.ExitStack()
        self.target = f"{HOST}:{grpc_port}"
        self.settings: Settings
        self.api_key: str

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self) -> None:
        self._data_dir.mkdir(parents=True, exist_ok=True)
        for port in (self._port, self._valkey.port, self._postgres.port):
            check_port(HOST, port)
        self._start_valkey()
        self._stack.enter_context(self._postgres)
        self.settings = Settings(
            valkey_url=self._valkey.url,
            postgres_url=self._postgres.url,
            host=HOST,
            port=self._port,
            workers=self._workers,
            secret=self._secret(),
            tls_cert_file="",
            tls_key_file="",
            tls_client_ca_file="",
        )
        asyncio.run(migrate(self.settings.postgres_url, self.settings.ledger_timeout_ms))
        self.api_key = self._key()
        for command in ("persist", "serve"):
            self._spawn(command)
        self._wait_until_ready()

    def _start_valkey(self) -> None:
        self._stack.enter_context(self._valkey)
        if Settings().acknowledge == "replica":
            self._stack.enter_context(EmbeddedValkey(self._data_dir / "replica", free_port(), self._valkey.port))

    def _secret(self) -> str:
        """One for this data, made when it is first needed and kept beside it."""
        file = self._data_dir / "secret"
        if not file.exists():
            _keep(file, secrets.token_urlsafe(32))
        return file.read_text()

    def _key(self) -> str:
        """That of this data, kept beside it; a new one when there is none, or it was revoked."""
        file = self._data_dir / KEY_FILE
        key = file.read_text() if file.exists() else ""
        kept = asyncio.run(list_keys(self.settings))
        if not any(is_of(key, one) for one in kept if one.revoke_time_ms is None):
            key = asyncio.run(create_key(self.settings, "dev", [Role.ADMIN], None))
            _keep(file, key)
        return key

    def client(self, *, timeout_s: float = 5.0, channels: int = 4) -> Client:
        """A client that may do everything."""
        return Client(self.target, api_key=self.api_key, timeout_s=timeout_s, channels=channels)

    def _spawn(self, command: str) -> None:
        environment = os.environ | {
            f"VOUCHSAFE_{name.upper()}": str(value) for name, value in self.settings.model_dump().items()
        }
        with self._log(command).open("ab") as log:
            child = in_starter(
                lambda: subprocess.Popen(
                    launched([sys.executable, "-m", "vouchsafe", command]),
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # Ctrl-C reaches only this process, which then stops everything in order.
                    start_new_session=True,
                )
            )
        self._children[command] = child
        self._stack.callback(self._stop_child, child)

    def _log(self, command: str) -> Path:
        return self._data_dir / f"{command}.log"

    def _stop_child(self, child: subprocess.Popen[bytes]) -> None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(self.settings.shutdown_grace_ms / 1000 + STOP_MARGIN_S)
        # It leads a group of its own, in which helpers of multiprocessing end a moment later: nothing is left behind.
        deadline = time.monotonic() + STOP_MARGIN_S
        while group_runs(child.pid) and time.monotonic() < deadline:
            time.sleep(POLL_S / 10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()

    def _wait_until_ready(self) -> None:
        """Workers share a port, and once all of them listen a connection reaches one by chance: so many in a row find
        all of them."""
        deadline = time.monotonic() + READY_WAIT_S
        in_a_row = 0
        while time.monotonic() < deadline:
            self.check()
            in_a_row = in_a_row + 1 if self._all_listen() and self._one_is_complete() else 0
            if in_a_row == CHECKS_PER_WORKER * self.settings.workers:
                return
            if not in_a_row:
                time.sleep(POLL_S)
        raise Unavailable(f"the server is not ready after {READY_WAIT_S:.0f} s; see {self._log('serve')}")

    def _all_listen(self) -> bool:
        return count_listening(self._children["serve"].pid, self.settings.port) >= self.settings.workers

    def _one_is_complete(self) -> bool:
        with grpc.insecure_channel(self.target, options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            with contextlib.suppress(grpc.RpcError):
                answer = stub.Check(health_pb2.HealthCheckRequest(service="completeness"), timeout=1)
                return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
        return False

    def check(self) -> None:
        """Raises Unavailable when server or persister has ended by itself."""
        for command, child in self._children.items():
            if child.poll() is not None:
                tail = self._log(command).read_text(errors="replace").splitlines()[-5:]
                raise Unavailable("\n  ".join((f"`vouchsafe {command}` ended by itself; its last words:", *tail)))

    @property
    def addresses(self) -> dict[str, str]:
        """Where everything is, by name."""
        return {
            "gRPC": self.target,
            "API key": self.api_key,
            "Valkey": self._valkey.url,
            "PostgreSQL": self._postgres.url,
            "data and logs": str(self._data_dir),
        }


def _keep(file: Path, text: str) -> None:
    """For the eyes of this user only."""
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    file.write_text(text)


def run_dev(data_dir: Path | None, *, port: int, workers: int, needs_key: bool, say: Callable[..., None]) -> None:
    """Runs everything until Ctrl-C or SIGTERM. Without a data directory nothing is kept. `needs_key`: commands do not
    find the key by themselves."""
    with _directory(data_dir) as directory, _interrupted_by_signals():
        try:
            say("starting Valkey, PostgreSQL, the persister and the server ...")
            with LocalService(directory, port=port, workers=workers) as service:
                asyncio.run(_ensure_welcome(service))
                for name, address in service.addresses.items():
                    say(f"  {name:14} {address}", soft_wrap=True)
                say("ready; redeem a code with")
                key = f"VOUCHSAFE_API_KEY={service.api_key} " if needs_key else ""
                say(f"  {key}{_command()} redeem WELCOME" + ("" if port == 50051 else f" --target {service.target}"))
                say("Ctrl-C stops everything" + ("" if data_dir else "; nothing is kept"))
                while True:
                    service.check()
                    time.sleep(POLL_S)
        except KeyboardInterrupt:
            say("stopped")


async def _ensure_welcome(service: LocalService) -> None:
    """A first campaign, so that there is something to redeem."""
    definition = CampaignDefinition(
        display_name="Welcome", effects=[Effect(percent_off=PercentOff(basis_points=1_000))]
    )
    async with service.client(channels=1) as client:
        with contextlib.suppress(AlreadyExists):
            await client.create_campaign("welcome", definition, shared_codes=["WELCOME"])


def _command() -> str:
    """How this program was called, so that the line to copy works."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{sys.executable} -m vouchsafe"
    with contextlib.suppress(ValueError):
        return str(called.resolve().relative_to(Path.cwd()))
    return str(called)


@contextlib.contextmanager
def _directory(data_dir: Path | None) -> Iterator[Path]:
    if data_dir is not None:
        yield data_dir
        return
    with tempfile.TemporaryDirectory(prefix="vouchsafe-") as temporary:
        yield Path(temporary)


@contextlib.contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Lets SIGTERM end the program as Ctrl-C does, so that nothing is left running; and Ctrl-C even where a shell that
    started this in the background has turned it off."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
