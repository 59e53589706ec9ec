"""How an installation is: which partitions decide, what waits between the stores, what was recovered last."""

from __future__ import annotations

from dataclasses import dataclass

from vouchsafe.domain.audit import LastAudit
from vouchsafe.domain.partitions import Finding, examine
from vouchsafe.gate.gate import Gate
from vouchsafe.ledger.ledger import Installation, Ledger
from vouchsafe.ledger.recoveries import RecoveryBook, RecoveryNoted
from vouchsafe.service.recover import followed


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """One partition: what is found of it, its epoch by the ledger, how many events wait for the ledger, and how long
    the first of them has, in milliseconds by the gate's clock (0 for none, and where its node is away)."""

    partition: int
    found: Finding
    epoch: int
    waiting_events: int
    lag_ms: int


@dataclass(frozen=True, slots=True)
class Status:
    """An installation as it is now; `recovery` and `audit` are the last ones, None when there never was one.
    `set_aside` counts what the ledger could not take over."""

    installation: str
    partitions: tuple[PartitionStatus, ...]
    recovery: RecoveryNoted | None
    audit: LastAudit | None
    set_aside: int

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
    seen = await followed(ledger, installation.partitions, await gate.inspect())
    now_ms = gate.clock.now_ms()
    for state, one, outbox in zip(installation.partitions, seen, await gate.outboxes(), strict=True):
        # Its node may have gone in between.
        found = examine(installation.id, state, None if outbox is None else one)
        length, first = outbox or (0, None)
        # Another release may have opened it for functions of its own.
        found = Finding.OPEN if found is Finding.UNOPENED else found
        lag_ms = 0 if first is None else max(0, now_ms - first.ms)
        partitions.append(PartitionStatus(state.partition, found, state.epoch, length, lag_ms))
    return Status(
        installation.id,
        tuple(partitions),
        await RecoveryBook(ledger).last(),
        await ledger.last_audit(),
        await ledger.count_set_aside(),
    )
