"""How fast a sale stops, and that it does: `python -m benchmarks.stopping`.

Several client processes redeem as fast as four workers let them, while an operator pauses and resumes their campaign,
and engages and releases the kill switch for everything: undisturbed, with PostgreSQL stopped, and each time with a
worker that stands still (SIGSTOP) and wakes up behind the answer. Then the order of the streams tells what was taken
while it was stopped, as `vouchsafe audit --pauses` does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import psutil
from rich.console import Console

from benchmarks.generator import REDEEMED, Order, Round
from benchmarks.processes import ended_plainly, listeners, load_generator, wait_while
from vouchsafe import app
from vouchsafe.cli.tables import print_rows
from vouchsafe.client import CampaignDefinition, Client, Effect, KillSwitchScope, PercentOff
from vouchsafe.local import LocalService

WORKERS = 4
GENERATORS = 3
AT_ONCE = 32  # calls under way from each of them
ROUND_S = 1.0
# Between an answer and the next call: time for what is under way to go wrong, and for redemptions to be taken again.
STOPPED_S, RUNNING_S = 0.02, 0.05
SETTLE_S = 300.0
CODE = "BENCH"

Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Figures:
    """How long one kind of call took to answer, in milliseconds."""

    call: str
    under: str
    times: int
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True)
class Report:
    """What came of it; of each round the first three failures count. `behind` is how many uses stand inside of a pause
    or a kill switch, of which there were `stops`, by the order of the streams."""

    figures: Sequence[Figures]
    stops: int
    stops_expected: int
    behind: int
    redeemed: int
    refused: int
    failed: int
    redeemed_per_s: float
    load_average: Sequence[float]
    cores: int

    @property
    def is_kept(self) -> bool:
        """Whether every stop is in the ledger, and nothing is behind one."""
        return self.behind == 0 and self.stops == self.stops_expected


class Sale(LocalService):
    """The service, and what goes wrong with it."""

    _others: list[psutil.Process]

    @contextmanager
    def without_postgres(self) -> Iterator[None]:
        """The ledger is away."""
        self._postgres.stop()
        try:
            yield
        finally:
            self._postgres.start()

    def spare_own_worker(self) -> None:
        """Sees to it that none is frozen that this process is connected to."""
        port = self.settings.port
        mine = {here for here, there in _connections(psutil.Process()) if there == port}
        self._others = [one for one in listeners(port) if mine.isdisjoint(there for _, there in _connections(one))]

    @contextmanager
    def with_one_frozen(self) -> Iterator[None]:
        """A worker stands still with all that it was about to do."""
        frozen = self._others.pop(0)
        self._others.append(frozen)
        frozen.suspend()
        try:
            yield
        finally:
            frozen.resume()


def _connections(process: psutil.Process) -> list[tuple[int, int]]:
    """The ports of both ends, its own first."""
    return [(one.laddr.port, one.raddr.port) for one in process.net_connections("tcp") if one.raddr]


class Crowd:
    """Shoppers in processes of their own, from when it is entered until it is left."""

    def __init__(self, service: Sale) -> None:
        self.counted: Counter[str] = Counter()
        self.failures: list[str] = []
        self.seconds = 0.0
        self._order = Order(service.target, service.api_key, [CODE], ROUND_S, at_once=AT_ONCE)
        self._over = threading.Event()
        self._stack = ExitStack()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Crowd:
        for _ in range(GENERATORS):
            generate = self._stack.enter_context(load_generator(may_fail=True))
            thread = threading.Thread(target=self._shop, args=(generate,))
            self._threads.append(thread)
            thread.start()
        self._began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self.seconds = time.monotonic() - self._began
        self._stack.close()

    def _shop(self, generate: Callable[[Order], Round]) -> None:
        while not self._over.is_set():
            done = generate(self._order)
            self.counted.update(done.outcomes)
            self.failures += done.failures


async def repeat(
    name: tuple[str, str],
    under: str,
    times: int,
    stop: Call,
    go: Call,
    adversity: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> list[Figures]:
    """Stops and lets go so many times, both under the adversity, which is over in between."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(times):
        for call, found, pause_s in ((stop, taken[0], STOPPED_S), (go, taken[1], RUNNING_S)):
            with adversity():
                began = time.perf_counter()
                await call()
                found.append((time.perf_counter() - began) * 1_000)
            await asyncio.sleep(pause_s)
    return [_figures(call, under, found) for call, found in zip(name, taken, strict=True)]


