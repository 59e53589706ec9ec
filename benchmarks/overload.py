"""What too many shoppers do to one worker: `python -m benchmarks.overload`.

For requests in calls of their own and in batches: first as many redemptions as it takes are measured; then shoppers
come at that rate and at so many times it, whoever is answered, over connections of several processes, while an operator
pauses and resumes another campaign and engages and releases a kill switch. Last come shoppers who try again.

Everybody is on one machine. A call of its own costs a shopper nearly what it costs an empty server, so three times as
many calls as a worker takes are more than two cores can send: that is measured in batches, which cost a shopper little.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from benchmarks.audits import audited
from benchmarks.generator import Order as ClosedLoop
from benchmarks.message import BATCH, Way
from benchmarks.open_loop import Crowd, Order, crowd_from, crowd_of
from benchmarks.processes import cpu_s, ended_plainly, listener, load_generator
from vouchsafe.cli.tables import print_rows
from vouchsafe.client import CampaignDefinition, Client, Effect, KillSwitchScope, PercentOff
from vouchsafe.embedded import HOST, free_port
from vouchsafe.local import LocalService

CODE = "BENCH"
AT_ONCE: dict[Way, int] = {"unary": 64, "batch": 8}
GENERATORS = 2
WARM_UP_S = 1.5
# How many times the peak is brought.
FACTORS: dict[Way, float] = {"unary": 1.5, "batch": 3.0}
WAIT = "vouchsafe_admission_wait_seconds"
WATCH_PAUSE_S = 0.1
OPERATOR_PAUSE_S = 0.02
# What is promised then.
GOODPUT_SHARE = 0.8
REDEEMED_P99_MS = 1_000.0
REFUSED_P99_MS = 1_000.0
OPERATOR_P99_MS = 200.0
LATE_MS = 50.0

Step = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Figures:
    """At one rate: requests a second, and milliseconds of a call. `wait_p99_ms` is how long calls wait for the worker
    by its own probe; the others are as callers see it. `ends` says how many requests ended how, as a Crowd does."""

    load: str
    offered_per_s: float
    redeemed_per_s: float
    redeemed_per_cpu_s: float
    redeemed_p50_ms: float
    redeemed_p99_ms: float
    refused_p99_ms: float
    wait_p99_ms: float
    operator_calls: int
    operator_p50_ms: float
    operator_p99_ms: float
    late_p99_ms: float
    ends: dict[str, int]

    @property
    def is_late(self) -> bool:
        """Whether the shoppers had too little CPU to keep their own pace: how long calls took says more about them
        than about the worker then."""
        return self.late_p99_ms > LATE_MS


@dataclass(frozen=True)
class Measured:
    """One way: its peak, with as many in an open loop, and with too many."""

    peak_per_s: float
    at_peak: Figures
    too_many: Figures

    def goodput(self, one: Figures) -> float:
        """Its redemptions as a share of the most that were measured in a second."""
        return one.redeemed_per_s / max(self.peak_per_s, self.at_peak.redeemed_per_s)

    def goodput_by_cpu(self, one: Figures) -> float:
        """The same for each second of CPU that the worker was given, beside as many shoppers as it can serve."""
        return one.redeemed_per_cpu_s / self.at_peak.redeemed_per_cpu_s

    def broken(self) -> list[str]:
        """What does not hold with too many."""
        one = self.too_many
        bounds = [
            (f"goodput is {self.goodput(one):.0%} of the peak", self.goodput(one) >= GOODPUT_SHARE),
            (f"the p99 of redemptions is {one.redeemed_p99_ms:.0f} ms", one.redeemed_p99_ms <= REDEEMED_P99_MS),
            (f"the p99 of refusals is {one.refused_p99_ms:.0f} ms", not one.refused_p99_ms > REFUSED_P99_MS),
            (f"the p99 of operators is {one.operator_p99_ms:.0f} ms", one.operator_p99_ms <= OPERATOR_P99_MS),
        ]
        return [f"{one.load}: {what}" for what, holds in bounds if not holds]


@dataclass(frozen=True)
class Report:
    """Everything, and whether gate and ledger agree in the end."""

    alone: Figures
    ways: dict[Way, Measured]
    storm: Figures
    agrees: bool
    load_average: float
    cores: int

    def broken(self) -> list[str]:
        """What does not hold."""
        found = [what for measured in self.ways.values() for what in measured.broken()]
        return found if self.agrees else [*found, "gate and ledger do not agree"]


class Overload:
    """One worker, and those who come."""

    def __init__(self, service: LocalService) -> None:
        self._service = service
        self._worker = listener(service.settings.port)

    def peak(self, way: Way, seconds: float) -> float:
        """As many redemptions a second as it takes."""
        with load_generator(may_fail=True) as generate:
            for duration_s in (WARM_UP_S, seconds):
                order = ClosedLoop(
                    self._service.target, self._service.api_key, [CODE], duration_s, AT_ONCE[way], way=way
                )
                done = generate(order)
        return done.items / done.seconds

    async def at(
        self, load: str, rate: float, seconds: float, way: Way = "unary", *, comes_again: bool = False
    ) -> Figures:
        """Shoppers at a rate, none for 0, and an operator."""
        order = Order(self._service.target, self._service.api_key, CODE, seconds, rate / GENERATORS, way, comes_again)
        crowd = Crowd()
        async with self._service.client(timeout_s=10, channels=2) as client:
            with ExitStack() as stack:
                processes = [stack.enter_context(crowd_of(order)) for _ in range(GENERATORS)]
                before = cpu_s(self._worker)
                operator, watcher = asyncio.create_task(_operate(client)), asyncio.create_task(self._watch())
                for found in await asyncio.gather(*(asyncio.to_thread(crowd_from, one) for one in processes)):
                    crowd += found
                if not rate:
                    await asyncio.sleep(seconds)
                operator_ms, waits_ms = await _ended(operator), await _ended(watcher)
                spent_s = cpu_s(self._worker) - before
        redeemed = crowd.ends.get("redeemed", 0)
        size = BATCH if way == "batch" else 1
        return Figures(
            load=load,
            offered_per_s=len(crowd.late_ms) * size / max(crowd.seconds, seconds),
            redeemed_per_s=redeemed / max(crowd.seconds, seconds),
            redeemed_per_cpu_s=redeemed / spent_s,
            redeemed_p50_ms=_percentile(crowd.redeemed_ms, 0.5),
            redeemed_p99_ms=_percentile(crowd.redeemed_ms, 0.99),
            refused_p99_ms=_percentile(crowd.refused_ms, 0.99),
            wait_p99_ms=_percentile(waits_ms, 0.99),
            operator_calls=len(operator_ms),
            operator_p50_ms=_percentile(operator_ms, 0.5),
            operator_p99_ms=_percentile(operator_ms, 0.99),
            late_p99_ms=_percentile(crowd.late_ms, 0.99),
            ends=dict(sorted(crowd.ends.items())),
        )

    async def _watch(self) -> list[float]:
        """What the worker tells of the wait until cancelled, in milliseconds."""
        address = f"http://{HOST}:{self._service.settings.server_metrics_port}/metrics"
        found: list[float] = []

        def look() -> None:
            with urllib.request.urlopen(address, timeout=20) as answer:
                families = text_string_to_metric_families(answer.read().decode())
                found.extend(
                    sample.value * 1_000 for family in families for sample in family.samples if sample.name == WAIT
                )

        try:
            while True:
                await asyncio.to_thread(look)
                await asyncio.sleep(WATCH_PAUSE_S)
        except asyncio.CancelledError:
            return found


async def _operate(client: Client) -> list[float]:
    """Stops and lets go again and again until cancelled; how long each call took, in milliseconds."""
    label = KillSwitchScope(label="nobody")
    steps: list[Step] = [
        partial(client.pause_campaign, "other", "to measure"),
        partial(client.resume_campaign, "other"),
        partial(client.engage_kill_switch, label, "to measure"),
        partial(client.release_kill_switch, label),
    ]
    taken: list[float] = []
    try:
        while True:
            for step in steps:
                began = time.perf_counter()
                await step()
                taken.append((time.perf_counter() - began) * 1_000)
                await asyncio.sleep(OPERATOR_PAUSE_S)
    except asyncio.CancelledError:
        return taken


async def _ended(task: asyncio.Task[list[float]]) -> list[float]:
    task.cancel()
    return await task


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


async def prepare(service: LocalService) -> None:
    """Creates the campaign that everybody wants, and the operator's."""
    definition = CampaignDefinition(display_name="Sale", effects=[Effect(percent_off=PercentOff(basis_points=1_000))])
    async with service.client(channels=1) as client:
        await client.create_campaign("bench", definition, shared_codes=[CODE])
        await client.create_campaign("other", definition, shared_codes=["OTHER"])


def run(service: LocalService, seconds: float) -> Report:
    """Measures an operator alone, each way, and those who come again."""
    asyncio.run(prepare(service))
    overload = Overload(service)
    alone = asyncio.run(overload.at("an operator alone", 0, seconds))
    ways = {}
    for way, factor in FACTORS.items():
        peak = overload.peak(way, seconds)
        at_peak = asyncio.run(overload.at(f"{way}, 1 x peak", peak, seconds, way))
        most = asyncio.run(overload.at(f"{way}, {factor:g} x peak", factor * peak, seconds, way))
        ways[way] = Measured(peak, at_peak, most)
    again = ways["unary"].peak_per_s * FACTORS["unary"]
    storm = asyncio.run(overload.at("the same, coming again", again, seconds, comes_again=True))
    agrees = asyncio.run(audited(service))
    return Report(alone, ways, storm, agrees, os.getloadavg()[0], os.cpu_count() or 1)


def show(report: Report, console: Console) -> None:
    """For people."""
    unary = report.ways["unary"]
    shown: list[tuple[Measured, Figures]] = [(unary, report.alone)]
    shown += [(measured, one) for measured in report.ways.values() for one in (measured.at_peak, measured.too_many)]
    shown.append((unary, report.storm))
    rows = [
        {
            "load": one.load,
            "offered/s": f"{one.offered_per_s:,.0f}",
            "redeemed/s": f"{one.redeemed_per_s:,.0f}",
            "of peak": f"{measured.goodput(one):.0%}",
            "by CPU": f"{measured.goodput_by_cpu(one):.0%}",
            "p50 ms": f"{one.redeemed_p50_ms:.0f}",
            "p99 ms": f"{one.redeemed_p99_ms:.0f}",
            "refused p99": f"{one.refused_p99_ms:.0f}",
            "wait p99": f"{one.wait_p99_ms:.0f}",
            "operator p50": f"{one.operator_p50_ms:.0f}",
            "operator p99": f"{one.operator_p99_ms:.0f}",
        }
        for measured, one in shown
    ]
    print_rows(rows, right=list(rows[0])[1:])
    for _, one in shown:
        ends = ", ".join(f"{count:,} {end}" for end, count in one.ends.items())
        late = ""
        if one.is_late:
            late = f"; its shoppers were late by {one.late_p99_ms:.0f} ms (p99), so its times are theirs, too"
        console.print(f"{one.load}: {ends or 'nobody'}; {one.operator_calls} operator's calls{late}")
    peaks = ", ".join(f"{way} {measured.peak_per_s:,.0f}/s" for way, measured in report.ways.items())
    console.print(
        f"peaks: {peaks}; gate and ledger {'agree' if report.agrees else 'DO NOT AGREE'}; "
        f"load average {report.load_average:.1f} on {report.cores} cores"
    )


def main() -> int:
    """Prints the figures; 1 when a bound is broken where too many come, or the audit finds something."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="how long each rate lasts (default 10)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    os.environ["VOUCHSAFE_SERVER_METRICS_PORT"] = str(free_port())
    console = Console(soft_wrap=True, highlight=False)
    with (
        ended_plainly("overload"),
        tempfile.TemporaryDirectory(prefix="vouchsafe-overload-") as directory,
        LocalService(Path(directory), workers=1) as service,
    ):
        report = run(service, options.seconds)
    if options.json:
        sys.stdout.write(json.dumps(asdict(report), indent=2) + "\n")
    else:
        show(report, console)
    for line in report.broken():
        sys.stderr.write(f"overload: broken: {line}\n")
    return 1 if report.broken() else 0


if __name__ == "__main__":
    sys.exit(main())
