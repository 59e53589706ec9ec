"""What a redemption costs while everything else grows: `python -m benchmarks.growth`.

Campaigns, codes, lines of the order, partitions and workers, one after the other: of each, services of several sizes
are sent the same batches in turn, and what is compared is the CPU that worker and Valkey spend on a redemption.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from benchmarks.chart import Bar, bars
from benchmarks.filling import enter_campaigns, enter_codes
from benchmarks.generator import Order, Round
from benchmarks.message import DEFINITION, LINES
from benchmarks.pages import publish, table_of
from benchmarks.processes import ended_plainly, load_generator
from benchmarks.service import Service
from benchmarks.sides import Side
from vouchsafe.domain.errors import VouchsafeError

CHART = "growth.svg"
PARTS = ("server", "Valkey")
AT_ONCE = 8  # batches of 64
# Campaigns that are redeemed, as many as the fewest, with a code each.
REDEEMED = 10
# The same where partitions are compared: enough that most of them have some.
SPREAD = 64
# Codes that are redeemed, however many others there are; each may be used often, so that they are enough.
CODES = 10_000
USES = 1_000
# How much dearer a redemption may be among the most campaigns and codes than among the fewest.
MAX_RATIO = 1.2
BOUNDED = ("campaigns", "codes")

Generate = Callable[[Order], Round]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long a run takes, and how far things grow."""

    rounds: int
    seconds: float
    campaigns: Sequence[int]
    codes: Sequence[int]
    lines: Sequence[int] = (1, 10, 100)
    partitions: Sequence[int] = (1, 4, 16, 64)
    workers: Sequence[int] = (1, 2)


USUAL = Plan(rounds=9, seconds=1.5, campaigns=(10, 10_000, 100_000), codes=(10_000, 1_000_000, 10_000_000))
QUICK = Plan(rounds=2, seconds=0.7, campaigns=(10, 1_000), codes=(10_000, 20_000), partitions=(1, 16))


class Cost(NamedTuple):
    """CPU microseconds for a redemption."""

    server: float
    valkey: float


class Case:
    """One size: a service and what is sent to it."""

    def __init__(self, count: int, side: Side, codes: Sequence[str], lines: int = LINES) -> None:
        self.count = count
        self.costs: list[Cost] = []
        self._side = side
        self._codes = codes
        self._lines = lines

    def round(self, generate: Generate, seconds: float) -> Cost:
        """Sends as many batches as it takes. Raises VouchsafeError unless every item was redeemed."""
        side = self._side
        order = Order(side.target, side.api_key, self._codes, seconds, at_once=AT_ONCE, way="batch", lines=self._lines)
        redeemed, before = side.redeemed(), side.cpu_s()
        done = generate(order)
        side.settle()
        spent = side.cpu_s()
        if (count := side.redeemed() - redeemed) != done.items:
            raise VouchsafeError(f"{count} of {done.items} were redeemed, so the round says nothing")
        return Cost(*((spent[part] - before[part]) / done.items * 1e6 for part in PARTS))


@dataclass(frozen=True, slots=True)
class Grown:
    """What was found of one size. The ratios are to the first size, round by round."""

    what: str
    count: int
    server_us: float
    valkey_us: float
    ratios: Sequence[float]

    @property
    def ratio(self) -> float:
        """The one in the middle."""
        return statistics.median(self.ratios)


def compare(what: str, cases: Sequence[Case], plan: Plan, generate: Generate) -> list[Grown]:
    """All sizes in turn, none of them always behind the same."""
    for case in cases:
        case.round(generate, plan.seconds)
    for number in range(plan.rounds):
        for case in cases if number % 2 else reversed(cases):
            case.costs.append(case.round(generate, plan.seconds))
    return [_grown(what, case, cases[0].costs) for case in cases]


def _grown(what: str, case: Case, first: Sequence[Cost]) -> Grown:
    server_us, valkey_us = (statistics.median(values) for values in zip(*case.costs, strict=True))
    ratios = [sum(cost) / sum(base) for cost, base in zip(case.costs, first, strict=True)]
    return Grown(what, case.count, server_us, valkey_us, ratios)


