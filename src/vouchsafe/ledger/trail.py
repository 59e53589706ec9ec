"""The audit trail in the ledger: listed, and walked from its begin to its end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import asyncpg

from vouchsafe.domain.trail import AuditEvent, Link, Note, TrailFilter
from vouchsafe.ledger.connection import (
    connected,
    domain_errors,
    dropped_when_cancelled,
    in_time,
    transaction,
)
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.ledger.migrate import check_schema
from vouchsafe.ledger.notes import note_actions
from vouchsafe.ledger.queries import SQL
from vouchsafe.ledger.rows import milliseconds, time_of

ROWS_PER_READ = 1_000
# Behind every row that there will be.
NO_NUMBER = 2**63 - 1


class TrailBook:
    """What the ledger knows of what operators did. Every method answers within the timeout or raises Unavailable."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def note(self, note: Note) -> None:
        """Notes what is done outside of the ledger."""
        async with self._ledger.connection() as connection, transaction(connection):
            await note_actions(connection, note)

    async def list(self, wanted: TrailFilter, limit: int, before: int | None) -> list[AuditEvent]:
        """At most `limit` actions, newest first, from before that number on (None: from the newest)."""
        conditions, values = ["number < $1"], list[object]((NO_NUMBER if before is None else before, limit))
        for condition, value in (
            ("principal =", wanted.principal),
            ("action =", wanted.action),
            ("target =", wanted.target),
            ("at >=", None if wanted.start_time_ms is None else time_of(wanted.start_time_ms)),
            ("at <", None if wanted.end_time_ms is None else time_of(wanted.end_time_ms)),
        ):
            if value is not None:
                values.append(value)
                conditions.append(f"{condition} ${len(values)}")
        # Written out, so that PostgreSQL sees which of its indexes serve.
        query = SQL["list_audit_events"].replace("number < $1", " and ".join(conditions))
        async with self._ledger.connection() as connection:
            return [_event(row) for row in await connection.fetch(query, *values)]


class Head(NamedTuple):
    """Where the chain ends, as the ledger says."""

    number: int
    hash: bytes


class Walk:
    """The chain as of one moment, over a connection of its own."""

    def __init__(self, connection: asyncpg.Connection, head: Head) -> None:
        self._connection = connection
        self.head = head

    @classmethod
    @asynccontextmanager
    async def begin(cls, url: str, timeout_ms: int) -> AsyncIterator[Walk]:
        """As long as the context is entered. Raises Unavailable and Misconfigured."""
        timeout_s = timeout_ms / 1000
        async with connected(url, timeout_s) as connection:
            async with in_time(connection, timeout_s):
                await check_schema(connection)
                await connection.execute("begin isolation level repeatable read, read only")
                row = await connection.fetchrow(SQL["audit_head"])
            yield cls(connection, Head(*row) if row else Head(0, b""))

    async def links(self) -> AsyncGenerator[Link, None]:
        """All of them, in order; memory holds some at a time. Raises Unavailable; there is no bound on its time."""
        with domain_errors(), dropped_when_cancelled(self._connection):
            async for row in self._connection.cursor(SQL["walk_audit_events"], prefetch=ROWS_PER_READ):
                yield Link(*row)


def _event(row: asyncpg.Record) -> AuditEvent:
    return AuditEvent(row["number"], milliseconds(row["at"]), *row[2:])
