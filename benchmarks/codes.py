"""What codes cost the store that decides, and what redeeming one costs among many: `python -m benchmarks.codes`.

Two Valkeys side by side, one with just the codes that are redeemed and one with many, take turns; what is compared is
the CPU that this process and Valkey spend to look a code up and redeem it.
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
from pathlib import Path
from typing import Any

import redis
import uvloop
from rich.console import Console

from benchmarks.processes import cpu_s, listener
from vouchsafe.domain.campaign import Campaign, CodeEntry, Definition
from vouchsafe.domain.codes import CodeForm
from vouchsafe.domain.effects import Effect, PercentOff
from vouchsafe.domain.limits import Limits
from vouchsafe.domain.order import Customer, Line, Order
from vouchsafe.domain.pricing import Discount
from vouchsafe.domain.redemption import Claim, Redemption
from vouchsafe.domain.takes import Taker
from vouchsafe.embedded import EmbeddedValkey, free_port
from vouchsafe.gate.attempts import Attempt
from vouchsafe.gate.checkout import Checkout
from vouchsafe.gate.directory import Directory
from vouchsafe.gate.gate import Gate
from vouchsafe.settings import Settings

FEW = 50_000  # each is redeemed once at most
PER_FILL = 20_000
ROUNDS = 9
PER_ROUND = 4_000
AT_ONCE = 64
MAX_BYTES = 32
MAX_RATIO = 1.2
CAMPAIGN = "bench"
ORDER = Order(id="o", currency_code="EUR", lines=(Line(sku="sku", quantity=1, unit_price_minor=5_000),))
TAKER = Taker(Limits(), "UTC", b"benchmark")
numbers = itertools.count()


class Side:
    """A Valkey with codes, and what redeeming one of them costs there."""

    def __init__(self, gate: Gate, checkout: Checkout, port: int) -> None:
        self._directory = Directory(gate)
        self.codes: list[str] = []
        self._checkout = checkout
        self._port = port
        self._server = listener(port)

    async def fill(self, count: int) -> float:
        """Enters so many codes; answers the bytes that each has taken."""
        before = self._used_memory()
        for done in range(0, count, PER_FILL):
            codes = CodeForm().draw(min(PER_FILL, count - done))
            await self._directory.put([CodeEntry(code, CAMPAIGN, 1) for code in codes])
            self.codes += random.sample(codes, min(len(codes), max(1, 100_000 * len(codes) // count)))
        random.shuffle(self.codes)
        return (self._used_memory() - before) / count

    async def round(self) -> tuple[float, float]:
        """Microseconds of CPU for one code, looked up and redeemed: in all, and of Valkey."""
        own, other = time.process_time(), cpu_s(self._server)
        codes = iter([self.codes.pop() for _ in range(PER_ROUND)])
        await asyncio.gather(*(self._redeem(codes) for _ in range(AT_ONCE)))
        own, other = time.process_time() - own, cpu_s(self._server) - other
        return (own + other) / PER_ROUND * 1e6, other / PER_ROUND * 1e6

    async def _redeem(self, codes: Iterator[str]) -> None:
        for code in codes:
            entry = await self._checkout.resolve(code)
            assert entry is not None
            name = f"n-{next(numbers)}"
            claim = Claim(
                request_id=name,
                fingerprint="0" * 32,
                campaign_id=CAMPAIGN,
                campaign_version=1,
                code=code,
                customer_id=name,
                order_id=name,
                currency_code="EUR",
                order_amount_minor=5_000,
                discount=Discount(500, 500),
            )
            takes = TAKER.takes(Customer(id=name), ORDER, entry, 500, self._checkout.now_ms())
            answer = await self._checkout.redeem(Attempt(claim, takes))
            assert isinstance(answer, Redemption), answer

    def _used_memory(self) -> int:
        with redis.Redis(port=self._port) as client:
            info: Any = client.info("memory")
            return int(info["used_memory"])


async def side(port: int) -> Side:
    """A gate whose partitions are all open, with one campaign."""
    settings = Settings(valkey_url=f"redis://127.0.0.1:{port}/0", max_waiting=100_000, gate_timeout_ms=10_000)
    gate = await Gate.connect(settings, settings.partitions)
    for one in await gate.inspect():
        assert one is not None
        await gate.open_partition(one, "benchmark", 1, [1] * gate.partitions)
        gate.use_partition(one.partition, "benchmark", 1)
    definition = Definition(display_name="Codes", effects=(Effect(kind=PercentOff(basis_points=1_000)),))
    await gate.publish(Campaign(CAMPAIGN, 1, definition, 0))
    with redis.Redis(port=port) as client:
        client.config_set("appendonly", "no")  # what is measured is no disk
    return Side(gate, Checkout(gate, settings), port)


async def compare(few_port: int, many_port: int, count: int, console: Console) -> bool:
    """Prints the figures, and answers whether they are as they should be."""
    few, many = await side(few_port), await side(many_port)
    await few.fill(FEW)
    started = time.monotonic()
    bytes_each = await many.fill(count)
    console.print(
        f"{count:,} codes of 12 characters: {bytes_each:.1f} bytes of Valkey's memory each; "
        f"entered in {time.monotonic() - started:.0f} s"
    )
    await few.round()
    await many.round()
    pairs = [(await few.round(), await many.round()) for _ in range(ROUNDS)]
    ratios = []
    for part, whose in enumerate(("", ", Valkey alone")):
        ratio = statistics.median(more[part] / less[part] for less, more in pairs)
        console.print(
            f"CPU to look a code up and redeem it{whose}: "
            f"{statistics.median(less[part] for less, _ in pairs):.1f} us among {FEW:,}, "
            f"{statistics.median(more[part] for _, more in pairs):.1f} us among {count:,}; "
            f"ratio {ratio:.3f} (median of {ROUNDS} pairs)"
        )
        ratios.append(ratio)
    return bytes_each <= MAX_BYTES and ratios[0] <= MAX_RATIO


def main() -> int:
    """Prints the figures; 1 when a code takes more than 32 bytes, or redeeming one costs over 1.2 times as much."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codes", type=int, default=1_000_000, help="how many (default 1000000)")
    count = parser.parse_args().codes
    console = Console()
    with tempfile.TemporaryDirectory(prefix="vouchsafe-codes-") as directory:
        ports = free_port(), free_port()
        with (
            EmbeddedValkey(Path(directory) / "few", ports[0]),
            EmbeddedValkey(Path(directory) / "many", ports[1]),
        ):
            return 0 if uvloop.run(compare(*ports, count, console)) else 1


if __name__ == "__main__":
    sys.exit(main())
