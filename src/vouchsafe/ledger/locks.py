"""Who may follow which partition: advisory locks that end with their connection."""

from __future__ import annotations

import asyncpg

from vouchsafe.domain.errors import Unavailable
from vouchsafe.ledger.connection import LOCK_SPACE, in_time
from vouchsafe.ledger.queries import SQL


class PartitionLocks:
    """The partitions that one session holds. One task at a time may use it.

    A lock keeps two persisters from doing the same work; it is the compare-and-set of the offset that keeps the ledger
    right. The connection must reach PostgreSQL itself, not a pooler that hands sessions round.
    """

    def __init__(self, connection: asyncpg.Connection, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s

    async def try_lock(self, partition: int) -> bool:
        """Takes the partition unless another session has it. Raises Unavailable."""
        return await self._ask("try_lock", partition)

    async def unlock(self, partition: int) -> None:
        """Gives the partition back. Raises Unavailable."""
        await self._ask("unlock", partition)

    async def alive(self) -> bool:
        """Whether the session, and so everything it holds, is still there."""
        try:
            async with in_time(self._connection, self._timeout_s):
                await self._connection.fetchval("select 1")
        except Unavailable:
            return False
        return True

    async def _ask(self, query: str, partition: int) -> bool:
        async with in_time(self._connection, self._timeout_s):
            return bool(await self._connection.fetchval(SQL[query], LOCK_SPACE, partition))
