"""Whether a worker keeps what it should forget: `python -m benchmarks.soak`.

A million redemptions travel through it, as unary calls, over streams and in batches by turns, and one of a hundred is
cancelled while it is under way. Its memory is looked at again and again; in the second half it shall not grow any more.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from rich.console import Console

from benchmarks.generator import Order
from benchmarks.message import Way
from benchmarks.processes import ended_plainly, listener, load_generator
from benchmarks.service import CODE, Service
from vouchsafe.domain.errors import VouchsafeError

ITEMS = 1_000_000
STEPS = 10
# What travels in which way, and how many at once: calls pay most, so they are the fewest.
SHARES: dict[Way, tuple[float, int]] = {"unary": (0.1, 64), "stream": (0.3, 256), "batch": (0.6, 8)}
CANCEL_EVERY = 100
# By how much the memory may grow in the second half: a leak of 100 bytes a call would be about a third.
MAX_GROWTH = 0.05
# For one way of one step, however slow the machine is.
PATIENCE_S = 600.0


def growth(rss: Sequence[int]) -> float:
    """By how much the last of these amounts of memory is larger than the one in the middle, as a share of it."""
    return rss[-1] / rss[(len(rss) - 1) // 2] - 1


def soak(service: Service, items: int, console: Console) -> list[int]:
    """The worker's memory in bytes, before and after each step. Raises VouchsafeError when an answered redemption does
    not stand, or one stands that nobody asked for."""
    worker: psutil.Process = listener(service.settings.port)
    side = service.side()
    redeemed = side.redeemed()
    rss = [worker.memory_info().rss]
    answered = cancelled = 0
    started = time.monotonic()
    with load_generator() as generate:
        for _ in range(STEPS):
            for way, (share, at_once) in SHARES.items():
                done = generate(
                    Order(
                        side.target,
                        side.api_key,
                        [CODE],
                        PATIENCE_S,
                        at_once,
                        way=way,
                        items=int(items * share / STEPS),
                        cancel_every=CANCEL_EVERY,
                    )
                )
                answered += done.items
                cancelled += done.cancelled
            side.settle()
            rss.append(worker.memory_info().rss)
            console.print(
                f"{time.monotonic() - started:6.1f} s  {answered:>9,} answered, {cancelled:>6,} cancelled; "
                f"the worker has {rss[-1] / 2**20:.1f} MiB"
            )
    if not answered <= (stand := side.redeemed() - redeemed) <= answered + cancelled:
        raise VouchsafeError(f"{stand} stand of {answered} that were answered and {cancelled} that were cancelled")
    return rss


def main() -> int:
    """Prints the memory; 1 when it grows by more than a twentieth in the second half."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--items", type=int, default=ITEMS, help="how many redemptions (%(default)s)")
    items = parser.parse_args().items
    console = Console(highlight=False, soft_wrap=True)
    with (
        ended_plainly("soak"),
        tempfile.TemporaryDirectory(prefix="vouchsafe-soak-") as directory,
        Service(Path(directory)) as service,
    ):
        service.create_campaign()
        rss = soak(service, items, console)
    console.print(f"in the second half the worker's memory grew by {growth(rss):.1%}; {MAX_GROWTH:.0%} were allowed")
    return 0 if growth(rss) <= MAX_GROWTH else 1


if __name__ == "__main__":
    sys.exit(main())
