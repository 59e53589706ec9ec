"""Keeps the metrics of an installation up to date."""

from __future__ import annotations

import asyncio
from math import nan

from vouchsafe import telemetry
from vouchsafe.domain.errors import Unavailable
from vouchsafe.gate.backlog import BacklogReader
from vouchsafe.gate.gate import Gate
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.ledger.plans import PlanBook
from vouchsafe.service.persist import until_stopped

INTERVAL_S = 1.0


async def monitor_forever(gate: Gate, ledger: Ledger, reader: BacklogReader, stop: asyncio.Event) -> None:
    """Measures about once a second until `stop` is set. That a store is away is seen by the metrics."""
    await until_stopped(stop, _monitor(gate, ledger, reader))


async def _monitor(gate: Gate, ledger: Ledger, reader: BacklogReader) -> None:
    while True:
        await asyncio.gather(_measure_gate(gate, reader), _measure_ledger(ledger))
        await asyncio.sleep(INTERVAL_S)


async def _measure_gate(gate: Gate, reader: BacklogReader) -> None:
    opened = 0
    entries = size = nan
    ages_s = [nan] * gate.partitions
    try:
        waiting = await reader.read()
    except Unavailable:
        pass  # what cannot be reached decides nothing
    else:
        opened = gate.opened
        if None not in waiting.ages_ms:
            entries, size = waiting.entries, waiting.bytes
        ages_s = [nan if age_ms is None else age_ms / 1000 for age_ms in waiting.ages_ms]
    telemetry.OUTBOX_EVENTS.set(entries)
    telemetry.OUTBOX_BYTES.set(size)
    for partition, age_s in enumerate(ages_s):
        telemetry.PERSISTER_LAG.labels(partition).set(age_s)
    telemetry.PARTITIONS_OPEN.set(opened)
    telemetry.PARTITIONS_CLOSED.set(gate.partitions - opened)


async def _measure_ledger(ledger: Ledger) -> None:
    set_aside = differ = ended_s = late_s = failed = nan
    try:
        set_aside = await ledger.count_set_aside()
        last = await ledger.last_audit()
        differ, ended_s = (0, 0) if last is None else (last.counters_differ, last.end_time_ms / 1000)
        plans = await PlanBook(ledger).measure()
        late_s, failed = plans.late_s, plans.failed
    except Unavailable:
        pass
    telemetry.PLANNED_CHANGES_LATE.set(late_s)
    telemetry.PLANNED_CHANGES_FAILED.set(failed)
    telemetry.EVENTS_SET_ASIDE.set(set_aside)
    telemetry.AUDIT_DRIFT.set(differ)
    telemetry.AUDIT_LAST_SUCCESS.set(ended_s)
