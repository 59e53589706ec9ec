"""The audit at the end of a load: whatever happened, the counters are the sum of the events."""

from __future__ import annotations

import asyncio

from vouchsafe import app
from vouchsafe.local import LocalService

SETTLE_S = 120.0


async def audited(service: LocalService) -> bool:
    """Whether every counter is the sum of the events, once all are in the ledger. Raises TimeoutError."""
    patient = service.settings.model_copy(update={"ledger_timeout_ms": 60_000})
    async with asyncio.timeout(SETTLE_S):
        while (await app.status(patient)).waiting_events:  # noqa: ASYNC110  # nobody signals what is looked at
            await asyncio.sleep(0.1)
    return (await app.audit(patient, None, lambda _: None)).agrees
