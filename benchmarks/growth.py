"""What redeeming one campaign costs while others exist: `python -m benchmarks.growth`.

Two services side by side, one with a single campaign and one with many, take turns; what is compared is the CPU that
worker and Valkey spend on a call.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console

from benchmarks.generator import Order, Round
from benchmarks.processes import cpu_s, listener, load_generator, stop_on_signals
from vouchsafe.client import CampaignDefinition, Effect, PercentOff
from vouchsafe.local import LocalService

ROUNDS = 9
SECONDS = 1.5
AT_ONCE = 64
CREATED_AT_ONCE = 32
CODE = "BENCH"


class Side:
    """One service, and what a call costs there."""

    def __init__(self, service: LocalService, generate: Callable[[Order], Round]) -> None:
        self._service = service
        self._generate = generate
        self._processes = [
            listener(service.settings.port),
            listener(urlsplit(service.settings.valkey_url).port or 0),
        ]

    def round(self) -> float:
        """Microseconds of CPU of worker and Valkey for one call."""
        before = sum(map(cpu_s, self._processes))
        done = self._generate(Order(self._service.target, self._service.api_key, [CODE], SECONDS, at_once=AT_ONCE))
        return (sum(map(cpu_s, self._processes)) - before) / done.calls * 1e6


async def _create(service: LocalService, others: int) -> None:
    """The campaign that is measured, and so many others with a code each."""
    definition = CampaignDefinition(display_name="Growth", effects=[Effect(percent_off=PercentOff(basis_points=1_000))])
    async with service.client(timeout_s=60) as client:
        await client.create_campaign("bench", definition, shared_codes=[CODE])
        numbers = iter(range(others))

        async def create() -> None:
            for number in numbers:
                await client.create_campaign(f"other-{number}", definition, shared_codes=[f"OTHER-{number}"])

        await asyncio.gather(*(create() for _ in range(CREATED_AT_ONCE)))


def main() -> int:
    """Prints the ratio; 1 when many campaigns make one of them more than a tenth dearer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--campaigns", type=int, default=10_000, help="how many others there are (default 10000)")
    others = parser.parse_args().campaigns
    stop_on_signals()
    console = Console()
    with ExitStack() as stack:
        sides = []
        generate = stack.enter_context(load_generator())
        for name, count in (("few", 0), ("many", others)):
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="vouchsafe-growth-"))
            service = stack.enter_context(LocalService(Path(directory), workers=1))
            console.print(f"{name}: 1 campaign and {count:,} others ...")
            asyncio.run(_create(service, count))
            sides.append(Side(service, generate))
        few, many = sides
        few.round()
        many.round()
        pairs = [(few.round(), many.round()) for _ in range(ROUNDS)]
    ratio = statistics.median(more / less for less, more in pairs)
    console.print(
        f"CPU for a call: {statistics.median(less for less, _ in pairs):.0f} us with few campaigns, "
        f"{statistics.median(more for _, more in pairs):.0f} us with {others:,} more; "
        f"ratio {ratio:.3f} (median of {ROUNDS} pairs)"
    )
    return 0 if ratio <= 1.1 else 1


if __name__ == "__main__":
    sys.exit(main())