class Growth:
    """What is compared, one thing after the other; each has services of its own."""

    def __init__(self, plan: Plan, directory: Path, generate: Generate, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._directory = directory
        self._generate = generate
        self._say = say

    def run(self) -> list[Grown]:
        """Everything that is measured."""
        plan = self._plan
        return [
            *self._compare("campaigns", self._campaigns, plan.campaigns),
            *self._compare("codes", self._codes, plan.codes),
            *self._compare("lines", self._lines, plan.lines),
            *self._compare("partitions", self._partitions, plan.partitions),
            *self._compare("workers", self._workers, plan.workers),
        ]

    def _compare(
        self, what: str, started: Callable[[Sequence[int], ExitStack], Iterator[Case]], counts: Sequence[int]
    ) -> list[Grown]:
        with ExitStack() as stack:
            cases = []
            for case in started(counts, stack):
                self._say(f"{case.count:,} {what}: ready")
                cases.append(case)
            self._say(f"{what}: {self._plan.rounds} rounds")
            return compare(what, cases, self._plan, self._generate)

    def _service(self, stack: ExitStack, name: str, workers: int = 1) -> Service:
        return stack.enter_context(Service(self._directory / name, workers=workers))

    def _campaigns(self, counts: Sequence[int], stack: ExitStack) -> Iterator[Case]:
        for count in counts:
            service = self._service(stack, f"campaigns-{count}")
            case = created(service, REDEEMED, count)
            asyncio.run(enter_campaigns(service.settings, count - REDEEMED, DEFINITION))
            yield case

    def _codes(self, counts: Sequence[int], stack: ExitStack) -> Iterator[Case]:
        for count in counts:
            service = self._service(stack, f"codes-{count}")
            side = create(service, 1)
            codes = asyncio.run(enter_codes(service.settings, name_of(0), count, USES, CODES / count))
            yield Case(count, side, codes)

    def _lines(self, counts: Sequence[int], stack: ExitStack) -> Iterator[Case]:
        service = self._service(stack, "lines")
        side = create(service, REDEEMED)
        for count in counts:
            yield Case(count, side, [code_of(number) for number in range(REDEEMED)], lines=count)

    def _partitions(self, counts: Sequence[int], stack: ExitStack) -> Iterator[Case]:
        for count in counts:
            with setting("partitions", count):
                service = self._service(stack, f"partitions-{count}")
            yield created(service, SPREAD, count)

    def _workers(self, counts: Sequence[int], stack: ExitStack) -> Iterator[Case]:
        for count in counts:
            yield created(self._service(stack, f"workers-{count}", workers=count), REDEEMED, count)


def name_of(number: int) -> str:
    """The id of a campaign that is redeemed."""
    return f"bench-{number:02}"


def code_of(number: int) -> str:
    """Its code."""
    return f"BENCH-{number:02}"


def create(service: Service, count: int) -> Side:
    """Creates campaigns to redeem, with a code each."""
    for number in range(count):
        service.create_campaign(name_of(number), code_of(number))
    return service.side([name_of(number) for number in range(count)])


def created(service: Service, campaigns: int, count: int) -> Case:
    """So many campaigns are redeemed in turn."""
    return Case(count, create(service, campaigns), [code_of(number) for number in range(campaigns)])


@contextlib.contextmanager
def setting(name: str, value: object) -> Iterator[None]:
    """What services that are started meanwhile are told."""
    variable = f"VOUCHSAFE_{name.upper()}"
    os.environ[variable] = str(value)
    try:
        yield
    finally:
        del os.environ[variable]


COLUMNS = ("of", "how many", "worker, µs", "Valkey, µs", "ratio", "rounds")


def rows(found: Sequence[Grown]) -> list[list[str]]:
    """As text, in the order of COLUMNS."""
    return [
        [
            one.what,
            f"{one.count:,}",
            f"{one.server_us:.1f}",
            f"{one.valkey_us:.1f}",
            f"{one.ratio:.2f}",
            f"{min(one.ratios):.2f}-{max(one.ratios):.2f}",
        ]
        for one in found
    ]


def chart(found: Sequence[Grown]) -> str:
    """A picture: a group for each thing that grows."""
    groups: dict[str, list[Bar]] = {}
    for one in found:
        parts = one.server_us, one.valkey_us
        groups.setdefault(one.what, []).append(Bar(f"{one.count:,}", parts, f"{sum(parts):.0f} µs"))
    return bars("CPU of a redemption", groups, legend=("worker", "Valkey"))


def main() -> int:
    """Prints the table; 1 when campaigns or codes make one redemption more than a fifth dearer."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few and small, to see whether it runs")
    parser.add_argument("--publish", action="store_true", help="put table and chart into docs/performance.md as well")
    options = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    started = time.monotonic()

    def say(text: str) -> None:
        console.print(f"{time.monotonic() - started:6.1f} s  {text}")

    with (
        ended_plainly("growth"),
        tempfile.TemporaryDirectory(prefix="vouchsafe-growth-") as name,
        load_generator() as generate,
    ):
        found = Growth(QUICK if options.quick else USUAL, Path(name), generate, say).run()
    table = table_of(COLUMNS, rows(found), texts=1)
    console.print(table)
    console.print(f"load average {', '.join(f'{one:.1f}' for one in os.getloadavg())} on {os.cpu_count()} cores")
    if options.publish:
        publish("growth", table, CHART, chart(found))
    too_dear = [one for one in found if one.what in BOUNDED and one.ratio > MAX_RATIO]
    for one in too_dear:
        console.print(f"{one.count:,} {one.what} make a redemption {one.ratio:.2f} times as dear")
    return 1 if too_dear else 0


if __name__ == "__main__":
    sys.exit(main())
