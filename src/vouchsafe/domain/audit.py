"""What an audit reads and what it finds. The gate's counters are held against the book: the events in the ledger and in
the outbox, and the parts of transactions that no event tells of yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vouchsafe.domain.redemption import Position


@dataclass(frozen=True, slots=True)
class CountersRead:
    """Some counters of a campaign as they were in the gate at one moment: behind the event at `position` and before the
    next. `values` are as the gate keeps them, '' for a counter that it lacks. `parts` are those of transactions that
    count and have no event yet: when each was taken, and the body of its event to come."""

    campaign_id: str
    position: Position
    now_ms: int
    values: Mapping[str, str]
    parts: Sequence[tuple[int, str]]


@dataclass(frozen=True, slots=True)
class CounterDiffers:
    """A counter of which the gate says something else than the book."""

    campaign_id: str
    counter: str
    gate: str
    book: str


@dataclass(frozen=True, slots=True)
class RowsDiffer:
    """A table of the ledger that has more or fewer rows of a campaign than there are events to draw them from."""

    campaign_id: str
    table: str
    rows: int
    events: int


@dataclass(frozen=True, slots=True)
class SetAside:
    """An entry of an outbox ("<ms>-<seq>") that was no event, or none that the ledger could take."""

    partition: int
    epoch: int
    entry: str
    reason: str


@dataclass(slots=True)
class Audit:
    """What was held against each other, and what does not agree. `differing` counts all counters that differ;
    `counters_differ` has the first of them in each partition. `set_aside` counts what was set aside (of one campaign:
    in its partition); `entries_set_aside` has the first of it. `closed` are partitions that could not be looked at,
    because the gate does not hold what the ledger expects. What is in flight is counted as it should be."""

    campaigns: int = 0
    counters: int = 0
    events: int = 0
    parts_in_flight: int = 0
    rollbacks_in_flight: int = 0
    closed: list[int] = field(default_factory=list)
    differing: int = 0
    counters_differ: list[CounterDiffers] = field(default_factory=list)
    rows_differ: list[RowsDiffer] = field(default_factory=list)
    set_aside: int = 0
    entries_set_aside: list[SetAside] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """Whether gate and book say the same of everything, and the book has everything."""
        return not (self.closed or self.differing or self.rows_differ or self.set_aside)


@dataclass(frozen=True, slots=True)
class LastAudit:
    """What the last scheduled audit found that came to its end, in numbers; times in ms since 1970 UTC."""

    begin_time_ms: int
    end_time_ms: int
    campaigns: int
    counters: int
    events: int
    closed_partitions: int
    counters_differ: int
    tables_differ: int
    set_aside: int


def moments_since(counter: str, now_ms: int) -> int | None:
    """From behind when the moments that a counter `~<span in ms>:…` keeps still count; None for other counters."""
    span = counter[1:].partition(":")[0]
    return now_ms - int(span) if counter[0] == "~" and span.isdecimal() else None
