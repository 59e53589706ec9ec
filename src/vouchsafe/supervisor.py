"""The parent of the server's processes: starts them, starts one that died again, stops them all within a bound."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pkgutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from types import FrameType

import structlog

from vouchsafe.domain.errors import Misconfigured
from vouchsafe.settings import Settings
from vouchsafe.telemetry import configure_logging

log = structlog.get_logger()

# What a process ends with when it cannot keep its promises: starting it again would not help (EX_CONFIG).
MISCONFIGURED = 78
POLL_S = 0.2
SHORTEST_DELAY_S = 0.1
LONGEST_DELAY_S = 5.0
# A process that has run this long is not failing at its start.
SETTLED_S = 10.0
STOP_MARGIN_S = 2.0


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A kind of process and how many of it.

    `target` names a function of the settings, "package.module:function": only the processes themselves import it, and
    the parent stays small.
    """

    name: str
    target: str
    count: int


@dataclass(slots=True)
class _Slot:
    """The place of one process, whichever holds it at the moment."""

    spec: ProcessSpec
    settings: Settings
    process: SpawnProcess | None = None
    started_at: float = 0.0
    start_at: float = 0.0
    delay_s: float = SHORTEST_DELAY_S
    restarts: int = field(default=-1)

    def start(self) -> None:
        # Spawned, not forked: gRPC does not survive a fork.
        self.process = multiprocessing.get_context("spawn").Process(
            target=_run, args=(self.spec.target, self.settings), name=self.spec.name
        )
        self.process.start()
        self.started_at = time.monotonic()
        self.restarts += 1
        log.info("process started", name=self.spec.name, child=self.process.pid, restarts=self.restarts)

    def has_ended(self) -> int | None:
        """The exit code of a process that has ended since the last look."""
        if self.process is None or self.process.is_alive():
            return None
        exit_code = self.process.exitcode
        assert exit_code is not None
        now = time.monotonic()
        self.delay_s = SHORTEST_DELAY_S if now - self.started_at > SETTLED_S else min(self.delay_s * 2, LONGEST_DELAY_S)
        self.start_at = now + self.delay_s
        log.error("process ended by itself", name=self.spec.name, child=self.process.pid, cause=_cause(exit_code))
        self.process.close()
        self.process = None
        return exit_code


def supervise(specs: Sequence[ProcessSpec], settings: Settings, *, port: int | None = None) -> int:
    """Runs the processes until SIGTERM or SIGINT; answers the exit status: 0 when all of them ended in time.

    With `port`, checks first that nobody listens there, and keeps it for processes that share it. Raises
    Misconfigured when the port is taken, or when a process finds that it cannot keep its promises.
    """
    configure_logging(settings)
    slots = [_Slot(spec, settings) for spec in specs for _ in range(spec.count)]
    with _reserved(settings.host, port) if port is not None else contextlib.nullcontext(), _stop_signals() as signals:
        try:
            while not signals:
                for slot in slots:
                    # Only at its first start: one that has run before must not take the healthy others with it.
                    if slot.has_ended() == MISCONFIGURED and slot.restarts == 0:
                        raise Misconfigured(f"the {slot.spec.name} cannot run with these settings; its log says why")
                    if slot.process is None and time.monotonic() >= slot.start_at:
                        slot.start()
                connection.wait([slot.process.sentinel for slot in slots if slot.process is not None], timeout=POLL_S)
        finally:
            stopped_in_time = _stop(slots, _stop_bound_s(settings))
    return 0 if stopped_in_time else 1


def _stop(slots: Sequence[_Slot], bound_s: float) -> bool:
    """Asks every process to end, then insists. Answers whether asking was enough."""
    processes = [slot.process for slot in slots if slot.process is not None]
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + bound_s
    in_time = True
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            log.error("process does not end; killing it", name=process.name, child=process.pid)
            in_time = False
            process.kill()
            process.join()
    log.info("stopped", in_time=in_time)
    return in_time


def _run(target: str, settings: Settings) -> None:
    """What a spawned process does."""
    # Ctrl-C in a terminal reaches every process; ending them in order is the parent's task.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configure_logging(settings)
    threading.Thread(target=_end_with_parent, args=(_stop_bound_s(settings),), daemon=True).start()
    try:
        pkgutil.resolve_name(target)(settings)
    except Misconfigured as error:
        log.error("misconfigured", error=str(error))  # noqa: TRY400  # the text says it all
        sys.exit(MISCONFIGURED)
    except Exception:
        log.exception("failed")
        sys.exit(1)


def _end_with_parent(bound_s: float) -> None:
    """A parent that was killed can ask for nothing any more: its end is the request to stop, and then an order."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(bound_s)
    os.kill(os.getpid(), signal.SIGKILL)


def _stop_bound_s(settings: Settings) -> float:
    return settings.shutdown_grace_ms / 1000 + STOP_MARGIN_S


def _cause(exit_code: int) -> str:
    return signal.Signals(-exit_code).name if exit_code < 0 else f"exit status {exit_code}"


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that is filled when somebody asks to stop."""
    received: list[int] = []

    def receive(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, receive) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _reserved(host: str, port: int) -> Iterator[None]:
    """Keeps the port while its processes come and go. Without this check a second server would share it silently."""
    check_port(host, port)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            reserved.bind((host, port))
        except OSError:
            # By `check_port` nothing but connections that are still closing.
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserved.bind((host, port))
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        yield


def check_port(host: str, port: int) -> None:
    """Raises Misconfigured when the address is taken or not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Connections of an earlier server that are still closing do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError as error:
            raise Misconfigured(
                f"cannot listen on {host}:{port}: {error.strerror}; stop what uses it, or choose another port"
            ) from None
