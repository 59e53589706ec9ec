"""When the ledger is away for long, new uses stop before the store is full: what was begun can still be ended then, and
nothing that was taken is lost.

Every worker looks about once a second; a sale reads one attribute.
"""

from __future__ import annotations

import asyncio

import structlog

from vouchsafe.domain.errors import OutboxFull, Unavailable
from vouchsafe.gate.backlog import BacklogReader, Waiting
from vouchsafe.service.persist import Outages, until_stopped
from vouchsafe.settings import Settings

log = structlog.get_logger()

INTERVAL_S = 1.0
MEMORY_SHARE = 0.85
# What is full opens again below this share of its bounds: else it would open and close with every look.
OPENS_BELOW = 0.95


class Backlog:
    """Whether new uses may be taken. They may until `look` has found otherwise."""

    def __init__(self, reader: BacklogReader, settings: Settings) -> None:
        self._reader = reader
        self._max_entries = settings.outbox_max_entries
        self._max_bytes = settings.outbox_max_bytes
        self._max_age_ms = settings.outbox_max_age_ms
        self._problem = ""

    def check(self) -> None:
        """Raises OutboxFull when no new use may be taken."""
        if self._problem:
            raise OutboxFull(self._problem)

    async def look(self) -> None:
        """Looks at what waits. Raises Unavailable; then what was found before stays true."""
        waiting = await self._reader.read()
        problem = self._problem_of(waiting, OPENS_BELOW if self._problem else 1)
        if problem and not self._problem:
            log.error("new uses are refused", reason=problem, what_to_do="see that a persister runs and has PostgreSQL")
        elif self._problem and not problem:
            log.info("new uses are taken again")
        self._problem = problem

    async def watch(self, stop: asyncio.Event) -> None:
        """Looks about once a second until `stop` is set. A store that goes away is waited for."""
        await until_stopped(stop, self._watch())

    async def _watch(self) -> None:
        outages = Outages("backlog")
        while True:
            try:
                await self.look()
                outages.end("gate")
            except Unavailable as error:
                outages.begin("gate", error)
            await asyncio.sleep(INTERVAL_S)

    def _problem_of(self, waiting: Waiting, share: float) -> str:
        """Which bound is reached, each taken by this share; empty for none."""
        age_ms = max((age_ms for age_ms in waiting.ages_ms if age_ms is not None), default=0)
        if waiting.entries >= self._max_entries * share:
            return f"{waiting.entries:,} events wait for PostgreSQL"
        if waiting.bytes >= self._max_bytes * share:
            return f"events of {waiting.bytes:,} bytes wait for PostgreSQL"
        if age_ms >= self._max_age_ms * share:
            return f"events have been waiting for PostgreSQL for {age_ms // 1000:,} s"
        if waiting.max_memory and waiting.used_memory >= waiting.max_memory * MEMORY_SHARE * share:
            return f"Valkey has used {waiting.used_memory / waiting.max_memory:.0%} of its memory"
        return ""
