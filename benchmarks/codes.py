"""What codes cost the store that decides, and what redeeming one costs among many: `python -m benchmarks.codes`.

Two services side by side, one with just the codes that are redeemed and one with many, take turns; what is compared is
the CPU that worker and Valkey spend on a call. The many are entered into Valkey as a persister would, without a ledger
of them.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
import uvloop
from rich.console import Console

from benchmarks.processes import cpu_s, listener, stop_on_signals
from vouchsafe.client import CampaignDefinition, Client, Customer, Effect, Order, OrderLine, PercentOff, Redemption
from vouchsafe.domain.campaign import CodeEntry
from vouchsafe.domain.codes import CodeForm
from vouchsafe.gate.directory import Directory
from vouchsafe.gate.gate import Gate
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.local import LocalService

ROUNDS = 9
PER_ROUND = 2_000
FEW = PER_ROUND * (ROUNDS + 1)  # each is redeemed once
PER_FILL = 10_000
AT_ONCE = 64
MAX_BYTES = 32
MAX_RATIO = 1.2
CAMPAIGN = "bench"

numbers = itertools.count()


class Side:
    """One service with codes, and what redeeming one of them costs there. Figures are microseconds of CPU for a call:
    in all, and of Valkey."""

    def __init__(self, service: LocalService) -> None:
        self._service = service
        self._codes: list[str] = []
        self._valkey_port = urlsplit(service.settings.valkey_url).port or 0
        self._worker, self._valkey = listener(service.settings.port), listener(self._valkey_port)

    async def fill(self, count: int) -> float:
        """Enters so many codes; answers the bytes of Valkey's memory that each has taken."""
        effects = [Effect(percent_off=PercentOff(basis_points=1_000))]
        async with Client(self._service.target, timeout_s=30) as client:
            await client.create_campaign(CAMPAIGN, CampaignDefinition(display_name="Codes", effects=effects))
        settings = self._service.settings
        ledger = await Ledger.connect(settings.postgres_url, pool_size=1, timeout_ms=settings.ledger_timeout_ms)
        installation = await ledger.installation()
        assert installation is not None
        gate = await Gate.connect(settings.model_copy(update={"gate_timeout_ms": 60_000}), settings.partitions)
        for state in installation.partitions:
            gate.use_partition(state.partition, installation.id, state.epoch)
        before = self._info("memory")["used_memory"]
        share = min(1.0, FEW / count * 1.1)
        for done in range(0, count, PER_FILL):
            codes = CodeForm().draw(min(PER_FILL, count - done))
            await Directory(gate).put([CodeEntry(code, CAMPAIGN, 1) for code in codes])
            self._codes += random.sample(codes, round(len(codes) * share))
        while self._info("persistence")["aof_rewrite_in_progress"]:  # noqa: ASYNC110  # Valkey tells nobody
            await asyncio.sleep(0.5)
        random.shuffle(self._codes)
        bytes_each = (self._info("memory")["used_memory"] - before) / count
        await gate.close()
        await ledger.close()
        return float(bytes_each)

    async def round(self) -> tuple[float, float]:
        """Redeems some codes, each on an order of its own."""
        codes = iter([self._codes.pop() for _ in range(PER_ROUND)])
        async with Client(self._service.target, timeout_s=30) as client:
            worker, valkey = cpu_s(self._worker), cpu_s(self._valkey)
            await asyncio.gather(*(_redeem(client, codes) for _ in range(AT_ONCE)))
            worker, valkey = cpu_s(self._worker) - worker, cpu_s(self._valkey) - valkey
        return (worker + valkey) / PER_ROUND * 1e6, valkey / PER_ROUND * 1e6

    def _info(self, section: str) -> Any:
        with redis.Redis(port=self._valkey_port) as client:
            return client.info(section)


async def _redeem(client: Client, codes: Iterator[str]) -> None:
    for code in codes:
        name = f"n-{next(numbers)}"
        lines = [OrderLine(sku="shirt", quantity=1, unit_price_minor=5_000)]
        outcome = await client.redeem(code, Customer(id=name), Order(id=name, currency_code="EUR", lines=lines))
        assert isinstance(outcome, Redemption), outcome


async def compare(few: Side, many: Side, count: int, console: Console) -> bool:
    """Prints the figures, and answers whether they are as they should be."""
    await few.fill(FEW)
    started = time.monotonic()
    bytes_each = await many.fill(count)
    took_s = time.monotonic() - started
    console.print(f"{count:,} codes of 12 characters: {bytes_each:.1f} bytes of memory each; entered in {took_s:.0f} s")
    await few.round()
    await many.round()
    pairs = []
    for number in range(ROUNDS):
        # Neither is always the one behind the other.
        first, second = (few, many) if number % 2 else (many, few)
        found = {first: await first.round(), second: await second.round()}
        pairs.append((found[few], found[many]))
    ratios = []
    for part, whose in enumerate(("worker and Valkey", "Valkey alone")):
        ratios.append(statistics.median(more[part] / less[part] for less, more in pairs))
        console.print(
            f"CPU to redeem a code, {whose}: {statistics.median(less[part] for less, _ in pairs):.0f} us "
            f"among {FEW:,}, {statistics.median(more[part] for _, more in pairs):.0f} us among {count:,}; "
            f"ratio {ratios[-1]:.3f} (median of {ROUNDS} pairs)"
        )
    return bytes_each <= MAX_BYTES and ratios[0] <= MAX_RATIO


def main() -> int:
    """Prints the figures; 1 when a code takes more than 32 bytes, or redeeming one costs over 1.2 times as much."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codes", type=int, default=1_000_000, help="how many (default 1000000)")
    count = parser.parse_args().codes
    stop_on_signals()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vouchsafe-codes-")))
        few, many = (Side(stack.enter_context(LocalService(directory / name, workers=1))) for name in ("few", "many"))
        return 0 if uvloop.run(compare(few, many, count, Console(soft_wrap=True))) else 1


if __name__ == "__main__":
    sys.exit(main())
