"""`vouchsafe keys`, in this process: a command is little more than its call."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.service import Service
from tests.support import eventually
from vouchsafe.cli import app

Run = Callable[..., Result]


@pytest.fixture
def run(service: Service, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("VOUCHSAFE_POSTGRES_URL", service.settings.postgres_url)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *args: CliRunner().invoke(app, list(args))


def test_keys_are_created_listed_and_revoked(service: Service, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    name, target = f"cli-{uuid.uuid4()}", ("--target", service.target)
    made = run("keys", "create", name, "--role", "viewer", "--role", "support", "--expires-in", "7d")
    assert made.exit_code == 0, made.output
    key = made.stdout.strip()
    id_, secret = key.split("_", 2)[1:]

    def mine() -> dict[str, Any]:
        listed = run("keys", "list", "--json").stdout
        assert secret not in listed
        return next(one for one in json.loads(listed) if one["id"] == id_)

    found = mine()
    assert (found["name"], found["roles"], found["revoke_time"]) == (name, ["support", "viewer"], None)
    assert found["expire_time"] > found["create_time"]
    line = next(line for line in run("keys", "list").stdout.splitlines() if id_ in line)
    assert "support, viewer" in line
    assert "good until" in line

    monkeypatch.setenv("VOUCHSAFE_API_KEY", key)
    eventually(lambda: run("campaign", "list", *target).exit_code == 0, "it lets in")
    # Workers learn of it one by one, and each command reaches one of them.
    told: list[str] = []

    def says(words: str, *command: str) -> bool:
        ran = run(*command, *target)
        told.append(ran.stderr)
        return ran.exit_code == 1 and words in ran.stderr

    eventually(lambda: says("PERMISSION_DENIED", "campaign", "pause", "x"), "it lets in no further")
    assert "operator, admin" in told[-1]
    assert run("keys", "revoke", id_).stdout == f"revoked {id_}\n"
    first = mine()["revoke_time"]
    assert first
    assert run("keys", "revoke", id_).exit_code == 0
    assert mine()["revoke_time"] == first
    eventually(lambda: says("UNAUTHENTICATED", "campaign", "list"), "it does not")
    assert "`vouchsafe keys create` makes a key" in told[-1]


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (("create", "a b", "--role", "viewer"), 2, "name: has to have"),
        (("create", "x", "--role", "king"), 2, "king"),
        (("create", "x"), 2, "--role"),
        (("create", "x", "--role", "viewer", "--expires-in", "soon"), 2, "--expires-in: "),
        (("create", "x", "--role", "viewer", "--expires-in", "900000000d"), 2, "--expires-in: "),
        (("create", "x", "--role", "viewer", "--expires-in", "3649000d"), 2, "expire_time: "),
        (("revoke", "000000000000"), 1, "there is no key 000000000000"),
    ],
)
def test_a_slip_about_keys_is_told(run: Run, args: tuple[str, ...], status: int, said: str) -> None:
    ran = run("keys", *args)
    assert (ran.exit_code, ran.stdout) == (status, "")
    assert said in ran.stderr
