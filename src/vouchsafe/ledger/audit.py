"""The gate's counters beside the events, in PostgreSQL: it adds up and compares, and only what differs comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count, groupby
from typing import Any

import asyncpg

from vouchsafe.domain.audit import CounterDiffers, CountersRead, RowsDiffer, SetAside, moments_since
from vouchsafe.domain.redemption import STREAM_START, Event
from vouchsafe.ledger.bodies import columns
from vouchsafe.ledger.connection import connected, domain_errors, dropped_when_cancelled
from vouchsafe.ledger.queries import SQL

CAMPAIGNS_PER_PAGE = 10_000
COUNTERS_PER_PAGE = 500
# Of so many of a kind it is told how they differ; a campaign that was lost would fill the memory.
SHOWN = 100


class Book:
    """An audit's session with the ledger, for one partition at a time: `begin` it, add what the gate has, compare. With
    `campaign_id` only that campaign is looked at. Every method raises Unavailable; there is no bound on its time."""

    def __init__(self, connection: asyncpg.Connection, campaign_id: str | None) -> None:
        self._connection = connection
        self._campaign_id = campaign_id
        self._partition = 0
        self._numbers = count()

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, timeout_ms: int, campaign_id: str | None) -> AsyncIterator[Book]:
        """A book over a connection of its own, made within the timeout; leaving forgets everything that was added."""
        async with connected(url, timeout_ms / 1000) as connection:
            with domain_errors(), dropped_when_cancelled(connection):
                await connection.execute(SQL["audit_begin"])
            yield cls(connection, campaign_id)

    async def campaigns(self) -> list[str]:
        """The ids of all campaigns that are to be looked at and exist."""
        found: list[str] = []
        after = ""
        while page := await self._fetch("audit_campaigns", after, CAMPAIGNS_PER_PAGE):
            found += [row["id"] for row in page]
            after = found[-1]
        return [id_ for id_ in found if self._campaign_id in (None, id_)]

    async def begin(self, partition: int) -> None:
        """Begins with a partition."""
        self._partition = partition
        await self._fetch("audit_begin_partition")

    async def add_counters(self, read: CountersRead) -> None:
        """Counters as the gate had them."""
        rows = [
            _counter_row(counter, value, moments_since(counter, read.now_ms)) for counter, value in read.values.items()
        ]
        partition, epoch, stream_id = read.position
        place = (next(self._numbers), partition, epoch, *stream_id, read.campaign_id)
        await self._fetch("audit_add_counters", *place, *_transposed(rows, 3), *_transposed(read.parts, 2))

    async def add_events(self, events: Sequence[Event]) -> None:
        """Events that waited in the outbox, at least one. The ledger may hold them by now."""
        partition = events[0].position.partition
        await self._fetch("audit_add_events", partition, *columns(partition, STREAM_START, events))

    async def not_read(self) -> AsyncIterator[tuple[str, list[str]]]:
        """Counters that were not added, though by the book they are not zero: some of a campaign at a time."""
        await self._fetch("audit_note_not_read", self._partition, self._campaign_id)
        after = ("", "")
        while page := await self._fetch("audit_not_read", *after, COUNTERS_PER_PAGE):
            for campaign_id, rows in groupby(page, key=lambda row: row["campaign_id"]):
                yield campaign_id, [row["field"] for row in rows]
            after = (page[-1]["campaign_id"], page[-1]["field"])

    async def counters_differ(self) -> tuple[int, list[CounterDiffers]]:
        """How many of the counters that were added differ from the book, and the first of them."""
        await self._fetch("audit_analyze")
        rows = await self._fetch("audit_differing", self._partition, SHOWN)
        found = [CounterDiffers(row["campaign_id"], row["counter"], row["gate"], row["book"]) for row in rows]
        return (rows[0]["differing"] if rows else 0), found

    async def count_events(self) -> int:
        """How many events there are."""
        ((found,),) = await self._fetch("audit_events", self._partition, self._campaign_id)
        return int(found)

    async def rows_differ(self) -> list[RowsDiffer]:
        """The first tables and campaigns of which the ledger has more or fewer rows than events, in all partitions."""
        return [RowsDiffer(**row) for row in await self._fetch("audit_rows", self._campaign_id, SHOWN)]

    async def set_aside(self, partitions: Sequence[int]) -> tuple[int, list[SetAside]]:
        """How many entries of these outboxes were set aside, and the first of them."""
        rows = await self._fetch("audit_set_aside", partitions, SHOWN)
        found = [SetAside(row["partition"], row["epoch"], row["entry"], row["reason"]) for row in rows]
        return (rows[0]["entries"] if rows else 0), found

    async def _fetch(self, query: str, *args: object) -> list[asyncpg.Record]:
        with domain_errors(), dropped_when_cancelled(self._connection):
            return await self._connection.fetch(SQL[query], *args)


def _counter_row(counter: str, value: str, since_ms: int | None) -> tuple[str, str, int | None]:
    """As it is compared: none is zero, and only the moments that count, in order."""
    if since_ms is None:
        return counter, value or "0", None
    counting = [word for word in value.split() if not word.isdecimal() or int(word) > since_ms]
    return counter, " ".join(sorted(counting)), since_ms


def _transposed(rows: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    """The rows column by column."""
    return [[row[index] for row in rows] for index in range(width)]
