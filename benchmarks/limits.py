"""What limits cost Valkey: `python -m benchmarks.limits`.

The function that redeems, in batches of 64, for campaigns with one limit and with six, in turn; and the memory that a
redemption leaves behind.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import redis
from rich.console import Console

from benchmarks import function
from benchmarks.message import BATCH
from benchmarks.processes import listener, stop_on_signals
from vouchsafe.domain.limits import (
    AttributeLimit,
    IdentityKind,
    IdentityLimit,
    Limits,
    Period,
    PeriodLimit,
    WindowLimit,
)
from vouchsafe.local import LocalService

ROUNDS = 9
CALLS = 40
ONE = Limits(total=10**9)
SIX = Limits(
    total=10**9,
    per_customer=10**6,
    budget_minor=10**15,
    periods=(PeriodLimit(period=Period.DAY, uses=10**6),),
    attributes=(AttributeLimit(key="store", uses=10**9),),
    identities=IdentityLimit(kinds=(IdentityKind.CARD,), uses=10**6),
)
WINDOW = Limits(windows=(WindowLimit(window_ms=86_400_000, uses=3),))


def main() -> int:
    """Prints the ratios; 1 when six limits cost twice as much as one."""
    stop_on_signals()
    console = Console(highlight=False)
    with (
        tempfile.TemporaryDirectory(prefix="vouchsafe-limits-") as directory,
        LocalService(Path(directory), workers=1) as service,
    ):
        port = urlsplit(service.settings.valkey_url).port or 0
        valkey = listener(port)
        sides = {}
        for name, limits in (("one", ONE), ("six", SIX), ("window", WINDOW)):
            sides[name] = asyncio.run(function.commands(service.settings, ROUNDS * CALLS, limits, name))
        store = redis.Redis.from_url(service.settings.valkey_url)
        times: dict[str, list[float]] = {name: [] for name in sides}
        used: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(ROUNDS):
            for name, calls in sides.items():
                before = _memory(store)
                done = function.run(calls[number * CALLS : (number + 1) * CALLS], valkey, port)
                times[name].append(done.valkey_us)
                used[name].append((_memory(store) - before) / (CALLS * BATCH))
        store.close()
    ratio = statistics.median(six / one for six, one in zip(times["six"], times["one"], strict=True))
    for name in sides:
        console.print(
            f"{name:>6}: {statistics.median(times[name]):5.1f} us of Valkey's CPU and "
            f"{statistics.median(used[name]):5.0f} bytes a redemption, its event and its request record included"
        )
    console.print(f"six limits cost {ratio:.2f} times what one does (median of {ROUNDS} pairs)")
    return 0 if ratio < 2 else 1


def _memory(store: redis.Redis) -> int:
    return int(store.info("memory")["used_memory"])


if __name__ == "__main__":
    sys.exit(main())
