"""What a shell sees of the commands: completion, exit status, colours, and what to do when nobody answers."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_cli import vouchsafe
from vouchsafe.cli.common import ExitStatus
from vouchsafe.embedded import free_port

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src/vouchsafe/cli").glob("*.py"))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_the_completion_of_a_shell_is_printed(shell: str) -> None:
    shown = vouchsafe("completion", shell)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert re.search(rf'_VOUCHSAFE_COMPLETE ?= ?"?complete_{shell}', shown.stdout)


def test_bash_reads_the_script_and_completes_by_it() -> None:
    script = (
        'source /dev/stdin <<< "$(vouchsafe completion bash)"; COMP_WORDS=(vouchsafe kill); COMP_CWORD=1; '
        "_vouchsafe_completion vouchsafe; echo ${COMPREPLY[*]}"
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "-c", script], env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout.split() == ["kill-switch"]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("vouchsafe kill", {"kill-switch"}),
        ("vouchsafe kill-switch ", {"engage", "release", "status"}),
        ("vouchsafe keys create x --ro", {"--role"}),
        ("vouchsafe keys create x --role store", {"storefront"}),
    ],
)
def test_bash_is_offered_what_fits(line: str, offered: set[str]) -> None:
    words = line.split(" ")
    completed = subprocess.run(
        [Path(sys.executable).with_name("vouchsafe")],
        env=os.environ
        | {"_VOUCHSAFE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert set(completed.stdout.split()) == offered


def test_completion_loads_neither_grpc_nor_a_driver() -> None:
    heavy = ("grpc", "asyncpg", "redis", "prometheus_client")
    code = f"import sys, vouchsafe.cli; print([name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert loaded.stdout.strip() == "[]"


def test_the_documented_exit_status_is_the_codes() -> None:
    text = (ROOT / "docs/cli.md").read_text()
    documented = {int(number): name for number, name in re.findall(r"^\| (\d+) +\| `(\w+)`", text, re.MULTILINE)}
    assert documented == {status.value: status.name for status in ExitStatus}
    used = {name for path in SOURCES for name in re.findall(r"typer\.Exit\((.*?)\)", path.read_text())}
    # What the processes of `serve` and `persist` end with is 0 or 1.
    assert used >= {f"ExitStatus.{status.name}" for status in ExitStatus if status}
    assert not {name for name in used if name.isdecimal() and int(name) not in documented}


@pytest.mark.parametrize(
    "args", [("--help",), ("nonsense",), ("redeem", "--help"), ("campaign", "list"), ("settings",), ("codes", "list")]
)
def test_a_pipe_gets_no_colours(args: tuple[str, ...]) -> None:
    ran = vouchsafe(*args, TERM="xterm-256color", COLORTERM="truecolor", VOUCHSAFE_PORT=str(free_port()))
    assert ran.stdout + ran.stderr
    assert "\x1b" not in ran.stdout + ran.stderr


@pytest.mark.parametrize(("variables", "is_coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_gets_colours_unless_it_does_not_want_them(variables: dict[str, str], is_coloured: bool) -> None:
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    with subprocess.Popen(
        [sys.executable, "-m", "vouchsafe", "kill-switch", "--help"],
        env=environment | {"TERM": "xterm-256color"} | variables,
        stdout=theirs,
        stderr=theirs,
    ):
        os.close(theirs)
        said = b""
        while True:
            try:
                piece = os.read(ours, 65_536)
            except OSError:  # how a terminal tells that nobody writes any more
                break
            if not piece:
                break
            said += piece
    os.close(ours)
    assert b"engage" in said
    assert (re.search(rb"\x1b\[[\d;]*3\dm", said) is not None) == is_coloured


NOBODY = "127.0.0.1:1"


@pytest.mark.parametrize(
    "args",
    [
        ("redeem", "CODE"),
        ("confirm", "x"),
        ("release", "x"),
        ("rollback", "x"),
        ("campaign", "create", "x", "--percent", "10", "--code", "XYZ"),
        ("campaign", "list"),
        ("campaign", "get", "x"),
        ("campaign", "stats", "x"),
        ("campaign", "watch", "x"),
        ("campaign", "pause", "x"),
        ("campaign", "resume", "x"),
        ("kill-switch", "engage", "--everything"),
        ("kill-switch", "release", "--everything"),
        ("kill-switch", "status"),
        ("codes", "list"),
        ("codes", "get", "X"),
        ("codes", "generate", "--campaign", "x", "--count", "1"),
        ("codes", "assign", "X", "--customer", "c"),
        ("codes", "gift", "--campaign", "x", "--customer", "c"),
        ("codes", "disable", "X"),
        ("codes", "export", "--campaign", "x"),
    ],
)
def test_where_no_server_is_every_command_says_so_and_what_to_do(args: tuple[str, ...]) -> None:
    ran = vouchsafe(*args, "--target", NOBODY)
    assert ran.returncode == ExitStatus.FAILED
    assert ran.stderr.splitlines() == [
        f"error: UNAVAILABLE: nobody answers at {NOBODY}",
        f"  is a server running at {NOBODY}? `vouchsafe dev` starts one",
    ]


@pytest.mark.parametrize(
    "args", [("status",), ("recover",), ("audit",), ("audit", "--pauses"), ("migrate",), ("keys", "list")]
)
def test_where_no_store_is_every_command_says_which_and_what_to_do(args: tuple[str, ...]) -> None:
    ran = vouchsafe(*args, VOUCHSAFE_POSTGRES_URL="postgresql://127.0.0.1:1/x")
    assert (ran.returncode, ran.stderr.splitlines()[0]) == (ExitStatus.FAILED, "error: PostgreSQL is out of reach")
    assert ran.stderr.splitlines()[-1] == "  start it, or correct VOUCHSAFE_POSTGRES_URL"


@pytest.mark.parametrize(
    ("args", "variables", "said"),
    [
        (("campaign", "list", "--target", "nonsense"), {}, "--target nonsense: give host:port, for example"),
        (("campaign", "list", "--target", "127.0.0.1:99999"), {}, "--target 127.0.0.1:99999: give host:port"),
        (("keys", "create", "a b", "--role", "viewer"), {}, "name: has to have 1 to 64 letters"),
        (("keys", "create", "x", "--role", "king"), {}, "'checkout', 'storefront', 'viewer'"),
        (("serve",), {"VOUCHSAFE_PORT": "x"}, "VOUCHSAFE_PORT: "),
        (("serve",), {"VOUCHSAFE_GUESS_CUSTOMER_BURST": "9"}, "VOUCHSAFE_GUESS_CUSTOMER_BURST: "),
        (("campaign", "list"), {"VOUCHSAFE_TLS_CA_FILE": "/nowhere"}, "VOUCHSAFE_TLS_CA_FILE: "),
    ],
)
def test_what_is_wrong_before_anybody_is_asked_is_named(
    args: tuple[str, ...], variables: dict[str, str], said: str
) -> None:
    ran = vouchsafe(*args, **({"COLUMNS": "200"} | variables))
    assert (ran.returncode, ran.stdout) == (ExitStatus.USAGE, "")
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr


def test_an_address_that_is_none_of_a_store_is_said_to_be_wrong() -> None:
    ran = vouchsafe("migrate", VOUCHSAFE_POSTGRES_URL="nonsense")
    (line,) = ran.stderr.splitlines()
    assert line.startswith("error: VOUCHSAFE_POSTGRES_URL is no address of a PostgreSQL: ")