def _figures(call: str, under: str, times_ms: list[float]) -> Figures:
    ordered = sorted(times_ms)
    p50, p99 = (ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.99))
    return Figures(call, under, len(ordered), p50, p99, ordered[-1])


async def measure(sale: Sale, client: Client, times: int, adverse_times: int) -> list[Figures]:
    """All series, one after the other."""
    everything = KillSwitchScope(everything=True)
    kinds: list[tuple[tuple[str, str], Call, Call]] = [
        (
            ("PauseCampaign", "ResumeCampaign"),
            partial(client.pause_campaign, "bench", "to measure"),
            partial(client.resume_campaign, "bench"),
        ),
        (
            ("EngageKillSwitch", "ReleaseKillSwitch"),
            partial(client.engage_kill_switch, everything, "to measure"),
            partial(client.release_kill_switch, everything),
        ),
    ]
    found = []
    for name, stop, go in kinds:
        found += await repeat(name, "all is well", times, stop, go)
    with sale.without_postgres():
        for name, stop, go in kinds:
            found += await repeat(name, "PostgreSQL is stopped", adverse_times, stop, go)
    for name, stop, go in kinds:
        found += await repeat(name, "a worker stands still", adverse_times, stop, go, sale.with_one_frozen)
    return found


async def run(sale: Sale, times: int, adverse_times: int) -> Report:
    """Measures under load, then counts what stands behind a stop. Raises Unavailable when the ledger is not complete
    in time."""
    definition = CampaignDefinition(display_name="Sale", effects=[Effect(percent_off=PercentOff(basis_points=1_000))])
    async with sale.client(timeout_s=30, channels=1) as client:
        await client.create_campaign("bench", definition, shared_codes=[CODE])
        sale.spare_own_worker()
        with Crowd(sale) as crowd:
            await asyncio.sleep(2 * ROUND_S)
            figures = await measure(sale, client, times, adverse_times)
            load_average = os.getloadavg()
    patient = sale.settings.model_copy(update={"ledger_timeout_ms": 120_000})
    await asyncio.to_thread(wait_while, lambda: bool(asyncio.run(app.status(patient)).waiting_events), SETTLE_S)
    expected = 2 * (times + 2 * adverse_times)
    found = await app.stops(patient, expected + 1)
    redeemed = crowd.counted.pop(REDEEMED, 0)
    return Report(
        figures=figures,
        stops=sum(one.end_time_ms is not None for one in found),
        stops_expected=expected,
        behind=sum(one.taken for one in found),
        redeemed=redeemed,
        refused=crowd.counted.total(),
        failed=len(crowd.failures),
        redeemed_per_s=redeemed / crowd.seconds,
        load_average=load_average,
        cores=os.cpu_count() or 1,
    )


def show(report: Report, console: Console) -> None:
    """For people."""
    print_rows(
        [
            {
                "call": one.call,
                "while": one.under,
                "times": f"{one.times}",
                "p50 ms": f"{one.p50_ms:.1f}",
                "p99 ms": f"{one.p99_ms:.1f}",
                "max ms": f"{one.max_ms:.1f}",
            }
            for one in report.figures
        ],
        right=("times", "p50 ms", "p99 ms", "max ms"),
    )
    load = ", ".join(f"{one:.1f}" for one in report.load_average)
    console.print(
        f"{report.redeemed:,} redemptions ({report.redeemed_per_s:,.0f}/s, stops included), "
        f"{report.refused:,} refused; load average {load} on {report.cores} cores"
    )
    console.print(
        f"{report.stops} of {report.stops_expected} stops in the ledger, {report.behind} redemptions behind one"
    )


def main() -> int:
    """Prints the figures; 1 when a redemption stands behind a stop, or a stop is not in the ledger."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stopping", description=__doc__)
    parser.add_argument("--times", type=int, default=200, help="how often each is done (default 200)")
    parser.add_argument("--adverse-times", type=int, default=50, help="how often under each adversity (default 50)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    console = Console(soft_wrap=True, highlight=False)
    with (
        ended_plainly("stopping"),
        tempfile.TemporaryDirectory(prefix="vouchsafe-stopping-") as directory,
        Sale(Path(directory), workers=WORKERS) as sale,
    ):
        report = asyncio.run(run(sale, options.times, options.adverse_times))
    if options.json:
        sys.stdout.write(json.dumps(asdict(report), indent=2) + "\n")
    else:
        show(report, console)
    return 0 if report.is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
