"""The gate's library with a clock that stands still until a test moves it."""

from __future__ import annotations

import hashlib

import pytest

from vouchsafe.gate import library
from vouchsafe.gate.connection import Command, function_call

TIME = "redis.call('TIME')"
# Memory of the process and no key, so that each node of a cluster has it. Two numbers in a list, as TIME answers them:
# all that is made of them is the product's.
MOVED_TIME = "moved_time"
BEFORE = "local moved_time\n"
BEHIND = "\nregister_plainly('set_time', function(_, time) moved_time = time end)\n"


@pytest.fixture
def moved_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every gate of this process has the library with the clock that a test moves."""
    version, source = moved_library()
    monkeypatch.setattr(library, "VERSION", version)
    monkeypatch.setattr(library, "SOURCE", source)


def moved_library() -> tuple[str, str]:
    """Version and source of the library with the one call replaced that asks for the time, and a function that sets it;
    every other byte is the product's, but for the version, which is this one's own."""
    head, body = library.SOURCE.split("\n-- Purpose", 1)
    assert head.count(library.VERSION) == 2
    assert body.count("TIME'") == body.count(TIME) == 1
    moved = body.replace(TIME, MOVED_TIME) + BEHIND
    version = hashlib.sha256(moved.encode()).hexdigest()[:8]
    return version, head.replace(library.VERSION, version) + BEFORE + "\n-- Purpose" + moved


def set_time(now_ms: int) -> Command:
    """The call that makes it this time on a node, nearly a millisecond later to the microsecond."""
    return function_call("set_time", [], [now_ms // 1_000, now_ms % 1_000 * 1_000 + 999])
