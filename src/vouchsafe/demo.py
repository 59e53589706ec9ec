"""`vouchsafe demo`: the main job on real servers, and the figures that show whether the promises were kept.

First a campaign for the first 500 shoppers meets 5,000 different ones at once; then a second campaign is paused in
the middle of its sale. What came after the pause is read from the ledger: each redemption has its place in the same
stream as the pause.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from vouchsafe.client import (
    CampaignDefinition,
    Client,
    Customer,
    Effect,
    Limits,
    Order,
    OrderLine,
    PercentOff,
    Redemption,
    RefusalReason,
)
from vouchsafe.domain.errors import Unavailable
from vouchsafe.gate.gate import Gate
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.ledger.stops import StopBook
from vouchsafe.local import LocalService

CAP = 500
SHOPPERS = 5_000
WORKERS = 2
# Several connections, because each one stays with the worker that accepted it.
CHANNELS = 16
SALE = "first-500"
PAUSED_SALE = "paused-sale"
PAUSE_AFTER = 500
SETTLE_WAIT_S = 20.0


@dataclass(slots=True)
class Sale:
    """What the shoppers of one campaign were answered. Latencies in milliseconds, from each shopper's own call."""

    redeemed: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def percentile_ms(self, share: float) -> float:
        """The latency that this share of the calls did not exceed."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


@dataclass(frozen=True, slots=True)
class Report:
    """What the demo saw."""

    sale: Sale
    ledger_rows: int
    paused_sale: Sale
    paused_ledger_rows: int
    redeemed_after_pause: int

    @property
    def kept_promises(self) -> bool:
        """Never oversold, never lost, stopped at once."""
        return (
            self.sale.redeemed == CAP == self.ledger_rows
            and self.sale.redeemed + self.sale.refused.total() == SHOPPERS
            and self.paused_sale.redeemed == self.paused_ledger_rows
            and self.redeemed_after_pause == 0
        )

    def figures(self) -> dict[str, Any]:
        """The figures as one JSON object."""
        return {
            "cap": CAP,
            "shoppers": SHOPPERS,
            "redeemed": self.sale.redeemed,
            "refused": dict(self.sale.refused),
            "ledger_rows": self.ledger_rows,
            "redeemed_after_pause": self.redeemed_after_pause,
            "calls_per_s": round(SHOPPERS / self.sale.seconds),
            "p50_ms": round(self.sale.percentile_ms(0.50), 1),
            "p99_ms": round(self.sale.percentile_ms(0.99), 1),
        }

    def table(self) -> Table:
        """The figures for people."""
        table = Table(title="vouchsafe demo", title_justify="left", show_header=False)
        table.add_row("campaign", f"the first {CAP} of {SHOPPERS:,} shoppers, {WORKERS} server workers")
        table.add_row("redeemed", f"{self.sale.redeemed}")
        for reason, count in self.sale.refused.most_common():
            table.add_row(f"refused: {reason}", f"{count:,}")
        table.add_row("rows in PostgreSQL", f"{self.ledger_rows}")
        table.add_row("calls a second", f"{SHOPPERS / self.sale.seconds:,.0f}")
        table.add_row(
            "latency, all shoppers at once",
            f"p50 {self.sale.percentile_ms(0.50):,.0f} ms, p99 {self.sale.percentile_ms(0.99):,.0f} ms",
        )
        table.add_section()
        table.add_row("second campaign", "paused in the middle of its sale")
        table.add_row("redeemed before the pause", f"{self.paused_sale.redeemed:,}")
        table.add_row("rows in PostgreSQL", f"{self.paused_ledger_rows:,}")
        table.add_row("redeemed after the pause had answered", f"{self.redeemed_after_pause}")
        table.add_section()
        table.add_row(
            "never oversold, never lost, stops at once", "kept" if self.kept_promises else "[red]BROKEN[/red]"
        )
        return table


def run_demo(console: Console) -> Report:
    """Starts everything in a temporary directory, sells, counts, stops everything. Progress goes to `console`."""
    with tempfile.TemporaryDirectory(prefix="vouchsafe-demo-") as directory:
        console.print("starting Valkey, PostgreSQL, the persister and two server workers ...")
        with LocalService(Path(directory), workers=WORKERS) as service:
            return asyncio.run(_run(service, console))


async def _run(service: LocalService, console: Console) -> Report:
    async with service.client(timeout_s=30, channels=CHANNELS) as client:
        definition = CampaignDefinition(
            display_name=f"First {CAP} shoppers",
            effects=[Effect(percent_off=PercentOff(basis_points=1_000))],
            limits=Limits(total=CAP, per_customer=1),
        )
        await client.create_campaign(SALE, definition, shared_codes=["FIRST500"])
        with _progress(console, f"{SHOPPERS:,} shoppers want one of {CAP}") as advance:
            sale = await _sell(client, "FIRST500", advance)

        definition = CampaignDefinition(
            display_name="Paused sale", effects=[Effect(percent_off=PercentOff(basis_points=1_000))]
        )
        await client.create_campaign(PAUSED_SALE, definition, shared_codes=["PAUSED"])
        with _progress(console, f"a sale that is paused after {PAUSE_AFTER}") as advance:
            paused_sale, late = await _sell_and_pause(client, advance)

    console.print("counting in PostgreSQL ...")
    ledger = await Ledger.connect(service.settings.postgres_url, pool_size=1, timeout_ms=5_000)
    try:
        await _settle(service, ledger)
        return Report(
            sale=sale,
            ledger_rows=await ledger.count_redemptions(SALE),
            paused_sale=paused_sale,
            paused_ledger_rows=await ledger.count_redemptions(PAUSED_SALE),
            # By the clients' own account, and by the order of the stream.
            redeemed_after_pause=max(late, await StopBook(ledger).taken_while_paused(PAUSED_SALE)),
        )
    finally:
        await ledger.close()


async def _settle(service: LocalService, ledger: Ledger) -> None:
    """Waits until the persister has moved every event, so that no row is counted too early. Raises Unavailable."""
    installation = await ledger.installation()
    assert installation is not None
    gate = await Gate.connect(service.settings, len(installation.partitions))
    try:
        deadline = time.monotonic() + SETTLE_WAIT_S
        while waiting := await gate.waiting_events():
            if time.monotonic() > deadline:
                raise Unavailable(f"{waiting} events have not reached PostgreSQL after {SETTLE_WAIT_S:.0f} s")
            await asyncio.sleep(0.05)
    finally:
        await gate.close()


async def _sell(client: Client, code: str, advance: Callable[[], None]) -> Sale:
    """All shoppers at once, each with an order of their own."""
    sale = Sale()

    async def shop(number: int) -> None:
        started = time.perf_counter()
        await _redeem(client, code, number, sale)
        sale.latencies_ms.append((time.perf_counter() - started) * 1000)
        advance()

    started = time.perf_counter()
    await asyncio.gather(*(shop(number) for number in range(SHOPPERS)))
    sale.seconds = time.perf_counter() - started
    return sale


async def _sell_and_pause(client: Client, advance: Callable[[], None]) -> tuple[Sale, int]:
    """Pauses while the sale goes on; also answers how many calls that began after the pause's answer succeeded."""
    sale = Sale()
    running = asyncio.Event()
    paused = False
    late = 0

    async def shop(number: int) -> None:
        nonlocal late
        async with at_once:
            began_after_pause = paused
            redeemed = await _redeem(client, "PAUSED", number, sale)
        if redeemed and began_after_pause:
            late += 1
        if sale.redeemed >= PAUSE_AFTER:
            running.set()
        advance()

    # Few enough at once that calls begin before, during and after the pause.
    at_once = asyncio.Semaphore(200)
    shoppers = [asyncio.create_task(shop(number)) for number in range(SHOPPERS)]
    await running.wait()
    await client.pause_campaign(PAUSED_SALE, "the demo stops this sale")
    paused = True
    await asyncio.gather(*shoppers)
    return sale, late


async def _redeem(client: Client, code: str, number: int, sale: Sale) -> bool:
    order = Order(
        id=f"{code}-order-{number}",
        currency_code="EUR",
        lines=[OrderLine(sku="shirt", quantity=1, unit_price_minor=4_990)],
    )
    outcome = await client.redeem(code, Customer(id=f"customer-{number}"), order)
    if isinstance(outcome, Redemption):
        sale.redeemed += 1
        return True
    sale.refused[RefusalReason.Name(outcome.reason).removeprefix("REFUSAL_REASON_")] += 1
    return False


@contextmanager
def _progress(console: Console, title: str) -> Iterator[Callable[[], None]]:
    """Yields what to call for each shopper served."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=SHOPPERS)
        yield lambda: progress.advance(task)
