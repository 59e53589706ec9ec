"""The processes of a benchmark: the service, the yardstick, the load generator, and what each of them spends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import grpc
import psutil

from benchmarks.generator import Order, Round
from vouchsafe.domain.errors import Unavailable, VouchsafeError
from vouchsafe.embedded import HOST, free_port, launched

ROOT = Path(__file__).parents[1]
STOP_WAIT_S = 5.0
START_WAIT_S = 10.0


def stop_on_signals() -> None:
    """Makes SIGTERM a KeyboardInterrupt, as Ctrl-C is, so that nothing is left running or lying about."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)


@contextlib.contextmanager
def ended_plainly(name: str) -> Iterator[None]:
    """For all that a program does: signals end it in order, and what goes wrong is a sentence and exit status 1."""
    stop_on_signals()
    try:
        yield
    except VouchsafeError as error:
        sys.exit(f"{name}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{name}: stopped")


@contextlib.contextmanager
def child(*words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Runs a module of the benchmarks; it ends when the context is left, or with this process."""
    process = subprocess.Popen(
        launched([sys.executable, "-m", *words]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
        start_new_session=True,  # Ctrl-C reaches only this process, which then stops everything in order
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@contextlib.contextmanager
def yardstick(*words: str, **environment: str) -> Iterator[int]:
    """The port of a server that a module of the benchmarks runs, given the port and what else it is told."""
    port = free_port()
    module, *others = words
    with child(module, str(port), *others, **environment):
        with grpc.insecure_channel(f"{HOST}:{port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=START_WAIT_S)
        yield port


@contextlib.contextmanager
def load_generator(*, may_fail: bool = False) -> Iterator[Callable[[Order], Round]]:
    """What to call for each round. Raises Unavailable when a call of it failed, unless that is expected."""
    with child("benchmarks.generator") as process:

        def run(order: Order) -> Round:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(asdict(order)) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise Unavailable("the load generator has ended by itself")
            result = Round(**json.loads(line))
            if result.failures and not may_fail:
                raise Unavailable("calls failed, so the round says nothing: " + "; ".join(result.failures))
            return result

        yield run


def listener(port: int) -> psutil.Process:
    """The one process below this one that listens on the port: a worker, a store, the yardstick."""
    return next(iter(listeners(port)))


def listeners(port: int) -> list[psutil.Process]:
    """The processes below this one that listen on the port: of several workers, all. Raises Unavailable for none."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.AccessDenied, psutil.NoSuchProcess):
            connections = process.net_connections("tcp")
            if any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in connections):
                found.append(process)
    if not found:
        raise Unavailable(f"no process below this one listens on port {port}")
    return found


def cpu_s(process: psutil.Process) -> float:
    """The CPU seconds that a process has spent so far, in user and in kernel mode."""
    times = process.cpu_times()
    return times.user + times.system


def cpu_of_tree_s(process: psutil.Process) -> float:
    """The CPU seconds that a process and all below it have spent so far, those that have ended included."""
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(one.cpu_times()[:4])  # of its own in user and in kernel mode, and of children it has buried
    return total


def disk_sync_ms(directory: Path) -> float:
    """How long the disk takes to make 4 KiB durable, in the middle of 100 times: what no acknowledgement can beat."""
    times = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(100):
            file.write(bytes(4096))
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


def wait_while(busy: Callable[[], bool], bound_s: float) -> float:
    """How long it took until `busy` said no. Raises Unavailable after `bound_s`."""
    started = time.perf_counter()
    while busy():
        if time.perf_counter() - started > bound_s:
            raise Unavailable(f"the persister has not caught up after {bound_s:.0f} s")
        time.sleep(0.02)
    return time.perf_counter() - started
