"""`vouchsafe trail` and `vouchsafe audit --verify`, in this process: a command is little more than its call."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable

import asyncpg
import pytest
from typer.testing import CliRunner, Result

from tests.service import Service, settle
from vouchsafe.cli import app
from vouchsafe.domain.trail import Action, Author, Note
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.ledger.trail import TrailBook

Run = Callable[..., Result]
HEAD = "[0-9a-f]{64}"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COLUMNS", "250")
    return lambda *args: CliRunner().invoke(app, list(args))


@pytest.fixture
def url(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A ledger with three actions, and nobody else's."""
    monkeypatch.setenv("VOUCHSAFE_POSTGRES_URL", ledger_url)

    async def note() -> None:
        ledger = await Ledger.connect(ledger_url, pool_size=1, timeout_ms=5_000)
        for number in range(3):
            author = Author("key:ops", f"{number}")
            await TrailBook(ledger).note(Note(author, Action.CODES_EXPORT, "codes", {}, {}))
        await ledger.close()

    asyncio.run(note())
    return ledger_url


def tamper(url: str, statement: str) -> None:
    async def execute() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute("set session_replication_role = replica")
        await connection.execute(statement)
        await connection.close()

    asyncio.run(execute())


def test_a_whole_chain_is_told_with_its_head(run: Run, url: str) -> None:
    ran = run("audit", "--verify")
    assert ran.exit_code == 0, ran.output
    match = re.fullmatch(rf"3 rows, chain whole, head ({HEAD})\n", ran.stdout)
    assert match
    found = json.loads(run("audit", "--verify", "--json").stdout)
    assert found == {"whole": True, "rows": 3, "head": match[1], "broken": None, "expected_row": None}
    ran = run("audit", "--verify", "--expect-head", match[1])
    assert (ran.exit_code, ran.stdout) == (0, f"3 rows, chain whole, 0 since the expected head, head {match[1]}\n")
    # The tail is taken away, and all that says so put right.
    tamper(url, "delete from audit_events where number = 3; update audit_head h set number = 2, hash = e.hash "
                "from audit_events e where e.number = 2")  # fmt: skip
    assert run("audit", "--verify").exit_code == 0
    ran = run("audit", "--verify", "--expect-head", match[1])
    assert ran.exit_code == 1
    assert ran.stdout.startswith("the chain is broken: no row has the expected head")


def test_a_row_that_was_changed_is_named(run: Run, url: str) -> None:
    tamper(url, "update audit_events set principal = 'key:nobody' where number = 2")
    ran = run("audit", "--verify")
    words = "the chain is broken: row 2 was changed: its hash is not that of what it says; 1 row before that hold"
    assert (ran.exit_code, ran.stdout.startswith(words)) == (1, True)
    ran = run("audit", "--verify", "--json")
    assert (ran.exit_code, json.loads(ran.stdout)["whole"]) == (1, False)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--expect-head", "00"), "--expect-head is for --verify"),
        (("--verify", "--expect-head", "00"), "64 hex digits"),
        (("--verify", "--pauses"), "give one of"),
    ],
)
def test_a_slip_is_told(run: Run, args: tuple[str, ...], words: str) -> None:
    ran = run("audit", *args)
    assert ran.exit_code == 2
    assert words in ran.stderr


def test_what_is_done_meanwhile_is_followed_until_ctrl_c(service: Service, run: Run) -> None:
    id_, target = f"cli-{uuid.uuid4()}", ("--target", service.target)
    assert run("campaign", "create", id_, "--percent", "10", *target).exit_code == 0
    command = [sys.executable, "-m", "vouchsafe", "trail", "--on", f"campaign:{id_}", "--follow", "--json", *target]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout
        assert json.loads(following.stdout.readline())["action"] == "campaign.create"
        for action in ("pause", "resume"):
            assert run("campaign", action, id_, *target).exit_code == 0
        told = [json.loads(following.stdout.readline())["action"] for _ in range(2)]
        following.send_signal(signal.SIGINT)
        assert following.stdout.read() == ""
    assert told == ["campaign.pause", "campaign.resume"]
    assert following.returncode == 0


def test_what_was_done_is_shown(service: Service, run: Run) -> None:
    id_, target = f"cli-{uuid.uuid4()}", ("--target", service.target)
    assert run("campaign", "create", id_, "--percent", "10", "--code", id_, "--reason", "new", *target).exit_code == 0
    assert run("campaign", "pause", id_, "--reason", "stock is gone", *target).exit_code == 0
    asyncio.run(settle(service.settings))
    shown = run("trail", "--on", f"campaign:{id_}", "--since", "1h", *target)
    assert shown.exit_code == 0, shown.output
    heading, pause, create = shown.stdout.splitlines()[:3]
    assert heading.split() == ["time", "who", "action", "on", "change", "reason"]
    assert "key:dev  campaign.pause" in pause
    assert "state: active → paused" in pause
    assert pause.rstrip().endswith("stock is gone")
    assert "display_name: cli-" in create
    listed = json.loads(run("trail", "--on", f"campaign:{id_}", "--limit", "1", "--json", *target).stdout)
    assert [(one["action"], one["before"], one["after"]) for one in listed] == [
        ("campaign.pause", {"state": "active"}, {"state": "paused"})
    ]
    assert run("trail", "--principal", id_, *target).stdout == "nothing was done\n"
    wrong = run("trail", "--action", "campaign.stop", *target)
    assert (wrong.exit_code, "filter.action: is none" in wrong.stderr) == (1, True)
