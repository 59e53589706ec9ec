"""The gate's library with a clock that stands still until a test moves it."""

from __future__ import annotations

import hashlib

from vouchsafe.gate import library

TIME = "redis.call('TIME')"
KEY = "{clock}:time"
# Two numbers in a list, as TIME answers them: all that is made of them is the product's.
MOVED_TIME = f"redis.call('HMGET', '{KEY}', 'seconds', 'microseconds')"


def moved_library() -> tuple[str, str]:
    """Version and source of the library with the one call replaced that asks for the time; every other byte is the
    product's, but for the version, which is this one's own."""
    head, body = library.SOURCE.split("\n-- Purpose", 1)
    assert head.count(library.VERSION) == 2
    assert body.count("TIME'") == body.count(TIME) == 1
    moved = body.replace(TIME, MOVED_TIME)
    version = hashlib.sha256(moved.encode()).hexdigest()[:8]
    return version, head.replace(library.VERSION, version) + "\n-- Purpose" + moved


def set_time(now_ms: int) -> tuple[str | int, ...]:
    """The command that makes it this time, nearly a millisecond later to the microsecond."""
    return ("HSET", KEY, "seconds", now_ms // 1_000, "microseconds", now_ms % 1_000 * 1_000 + 999)
