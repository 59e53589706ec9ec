"""The audit again and again, by one of the persisters at a time, so that drift is noticed without anybody asking."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from vouchsafe.domain.audit import Audit
from vouchsafe.ledger.connection import AUDIT_LOCK
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.service.persist import Outages, until_stopped

log = structlog.get_logger()

# So often in an interval it is looked whether an audit is due; one that was cut off is tried again then.
TURNS = 10


async def audit_forever(
    ledger: Ledger, audit: Callable[[], Awaitable[Audit]], interval_ms: int, stop: asyncio.Event
) -> None:
    """Audits whenever no audit has ended within the interval, until `stop` is set; with 0 never."""
    if interval_ms:
        await until_stopped(stop, _audit_by_turns(ledger, audit, interval_ms))


async def _audit_by_turns(ledger: Ledger, audit: Callable[[], Awaitable[Audit]], interval_ms: int) -> None:
    outages = Outages("audit")
    while True:
        try:
            if await ledger.is_audit_due(interval_ms):
                await _audit_alone(ledger, audit, interval_ms)
            outages.end("audit")
        except Exception as error:  # noqa: BLE001  # an audit that fails must not stop the persister
            outages.begin("audit", error)
        await asyncio.sleep(interval_ms / 1000 / TURNS)


async def _audit_alone(ledger: Ledger, audit: Callable[[], Awaitable[Audit]], interval_ms: int) -> None:
    """Audits, unless another persister does or has just done so."""
    async with ledger.partition_locks() as locks:
        if not await locks.try_lock(AUDIT_LOCK) or not await ledger.is_audit_due(interval_ms):
            return
        began = time.monotonic()
        found = await audit()
        await ledger.save_audit(found, round((time.monotonic() - began) * 1000))
    looked_at = {"campaigns": found.campaigns, "counters": found.counters, "events": found.events}
    if found.agrees:
        log.info("audit: all agree", **looked_at)
        return
    # Numbers only: the names of counters have codes in them, which are secrets.
    log.error(
        "audit: gate and ledger do not agree",
        counters_differ=found.differing,
        tables_differ=len(found.rows_differ),
        closed_partitions=len(found.closed),
        set_aside=found.set_aside,
        what_to_do="run `vouchsafe audit`, which names them",
        **looked_at,
    )
