"""What the figures shall reach: the one place that says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """A bound for a figure of `benchmarks/results/latest.json`."""

    key: str
    bound: float
    is_least: bool
    unit: str = ""

    def reached(self, value: float) -> bool:
        """Whether the value is on the right side, or on the bound."""
        return value >= self.bound if self.is_least else value <= self.bound

    @property
    def wanted(self) -> str:
        """For people."""
        return f"{'at least' if self.is_least else 'at most'} {self.bound:g}{self.unit}"


TARGETS = (
    Target("unary.vs_empty_echo", 0.65, is_least=True),
    Target("unary.cpu_vs_echo", 1.6, is_least=False),
    Target("latency_p99_vs_echo", 3, is_least=False),
    Target("stream.vs_empty_stream", 0.7, is_least=True),
    Target("batch64.vs_valkey_limit", 0.45, is_least=True),
    Target("batch64.server_cpu_us", 25, is_least=False, unit=" µs"),
    Target("vs_postgres_only.unary", 2, is_least=True),
    Target("vs_postgres_only.batch64", 10, is_least=True),
    Target("persist_lag_p99_ms", 300, is_least=False, unit=" ms"),
)


def judged(figures: Mapping[str, float]) -> list[str]:
    """A line for each target, what was missed first. Raises KeyError for a figure that is not there."""
    found = sorted(TARGETS, key=lambda target: target.reached(figures[target.key]))
    return [
        f"{'reached' if target.reached(figures[target.key]) else 'MISSED '}  {target.key}: "
        f"{figures[target.key]:.3g}{target.unit}, {target.wanted} was wanted"
        for target in found
    ]
