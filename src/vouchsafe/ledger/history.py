"""Reads back what the ledger holds, for a gate that has lost it: over a connection of its own, a piece at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from vouchsafe.domain.campaign import Campaign, CodeEntry
from vouchsafe.domain.redemption import CombinedClaim, Position, StreamId
from vouchsafe.ledger.connection import connected, domain_errors, dropped_when_cancelled
from vouchsafe.ledger.queries import SQL
from vouchsafe.ledger.rows import campaign_of, code_of, milliseconds

EVENTS_PER_PIECE = 5_000
ROWS_PER_PIECE = 1_000
# Spread over all partitions, so that each call still writes some.
CODES_PER_PIECE = 10_000


@dataclass(frozen=True, slots=True)
class CampaignKept:
    """A campaign as the ledger defines it, why it is paused by its last event, when that ends by itself (milliseconds
    since 1970 UTC) if it does, the plan whose pause it is, if any, and the last turn that it has taken, if any."""

    campaign: Campaign
    pause_reason: str
    resume_time_ms: int | None
    pause_plan: str | None
    turn: int | None


@dataclass(frozen=True, slots=True)
class PartMissing:
    """A redemption that was decided, and the code of it of which there is no event."""

    position: Position
    claim: CombinedClaim
    code: str


@dataclass(frozen=True, slots=True)
class DisabledCodes:
    """The codes of a campaign that are disabled, and why each is."""

    campaign_id: str
    reasons: dict[str, str]


class History:
    """Every method raises Unavailable when PostgreSQL is out of reach."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, timeout_ms: int) -> AsyncIterator[History]:
        """A session of its own, as long as the context is entered."""
        async with connected(url, timeout_ms / 1000) as connection:
            history = cls(connection)
            with domain_errors():
                await connection.execute(SQL["history_begin"])
            yield history

    async def count_events(self, partitions: Collection[int]) -> int:
        """How many events of these partitions there are to read."""
        ((found,),) = await self._fetch("history_count", list(partitions))
        return int(found)

    async def events(self, partition: int) -> AsyncIterator[Sequence[asyncpg.Record]]:
        """The events of a partition in the order of its decisions, some at a time: epoch, ms, seq, at_ms, kind,
        campaign id, body."""
        async for piece in self._pieces("history_events", EVENTS_PER_PIECE, partition):
            yield piece

    async def campaigns(self) -> AsyncIterator[list[CampaignKept]]:
        """All campaigns, some at a time."""
        async for piece in self._pieces("history_campaigns", ROWS_PER_PIECE):
            yield list(map(_kept, piece))

    async def codes(self) -> AsyncIterator[list[CodeEntry]]:
        """All codes, some at a time."""
        async for piece in self._pieces("history_codes", CODES_PER_PIECE):
            yield [code_of(row) for row in piece]

    async def disabled_codes(self) -> AsyncIterator[DisabledCodes]:
        """The codes that are disabled, by the last event of each, campaign by campaign."""
        campaign_id, reasons = "", dict[str, str]()
        async for piece in self._pieces("history_disabled_codes", ROWS_PER_PIECE):
            for row in piece:
                if row["campaign_id"] != campaign_id and reasons:
                    yield DisabledCodes(campaign_id, reasons)
                    reasons = {}
                campaign_id = row["campaign_id"]
                reasons[row["code"]] = row["disabled_reason"]
        if reasons:
            yield DisabledCodes(campaign_id, reasons)

    async def unfinished_rollbacks(self) -> list[tuple[Position, bytes]]:
        """Rollbacks of which something has not come back, each with the body of its event."""
        rows = await self._fetch("history_unfinished_rollbacks")
        return [(_position(row), row["body"]) for row in rows]

    async def missing_parts(self, since_ms: int = 0) -> list[PartMissing]:
        """The codes of redemptions of several codes, decided since then, that have no event of their own."""
        rows = await self._fetch("history_missing_parts", since_ms)
        return [PartMissing(_position(row), CombinedClaim.from_json(row["body"]), row["code"]) for row in rows]

    async def _fetch(self, query: str, *args: object) -> list[asyncpg.Record]:
        with domain_errors(), dropped_when_cancelled(self._connection):
            return await self._connection.fetch(SQL[query], *args)

    async def _pieces(self, query: str, size: int, *args: object) -> AsyncIterator[list[asyncpg.Record]]:
        with domain_errors(), dropped_when_cancelled(self._connection):
            async with self._connection.transaction(readonly=True):
                cursor = await self._connection.cursor(SQL[query], *args)
                following = asyncio.ensure_future(cursor.fetch(size))
                try:
                    while piece := await following:
                        # PostgreSQL reads on while the caller works.
                        following = asyncio.ensure_future(cursor.fetch(size))
                        yield piece
                finally:
                    following.cancel()
                    await asyncio.gather(following, return_exceptions=True)


def _kept(row: asyncpg.Record) -> CampaignKept:
    resume_at = row["resume_at"]
    resume_time_ms = None if resume_at is None else milliseconds(resume_at)
    return CampaignKept(campaign_of(row), row["pause_reason"], resume_time_ms, row["pause_plan"], row["turn"])


def _position(row: asyncpg.Record) -> Position:
    return Position(row["partition"], row["epoch"], StreamId(row["ms"], row["seq"]))
