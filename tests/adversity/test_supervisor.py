"""Workers that die, hang or cannot run, and a parent that is killed: no port is shared, nothing is left behind."""

from __future__ import annotations

import itertools
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.support import GRACE_MS, Program, eventually, family, gone
from vouchsafe.embedded import HOST, free_port
from vouchsafe.supervisor import LONGEST_DELAY_S, STOP_MARGIN_S

Supervised = Callable[..., Program]

# Python needs a moment to start and to end.
BOUND_S = GRACE_MS / 1000 + STOP_MARGIN_S + 5


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    """Starts a supervisor of processes of these kinds; whatever is left is killed at the end."""
    programs: list[Program] = []
    numbers = itertools.count()

    def start(*kinds: str, port: int | None = None) -> Program:
        log = tmp_path / f"{next(numbers)}.log"
        program = Program(log, "-m", "tests.support", ",".join(kinds), str(port or free_port()))
        programs.append(program)
        return program

    yield start
    for program in programs:
        program.end()


def _running(program: Program, count: int) -> list[int]:
    """Their process ids, once so many have said that they run."""
    eventually(lambda: len(program.lines("running")) >= count, f"{count} processes run:\n{program.text()}")
    return [line["pid"] for line in program.lines("running")]


def test_a_worker_that_was_killed_is_started_again_and_reported(supervised: Supervised) -> None:
    program = supervised("orderly", "orderly")
    first, second = _running(program, 2)
    psutil.Process(first).kill()
    _, _, third = _running(program, 3)
    (ended,) = program.lines("process ended by itself")
    assert (ended["child"], ended["cause"], ended["name"]) == (first, "SIGKILL", "orderly")
    started = program.lines("process started")
    assert [(line["child"], line["restarts"]) for line in started[2:]] == [(third, 1)]
    assert psutil.pid_exists(second)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_every_worker_drain(supervised: Supervised, number: signal.Signals) -> None:
    program = supervised("orderly", "orderly")
    workers = _running(program, 2)
    processes = family(program.pid)
    program.process.send_signal(number)
    assert program.process.wait(BOUND_S) == 0
    assert {line["pid"] for line in program.lines("drained")} == set(workers)
    eventually(lambda: gone(processes), "nothing is left")


def test_ctrl_c_in_a_terminal_reaches_all_and_drains_all(supervised: Supervised) -> None:
    program = supervised("orderly", "orderly")
    _running(program, 2)
    for process in family(program.pid):
        process.send_signal(signal.SIGINT)
    assert program.process.wait(BOUND_S) == 0
    assert len(program.lines("drained")) == 2
    assert "Traceback" not in program.text()


def test_a_worker_that_hangs_is_killed_when_its_time_is_up(supervised: Supervised) -> None:
    program = supervised("stubborn", "orderly")
    _running(program, 2)
    processes = family(program.pid)
    program.process.terminate()
    assert program.process.wait(BOUND_S) == 1
    assert len(program.lines("drained")) == 1
    (killed,) = program.lines("process does not end; killing it")
    assert killed["name"] == "stubborn"
    eventually(lambda: gone(processes), "nothing is left")


@pytest.mark.parametrize("kind", ["orderly", "stubborn"])
def test_workers_end_with_a_parent_that_was_killed(supervised: Supervised, kind: str) -> None:
    program = supervised(kind, kind)
    _running(program, 2)
    processes = family(program.pid)
    program.process.kill()
    program.process.wait()
    eventually(lambda: gone(processes), "no worker is left", wait_s=BOUND_S)
    if kind == "orderly":
        assert len(program.lines("drained")) == 2


def test_a_misconfigured_worker_stops_the_whole_server(supervised: Supervised) -> None:
    program = supervised("orderly", "misconfigured")
    assert program.process.wait(BOUND_S) == 1
    (said,) = program.lines("misconfigured")
    assert said["error"] == "the moon is made of cheese; set it to stone"
    assert "error: the misconfigured cannot run with these settings; its log says why" in program.text()
    assert len(program.lines("process started")) <= 2


def test_a_worker_that_always_fails_is_started_less_and_less_often(supervised: Supervised) -> None:
    program = supervised("failing")
    eventually(lambda: len(program.lines("process ended by itself")) >= 4, "it failed four times")
    program.process.terminate()
    # A worker that waits for its next start delays nothing.
    assert program.process.wait(BOUND_S) == 0
    assert LONGEST_DELAY_S <= 10
    assert "no luck today" in program.text()
    assert [line["restarts"] for line in program.lines("process started")[:4]] == [0, 1, 2, 3]


def test_a_taken_port_is_named_and_nothing_is_started(supervised: Supervised) -> None:
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        program = supervised("orderly", port=port)
        assert program.process.wait(BOUND_S) == 1
    assert f"error: cannot listen on {HOST}:{port}: Address already in use" in program.text()
    assert program.lines("process started") == []


def test_a_second_server_does_not_share_the_port(supervised: Supervised) -> None:
    port = free_port()
    first = supervised("orderly", port=port)
    _running(first, 1)
    second = supervised("orderly", port=port)
    assert second.process.wait(BOUND_S) == 1
    assert f"{HOST}:{port}" in second.text()
    assert first.process.poll() is None


def test_the_port_stays_reserved_while_no_worker_listens(supervised: Supervised) -> None:
    port = free_port()
    _running(supervised("orderly", port=port), 1)  # which never listens
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="Address already in use"):
            other.bind((HOST, port))


def test_connections_of_an_earlier_server_that_are_still_closing_do_not_take_the_port(supervised: Supervised) -> None:
    with socket.create_server((HOST, free_port())) as earlier:
        port = earlier.getsockname()[1]
        with socket.create_connection((HOST, port)) as client:
            earlier.accept()[0].close()  # who closes first keeps the connection for a minute
            client.recv(1)
    with socket.socket() as plain, pytest.raises(OSError, match="in use"):
        plain.bind((HOST, port))
    _running(supervised("orderly", port=port), 1)
