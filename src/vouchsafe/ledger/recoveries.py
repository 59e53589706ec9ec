"""The recoveries of partitions: who may make one, and what is noted of each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from vouchsafe.ledger.connection import ENDED_SOON, RECOVERY_LOCK, connected
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.ledger.locks import PartitionLocks
from vouchsafe.ledger.rows import milliseconds


@dataclass(frozen=True, slots=True)
class RecoveryNoted:
    """A recovery of partitions: what was found of them, when it began and ended (milliseconds since 1970 UTC; None: it
    is under way, or was cut off), and of a rebuild how many events there are and how many are read."""

    partitions: tuple[int, ...]
    finding: str
    begin_time_ms: int
    end_time_ms: int | None
    events: int | None
    events_read: int


class RecoveryBook:
    """Every method raises Unavailable when PostgreSQL is out of reach."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    @asynccontextmanager
    async def lock(self) -> AsyncIterator[bool]:
        """Whether this is the only process that recovers partitions, for as long as the context is entered."""
        async with connected(self._ledger.url, self._ledger.timeout_s, ENDED_SOON) as connection:
            yield await PartitionLocks(connection, self._ledger.timeout_s).try_lock(RECOVERY_LOCK)

    async def begin(self, partitions: Sequence[int], finding: str, events: int | None = None) -> int:
        """Notes that partitions are being recovered; answers the number of the note."""
        return int(await self._ledger.fetchval("begin_recovery", partitions, finding, events))

    async def last(self) -> RecoveryNoted | None:
        """The newest recovery, which may be under way; None when there never was one."""
        row = await self._ledger.fetchrow("last_recovery")
        if row is None:
            return None
        began_at, ended_at = row["began_at"], row["ended_at"]
        return RecoveryNoted(
            tuple(row["partitions"]),
            row["finding"],
            milliseconds(began_at),
            None if ended_at is None else milliseconds(ended_at),
            row["events"],
            row["events_read"],
        )

    async def note(self, number: int, events_read: int, *, has_ended: bool) -> None:
        """Notes how far a recovery is."""
        await self._ledger.fetchval("note_recovery", number, events_read, has_ended)
