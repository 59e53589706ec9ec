"""`make bench`: the service beside an empty gRPC server, beside the bare function of its gate, and beside what one
would build with PostgreSQL only, plainly and well tuned.

Everything runs on this machine, so a number alone says more about the machine than about the service: what counts is
each number's ratio to its yardstick, measured in turn in the same minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console

from benchmarks import function, report
from benchmarks.chart import bench_chart
from benchmarks.generator import Order, Round, percentile
from benchmarks.message import Way
from benchmarks.pages import publish, table_of
from benchmarks.processes import ROOT, disk_sync_ms, ended_plainly, load_generator
from benchmarks.report import ECHO, OPEN_LOOP_SHARE, OURS, PLAIN, TUNED, Key, Peak, Results
from benchmarks.service import CODE, Service
from benchmarks.sides import Side, echo, postgres_only
from vouchsafe.domain.errors import VouchsafeError

CHART = "bench.svg"
# What is called, in turn: each way beside its yardsticks.
TURNS: tuple[Key, ...] = (
    ("unary", OURS),
    ("unary", ECHO),
    ("unary", PLAIN),
    ("unary", TUNED),
    ("stream", OURS),
    ("stream", ECHO),
    ("batch", OURS),
    ("batch", ECHO),
    ("batch", PLAIN),
    ("batch", TUNED),
)
# Calls under way: as many as lead to the highest rates, and no more.
AT_ONCE: dict[Way, int] = {"unary": 64, "stream": 256, "batch": 8}


@dataclass(frozen=True, slots=True)
class Plan:
    """How long a run takes."""

    rounds: int
    peak_s: float
    open_loop_s: float
    warm_up_s: float
    function_calls: int


USUAL = Plan(rounds=5, peak_s=1.5, open_loop_s=1.8, warm_up_s=1.0, function_calls=150)
QUICK = Plan(rounds=2, peak_s=0.7, open_loop_s=0.7, warm_up_s=0.4, function_calls=75)


class Bench:
    """Rounds in turn: service, yardstick, service, yardstick."""

    def __init__(self, service: Service, yardsticks: Mapping[str, Side], generate: Callable[[Order], Round]) -> None:
        self._service = service
        self._sides = {OURS: service.side(), **yardsticks}
        self._generate = generate

    def run(self, plan: Plan, say: Callable[[str], None]) -> Results:
        """Everything that is measured. Raises VouchsafeError when something answered else than it should."""
        results = Results()
        calls = asyncio.run(function.commands(self._service.settings, plan.rounds * plan.function_calls))
        say("warming up")
        for turn in TURNS:
            self._peak(turn, plan.warm_up_s)

        for number in range(plan.rounds):
            say(f"as many calls as it takes, round {number + 1} of {plan.rounds}")
            for turn in TURNS:
                results.peak.setdefault(turn, []).append(self._peak(turn, plan.peak_s))
            first = number * plan.function_calls
            batch = calls[first : first + plan.function_calls]
            valkey = self._sides[OURS].parts["Valkey"]
            results.function.append(function.run(batch, valkey, self._service.valkey_port))

        for way, name in TURNS:
            like = OURS if name == ECHO else name
            rates = map(report.calls_per_s, (one.round for one in results.peak[way, like]))
            results.rates[way, name] = OPEN_LOOP_SHARE * report.median(rates)
        for number in range(plan.rounds):
            say(f"{OPEN_LOOP_SHARE:.0%} of that, round {number + 1} of {plan.rounds}")
            for turn in TURNS:
                done, _ = self._round(turn, plan.open_loop_s, rate=results.rates[turn])
                results.open_loop.setdefault(turn, []).append(done)
        return results

    def _peak(self, turn: Key, seconds: float) -> Peak:
        since_ms = int(time.time() * 1_000)
        done, cpu_us = self._round(turn, seconds, at_once=AT_ONCE[turn[0]])
        lag_p99_ms = percentile(self._service.lags_ms(since_ms), 0.99) if turn[1] == OURS else None
        return Peak(done, cpu_us, lag_p99_ms)

    def _round(
        self, turn: Key, seconds: float, *, at_once: int = 0, rate: float = 0
    ) -> tuple[Round, Mapping[str, float]]:
        """One round, and what it cost with all that was left to do behind it: CPU microseconds for an item by part.
        Raises VouchsafeError unless every item was redeemed."""
        way, name = turn
        side = self._sides[name]
        redeemed, spent = side.redeemed(), side.cpu_s()
        done = self._generate(Order(side.target, side.api_key, [CODE], seconds, at_once, rate, way))
        side.settle()
        cpu_us = {part: (now - spent[part]) / done.items * 1e6 for part, now in side.cpu_s().items()}
        count = side.redeemed() - redeemed
        if name != ECHO and count != done.items:
            raise VouchsafeError(f"{name}, {way}: {count} of {done.items} were redeemed, so the round says nothing")
        return done, cpu_us


def main() -> None:
    """Measures, prints, and writes the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less than a minute instead of four, and less steady")
    parser.add_argument("--publish", action="store_true", help="put table and chart into docs/performance.md as well")
    options = parser.parse_args()

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 144
    started = time.monotonic()
    load_before = psutil.getloadavg()[0]
    with ended_plainly("bench"), console.status("starting ...") as status:

        def say(text: str) -> None:
            status.update(text)
            if not console.is_terminal:
                console.print(f"{time.monotonic() - started:5.1f} s  {text}")

        sync_ms, results = _measure(QUICK if options.quick else USUAL, say)

    seconds = time.monotonic() - started
    report.write(results, seconds, load_before=load_before, disk_sync_ms=sync_ms)
    chart = bench_chart(results)
    report.RESULTS.with_suffix(".svg").write_text(chart)
    console.print(report.table(results))
    for remark in report.remarks(results, load_before=load_before, disk_sync_ms=sync_ms):
        console.print(remark)
    if options.publish:
        publish("bench", table_of(report.COLUMNS, report.rows(results), texts=2), CHART, chart)
    where = report.RESULTS.relative_to(ROOT)
    console.print(f"{seconds:.0f} s; the figures are in {where}, a picture of them in {where.with_suffix('.svg')}")


def _measure(plan: Plan, say: Callable[[str], None]) -> tuple[float, Results]:
    """How long the disk takes, and what was measured."""
    with tempfile.TemporaryDirectory(prefix="vouchsafe-bench-") as name:
        directory = Path(name)
        sync_ms = disk_sync_ms(directory)
        say("starting Valkey, PostgreSQL, persister and a server with one worker, and the yardsticks")
        with Service(directory) as service:
            service.create_campaign()
            with (
                echo(service.response_bytes()) as empty,
                postgres_only(directory, "plain") as plain,
                postgres_only(directory, "tuned") as tuned,
                load_generator() as generate,
            ):
                yardsticks = {ECHO: empty, PLAIN: plain, TUNED: tuned}
                return sync_ms, Bench(service, yardsticks, generate).run(plan, say)


if __name__ == "__main__":
    main()
