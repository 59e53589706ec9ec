"""How an installation is: which partitions decide, what waits between the stores, what was recovered last."""

from __future__ import annotations

from dataclasses import dataclass

from vouchsafe.domain.partitions import Finding, examine
from vouchsafe.gate.gate import Gate
from vouchsafe.ledger.ledger import Installation, Ledger, RecoveryNoted


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """One partition: what is found of it, its epoch by the ledger, how many events wait for the ledger, and how long
    the first of them has, in milliseconds by the gate's clock (0 for none)."""

    partition: int
    found: Finding
    epoch: int
    waiting_events: int
    lag_ms: int


@dataclass(frozen=True, slots=True)
class Status:
    """An installation as it is now; `recovery` is the last one, None when there never was one."""

    installation: str
    partitions: tuple[PartitionStatus, ...]
    recovery: RecoveryNoted | None

    @property
    def closed(self) -> tuple[PartitionStatus, ...]:
        """The partitions that decide nothing."""
        return tuple(one for one in self.partitions if one.found is not Finding.OPEN)

    @property
    def waiting_events(self) -> int:
        """How many events the ledger does not hold yet."""
        return sum(one.waiting_events for one in self.partitions)

    @property
    def lag_ms(self) -> int:
        """How long the first of them has been waiting."""
        return max((one.lag_ms for one in self.partitions), default=0)


async def look(gate: Gate, ledger: Ledger, installation: Installation) -> Status:
    """Looks at both stores and changes nothing. Raises Unavailable."""
    partitions = []
    seen = await gate.inspect()
    now_ms = gate.clock.now_ms()
    for state, one, (length, first) in zip(installation.partitions, seen, await gate.outboxes(), strict=True):
        found = examine(installation.id, state, one)
        # Another release may have opened it for functions of its own.
        found = Finding.OPEN if found is Finding.UNOPENED else found
        lag_ms = 0 if first is None else max(0, now_ms - first.ms)
        partitions.append(PartitionStatus(state.partition, found, state.epoch, length, lag_ms))
    return Status(installation.id, tuple(partitions), await ledger.last_recovery())
