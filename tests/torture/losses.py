"""When Valkey has lost data of its own, and what it may have lost: what the ledger did not hold yet."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from vouchsafe.gate.connection import Connection
from vouchsafe.gate.keys import Keys
from vouchsafe.settings import Settings


@dataclass(frozen=True)
class Loss:
    """`at_ms` is when; `since_ms` is for each partition the oldest event that waited for the ledger then, or when that
    was looked at. All are milliseconds since 1970."""

    what: str
    at_ms: int
    since_ms: Mapping[int, int]

    @classmethod
    def now(cls, what: str, since_ms: Mapping[int, int]) -> Loss:
        """Has just happened."""
        return cls(what, time.time_ns() // 1_000_000, since_ms)

    @property
    def lag_ms(self) -> int:
        """How far the ledger was behind, at worst."""
        return max(self.at_ms - ms for ms in self.since_ms.values())

    def may_lack(self, ms: int, partition: int | None = None) -> bool:
        """Whether what was decided then is possibly lost; with None, in whichever partition."""
        since_ms = min(self.since_ms.values()) if partition is None else self.since_ms[partition]
        return since_ms <= ms <= self.at_ms


async def waiting(settings: Settings) -> dict[int, int]:
    """The oldest event of each partition that has not left Valkey, or the time when there is none. What comes later is
    younger, so this may be read before a loss."""
    now_ms = time.time_ns() // 1_000_000
    connection = Connection(settings.valkey_url, 10_000)
    partitions = range(settings.partitions)
    commands = [("XRANGE", Keys(partition).outbox, "-", "+", "COUNT", 1) for partition in partitions]
    try:
        replies = await connection.execute(commands)
    finally:
        await connection.close()
    return {
        partition: int(entries[0][0].partition(b"-")[0]) if entries else now_ms
        for partition, entries in zip(partitions, replies, strict=True)
    }
