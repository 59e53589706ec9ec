"""When Valkey has lost data of its own, and what it may have lost: what the ledger did not hold yet."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from tests.torture.valkeys import PARTITIONS, Valkeys
from vouchsafe.gate.keys import Keys


@dataclass(frozen=True)
class Loss:
    """`at_ms` is when; `since_ms` is for each partition that has lost something the oldest event that waited for the
    ledger then, or when that was looked at. All are milliseconds since 1970."""

    what: str
    at_ms: int
    since_ms: Mapping[int, int]

    @classmethod
    def now(cls, what: str, since_ms: Mapping[int, int], *, later_ms: int = 0) -> Loss:
        """Has just happened, and may go on for so long."""
        return cls(what, time.time_ns() // 1_000_000 + later_ms, since_ms)

    @property
    def lag_ms(self) -> int:
        """How far the ledger was behind, at worst."""
        return max(self.at_ms - ms for ms in self.since_ms.values())

    def may_lack(self, ms: int, partition: int) -> bool:
        """Whether what was decided there and then is possibly lost."""
        return partition in self.since_ms and self.since_ms[partition] <= ms <= self.at_ms


async def waiting(valkeys: Valkeys) -> dict[int, int]:
    """The oldest event of each partition that has not left Valkey, or the time when there is none. What comes later is
    younger, so this may be read before a loss."""
    now_ms = time.time_ns() // 1_000_000
    answers = await valkeys.ask(
        {partition: [("XRANGE", Keys(partition).outbox, "-", "+", "COUNT", 1)] for partition in range(PARTITIONS)}
    )
    return {
        partition: int(entries[0][0].partition(b"-")[0]) if entries else now_ms
        for partition, (entries,) in answers.items()
    }
