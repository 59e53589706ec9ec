"""The service under torture: the whole of it on this machine, with a second persister, wires between it and its stores
that can be disturbed, and clocks that can be moved."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.service import Service
from tests.torture.proxy import Proxy
from tests.torture.valkeys import MAKERS
from vouchsafe.embedded import EmbeddedPostgres, EmbeddedValkey, launched
from vouchsafe.settings import Acknowledge, Settings

CLOCK_HOOK = Path(__file__).with_name("clock")
PERSISTERS = ("persist", "persist-2")
# The hard limit stays, so that it can be lifted again. A process may have ended by then.
BOUND_FILES = """
import contextlib, resource, sys
for pid in map(int, sys.argv[2:]):
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
"""


class SmallSegments(EmbeddedPostgres):
    """Keeps its log in files of 1 MiB, so that a bound on the size of files can meet tables and spare the log."""

    def _tool(self, name: str, *args: str, given: str = "") -> None:
        more = ("--wal-segsize", "1") if name == "initdb" else ()
        super()._tool(name, *args, *more, given=given)

    def bound_files(self, size_bytes: int) -> None:
        """No process of it can write beyond this size of a file from now on. Only its own user may say so."""
        processes = psutil.Process(self.pid)
        pids = [str(one.pid) for one in (processes, *processes.children(recursive=True))]
        command = [sys.executable, "-c", BOUND_FILES, str(size_bytes), *pids]
        subprocess.run(launched(command, as_nobody=self._as_nobody()), check=True, cwd="/")


class Tortured(Service):
    """Everything that a fault needs to get at. What blocks here is to be called from a thread that stays."""

    def __init__(self, data_dir: Path, *, workers: int, acknowledge: Acknowledge, stores: str, seed: int) -> None:
        """`stores` says what stands where a Valkey stands (`MAKERS`)."""
        super().__init__(data_dir, workers=workers)
        self.postgres = SmallSegments(self._data_dir / "postgres", self._postgres.port)
        self._postgres = self.postgres
        self.acknowledge = acknowledge
        self.group = MAKERS[stores](self._data_dir / "valkey", seed)
        self._valkey = self.group  # type: ignore[assignment]  # used in the same ways
        self.wires = {
            "valkey": self.group.wires,
            "postgres": [Proxy(self.postgres.port, random.Random(f"{seed} postgres"))],
        }

    def nodes(self, store: str) -> Sequence[EmbeddedValkey | EmbeddedPostgres]:
        """Of Valkey there may be several."""
        return self.group.nodes if store == "valkey" else [self.postgres]

    async def start_wires(self) -> None:
        """Before anything else starts."""
        for wire in (*self.wires["valkey"], *self.wires["postgres"]):
            await wire.start()

    async def close_wires(self) -> None:
        """When all has ended."""
        for wire in (*self.wires["valkey"], *self.wires["postgres"]):
            await wire.close()

    def _start(self) -> None:
        self._data_dir.mkdir(parents=True, exist_ok=True)
        for command in ("serve", *PERSISTERS):
            self.move_clock(command, 0)
        super()._start()
        self.spawn("persist-2")

    def spawn(self, name: str) -> None:
        """Starts the server or one of the persisters."""
        self._spawn(name)

    def _spawn(self, command: str) -> None:
        """The service gets at its stores through the wires, and its clock from a file."""
        direct, self.settings = self.settings, self._through_the_wires()
        before = {name: os.environ.get(name) for name in ("PYTHONPATH", "TORTURE_CLOCK")}
        path = os.pathsep.join(filter(None, (str(CLOCK_HOOK), before["PYTHONPATH"])))
        os.environ |= {"PYTHONPATH": path, "TORTURE_CLOCK": str(self._clock(command))}
        other = self._children.pop("persist", None) if command == "persist-2" else None
        try:
            super()._spawn("persist" if command in PERSISTERS else command)
        finally:
            self.settings = direct
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
        if other is not None:
            self._children[command], self._children["persist"] = self._children["persist"], other

    def _through_the_wires(self) -> Settings:
        (wire,) = self.wires["postgres"]
        changes = {
            "valkey_url": self.group.wired_url,
            "postgres_url": self.settings.postgres_url.replace(f":{self.postgres.port}/", f":{wire.port}/"),
            "acknowledge": self.acknowledge,
        }
        return Settings(**self.settings.model_dump() | changes)

    def _log(self, command: str) -> Path:
        return super()._log("persist" if command in PERSISTERS else command)

    def processes(self, name: str) -> list[psutil.Process]:
        """Of the server or of a persister: the one that was started here first."""
        return family(self._children[name].pid)

    def has_port(self, name: str, port: int | None) -> bool:
        """Whether a process of it has a connection that comes from a port."""
        connections: list[Any] = []
        for process in self.processes(name):
            with contextlib.suppress(psutil.NoSuchProcess):
                connections += process.net_connections("tcp")
        return port in (one.laddr.port for one in connections if one.laddr)

    def workers(self) -> list[psutil.Process]:
        """Those that answer calls."""
        return [one for one in self.processes("serve")[1:] if "--multiprocessing-fork" in _command_line(one)]

    def kill_processes(self, name: str) -> None:
        """With SIGKILL, all of the server or of a persister; it is gone when this returns."""
        for process in self.processes(name):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._children[name].wait()

    def _clock(self, name: str) -> Path:
        return self._data_dir / f"{name}.clock"

    def move_clock(self, name: str, ahead_ms: int) -> None:
        """Sets by how much the clocks of the server or of a persister are ahead, in one write that a reader sees whole
        or not at all."""
        file = self._clock(name)
        if not file.exists():
            file.write_bytes(bytes(8))
        with file.open("r+b") as clock:
            clock.write(struct.pack("<q", ahead_ms * 1_000_000))

    def store_said(self, store: str) -> str:
        """The logs of a store."""
        return "".join(node.log.read_text(errors="replace") for node in self.nodes(store))


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it has started, itself first; nothing when it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    return []


def last_append_only_file(valkey: EmbeddedValkey) -> Path:
    """To which it appends; those before it are snapshots."""
    files = (valkey.data_dir / "appendonlydir").glob("*.incr.aof")
    return max(files, key=lambda file: int(file.name.split(".")[-3]))


@contextlib.contextmanager
def stopped(processes: Sequence[psutil.Process]) -> Iterator[None]:
    """They stand still where they are."""
    for process in processes:
        _signal(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            _signal(process, signal.SIGCONT)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _command_line(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []
