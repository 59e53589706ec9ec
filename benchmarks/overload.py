"""What three times too many shoppers do to one worker: `python -m benchmarks.overload`.

First as many redemptions as it takes (64 callers in turn) are measured; then shoppers come at one and at three times
that rate, whoever is answered, over connections of several processes, while an operator pauses and resumes another
campaign and engages and releases a kill switch. Everybody is on one machine: goodput is also told for
each second of CPU that the worker was given, which is what counts where cores are few.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.generator import Order as ClosedLoop
from benchmarks.open_loop import Crowd, Order, crowd_from, crowd_of
from benchmarks.processes import cpu_s, listener, load_generator, stop_on_signals
from vouchsafe import app
from vouchsafe.cli.tables import print_rows
from vouchsafe.client import CampaignDefinition, Client, Effect, KillSwitchScope, PercentOff
from vouchsafe.domain.errors import VouchsafeError
from vouchsafe.local import LocalService

CODE = "BENCH"
AT_ONCE = 64
GENERATORS = 2
WARM_UP_S = 1.5
FACTORS = (1.0, 3.0)
OPERATOR_PAUSE_S = 0.05
SETTLE_S = 120.0
# What is promised at the highest factor.
GOODPUT_SHARE = 0.8
REDEEMED_P99_MS = 1_000.0
REFUSED_P99_MS = 1_000.0
OPERATOR_P99_MS = 200.0

Step = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Figures:
    """At one rate: calls a second, milliseconds, and shares of what was measured at the peak. `ends` counts calls by
    how they ended (`benchmarks.open_loop`)."""

    load: str
    offered_per_s: float
    redeemed_per_s: float
    goodput_share: float
    goodput_share_of_cpu: float
    redeemed_p50_ms: float
    redeemed_p99_ms: float
    refused_p99_ms: float
    operator_calls: int
    operator_p99_ms: float
    late_p99_ms: float
    ends: dict[str, int]

    def broken(self) -> list[str]:
        """The bounds that do not hold."""
        share = max(self.goodput_share, self.goodput_share_of_cpu)
        bounds = (
            ("goodput, of the peak", f"{share:.0%}", share >= GOODPUT_SHARE),
            ("p99 of redemptions", f"{self.redeemed_p99_ms:.0f} ms", self.redeemed_p99_ms <= REDEEMED_P99_MS),
            ("p99 of refusals", f"{self.refused_p99_ms:.0f} ms", not self.refused_p99_ms > REFUSED_P99_MS),
            ("p99 of operators", f"{self.operator_p99_ms:.0f} ms", self.operator_p99_ms <= OPERATOR_P99_MS),
        )
        return [f"{self.load}: {what} is {value}" for what, value, holds in bounds if not holds]


@dataclass(frozen=True)
class Report:
    """Everything, and whether gate and ledger agree in the end."""

    peak_per_s: float
    figures: Sequence[Figures]
    agrees: bool
    load_average: float
    cores: int


class Overload:
    """One worker, and those who come."""

    def __init__(self, service: LocalService) -> None:
        self._service = service
        self._worker = listener(service.settings.port)

    def peak(self, seconds: float) -> tuple[float, float]:
        """As many redemptions as it takes: a second, and a second of the worker's CPU."""
        order = ClosedLoop(self._service.target, self._service.api_key, CODE, seconds, AT_ONCE)
        with load_generator(may_fail=True) as generate:
            generate(ClosedLoop(self._service.target, self._service.api_key, CODE, WARM_UP_S, AT_ONCE))
            before = cpu_s(self._worker)
            done = generate(order)
            return done.calls / done.seconds, done.calls / (cpu_s(self._worker) - before)

    async def at(self, load: str, rate: float, seconds: float, peak: tuple[float, float], comes_again: bool) -> Figures:
        """Shoppers at a rate, and an operator."""
        order = Order(
            self._service.target, self._service.api_key, CODE, seconds, rate / GENERATORS, comes_again=comes_again
        )
        crowd = Crowd()
        async with self._service.client(timeout_s=10, channels=2) as client:
            with ExitStack() as stack:
                processes = [stack.enter_context(crowd_of(order)) for _ in range(GENERATORS)]
                before, began = cpu_s(self._worker), time.perf_counter()
                operator = asyncio.create_task(_operate(client))
                for found in await asyncio.gather(*(asyncio.to_thread(crowd_from, one) for one in processes)):
                    crowd += found
                operator_ms = await _ended(operator)
                taken_s, spent_s = time.perf_counter() - began, cpu_s(self._worker) - before
        redeemed = len(crowd.redeemed_ms)
        return Figures(
            load=load,
            offered_per_s=len(crowd.late_ms) / crowd.seconds,
            redeemed_per_s=redeemed / crowd.seconds,
            goodput_share=redeemed / crowd.seconds / peak[0],
            goodput_share_of_cpu=redeemed / spent_s / peak[1] if taken_s else 0.0,
            redeemed_p50_ms=_percentile(crowd.redeemed_ms, 0.5),
            redeemed_p99_ms=_percentile(crowd.redeemed_ms, 0.99),
            refused_p99_ms=_percentile(crowd.refused_ms, 0.99),
            operator_calls=len(operator_ms),
            operator_p99_ms=_percentile(operator_ms, 0.99),
            late_p99_ms=_percentile(crowd.late_ms, 0.99),
            ends=dict(sorted(crowd.ends.items())),
        )


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


