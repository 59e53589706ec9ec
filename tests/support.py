"""Programs that tests start as processes of their own, and waiting for what they do.

`python -m tests.support <kinds> <port>` supervises one process of each kind; kinds are functions of this module.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil
import structlog

from vouchsafe.domain.errors import Misconfigured
from vouchsafe.settings import Settings
from vouchsafe.supervisor import ProcessSpec, supervise

ROOT = Path(__file__).parents[1]
WAIT_S = 30.0
GRACE_MS = 500

log = structlog.get_logger()
Result = TypeVar("Result")


def eventually(look: Callable[[], Result | None], what: str, wait_s: float = WAIT_S) -> Result:
    """What `look` finds, as soon as it is neither None nor False nor empty."""
    deadline = time.monotonic() + wait_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {wait_s} s: {what}"
        time.sleep(0.01)
    return found


def family(pid: int) -> list[psutil.Process]:
    """The process and all that come from it."""
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def gone(processes: list[psutil.Process]) -> bool:
    """Whether none of them runs any more; one that only waits to be buried does not."""
    return all(not process.is_running() or _is_zombie(process) for process in processes)


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Program:
    """A process in a session of its own that writes JSON lines to stderr."""

    def __init__(self, log_file: Path, *args: str) -> None:
        self._log_file = log_file
        with log_file.open("wb") as log_output:
            self.process = subprocess.Popen(
                [sys.executable, *args], cwd=ROOT, stdin=subprocess.DEVNULL, stderr=log_output, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Complete log lines about the event, oldest first."""
        complete = [line for line in self.text().splitlines(keepends=True) if line.endswith("\n")]
        parsed = [json.loads(line) for line in complete if line.startswith("{")]
        return [line for line in parsed if line["event"] == event]

    def text(self) -> str:
        return self._log_file.read_text()

    def end(self) -> None:
        """By force, if it runs: it and everything that comes from it."""
        if self.process.poll() is None:
            for process in family(self.pid):
                process.kill()
            self.process.wait()


def orderly(_settings: Settings) -> None:
    """Ends when it is asked to."""
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    log.info("running")
    asked.wait()
    log.info("drained")


def stubborn(_settings: Settings) -> None:
    """Does not end when it is asked to."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    log.info("running")
    while True:
        signal.pause()


def misconfigured(_settings: Settings) -> None:
    """Cannot run."""
    raise Misconfigured("the moon is made of cheese; set it to stone")


def failing(_settings: Settings) -> None:
    """Ends at once, again and again."""
    raise RuntimeError("no luck today")


if __name__ == "__main__":
    kinds, port = sys.argv[1:]
    specs = [ProcessSpec(kind, f"tests.support:{kind}", 1) for kind in kinds.split(",")]
    try:
        sys.exit(supervise(specs, Settings(shutdown_grace_ms=GRACE_MS), port=int(port)))
    except Misconfigured as error:
        sys.exit(f"error: {error}")