async def audited(service: LocalService) -> bool:
    """Whether every counter is the sum of the events, once all are in the ledger. Raises TimeoutError."""
    patient = service.settings.model_copy(update={"ledger_timeout_ms": 60_000})
    async with asyncio.timeout(SETTLE_S):
        while (await app.status(patient)).waiting_events:  # noqa: ASYNC110  # nobody signals what is looked at
            await asyncio.sleep(0.1)
    return (await app.audit(patient, None, lambda _: None)).agrees


def run(service: LocalService, seconds: float) -> Report:
    """Measures the peak, every factor, and the same crowd when it comes again."""
    asyncio.run(prepare(service))
    overload = Overload(service)
    peak = overload.peak(seconds)
    figures = [
        asyncio.run(overload.at(f"{factor:g} x peak", factor * peak[0], seconds, peak, comes_again=False))
        for factor in FACTORS
    ]
    storm = "storm: 1.5 x peak, and who is refused comes again"
    figures.append(asyncio.run(overload.at(storm, 1.5 * peak[0], seconds, peak, comes_again=True)))
    agrees = asyncio.run(audited(service))
    return Report(peak[0], figures, agrees, os.getloadavg()[0], os.cpu_count() or 1)


def show(report: Report, console: Console) -> None:
    """For people."""
    print_rows(
        [
            {
                "load": one.load,
                "offered/s": f"{one.offered_per_s:,.0f}",
                "redeemed/s": f"{one.redeemed_per_s:,.0f}",
                "of peak": f"{one.goodput_share:.0%}",
                "of peak by CPU": f"{one.goodput_share_of_cpu:.0%}",
                "p50 ms": f"{one.redeemed_p50_ms:.0f}",
                "p99 ms": f"{one.redeemed_p99_ms:.0f}",
                "refusals p99 ms": f"{one.refused_p99_ms:.0f}",
                "operator p99 ms": f"{one.operator_p99_ms:.0f}",
            }
            for one in report.figures
        ],
        right=("offered/s", "redeemed/s", "of peak", "of peak by CPU", "p50 ms", "p99 ms", "refusals p99 ms",
               "operator p99 ms"),
    )  # fmt: skip
    for one in report.figures:
        ends = ", ".join(f"{count:,} {end}" for end, count in one.ends.items())
        console.print(
            f"{one.load}: {ends}; {one.operator_calls} operator's calls; late by {one.late_p99_ms:.0f} ms (p99)"
        )
    console.print(
        f"peak {report.peak_per_s:,.0f}/s; gate and ledger {'agree' if report.agrees else 'DO NOT AGREE'}; "
        f"load average {report.load_average:.1f} on {report.cores} cores"
    )


def main() -> int:
    """Prints the figures; 1 when a bound is broken at the highest factor, or the audit finds something."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8, help="how long each rate lasts (default 8)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    stop_on_signals()
    console = Console(soft_wrap=True, highlight=False)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="vouchsafe-overload-") as directory,
            LocalService(Path(directory), workers=1) as service,
        ):
            report = run(service, options.seconds)
    except VouchsafeError as error:
        sys.exit(f"overload: {error}")
    except KeyboardInterrupt:
        sys.exit("overload: stopped")
    if options.json:
        sys.stdout.write(json.dumps(asdict(report), indent=2) + "\n")
    else:
        show(report, console)
    broken = report.figures[FACTORS.index(max(FACTORS))].broken()
    for line in broken:
        console.print(f"broken: {line}")
    return 1 if broken or not report.agrees else 0


if __name__ == "__main__":
    sys.exit(main())
