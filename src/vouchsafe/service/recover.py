"""Which partitions of the gate may decide, and what is done about the others.

A partition is trusted once it was held against the ledger in the very process of Valkey that answers: after a start, a
failover, FLUSHALL or with data from elsewhere it is closed by itself, because that process knows no token for it.
What is at or ahead of the ledger is opened again under the next epoch; what is empty or behind is rebuilt first.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from vouchsafe.domain.errors import Unavailable
from vouchsafe.domain.partitions import Finding, PartitionSeen, PartitionState, examine
from vouchsafe.gate.gate import Gate
from vouchsafe.ledger.ledger import Installation, Ledger
from vouchsafe.service.rebuild import Lost

log = structlog.get_logger()

# What somebody has to do about partitions that stay closed.
WHAT_TO_DO = {
    Finding.FOREIGN: "Valkey holds the data of another installation than PostgreSQL: correct VOUCHSAFE_VALKEY_URL or "
    "VOUCHSAFE_POSTGRES_URL",
    Finding.LEDGER_BEHIND: "PostgreSQL lacks events that it had taken over: restore a backup that is not older",
    Finding.LOST: "Valkey has lost their data; `vouchsafe persist` rebuilds them, see that it runs",
}


class Recovery:
    """Keeps an installation's partitions open as far as they can be trusted. Any number of processes may do so; one at
    a time changes something. `rebuild` makes partitions anew whose data is lost, and opens them; without it others
    do."""

    def __init__(
        self,
        gate: Gate,
        ledger: Ledger,
        installation: Installation,
        rebuild: Callable[[Lost], Awaitable[None]] | None = None,
    ) -> None:
        self._gate = gate
        self._ledger = ledger
        self._installation = installation
        self._rebuild = rebuild
        self._logged: Mapping[int, Finding] = {}

    async def look(self) -> Mapping[int, Finding]:
        """Opens what may be opened; answers the partitions that are closed, and what was found of them. Raises
        Unavailable when the gate is out of reach; while the ledger is, what it said last counts."""
        try:
            closed = await self._use_what_is_verified(await self._read())
            if any(finding in self.mendable for finding in closed.values()):
                async with self._ledger.recovery_lock() as is_mine:
                    if is_mine:
                        await self._recover()
                closed = await self._use_what_is_verified(await self._read())
        except Unavailable:
            # Whichever store that is: if it is the gate, this raises, too.
            closed = await self._use_what_is_verified(self._installation.partitions)
        self._log(closed)
        return closed

    @property
    def mendable(self) -> set[Finding]:
        """What this does something about; of the rest, somebody has to take care (`WHAT_TO_DO`)."""
        return {Finding.NEW, Finding.AT_OR_AHEAD} | ({Finding.LOST} if self._rebuild else set())

    async def _read(self) -> Sequence[PartitionState]:
        self._installation = await self._ledger.installation() or self._installation
        return self._installation.partitions

    async def _use_what_is_verified(self, states: Sequence[PartitionState]) -> dict[int, Finding]:
        closed: dict[int, Finding] = {}
        for state, seen in zip(states, await self._gate.inspect(), strict=True):
            finding = await use_if_verified(self._gate, self._installation.id, state, seen)
            if finding is not Finding.OPEN:
                self._gate.close_partition(state.partition)
                closed[state.partition] = finding
        return closed

    async def _recover(self) -> None:
        """What was seen before the lock was held may be another's work by now, so it is looked at again."""
        states = await self._read()
        reopened, lost = [], []
        for state, seen in zip(states, await self._gate.inspect(), strict=True):
            if seen is None:
                continue
            match examine(self._installation.id, state, seen):
                case Finding.NEW:
                    await self._open(state, seen)
                case Finding.AT_OR_AHEAD:
                    # Whatever was begun before writes nothing from here on, neither there nor here.
                    begun = await self._ledger.begin_epoch(state, seen.epoch, seen.last)
                    if begun is not None and await self._open(begun, seen):
                        reopened.append(state.partition)
                case Finding.LOST:
                    lost.append((state, seen))
                case _:
                    pass
        if reopened:
            number = await self._ledger.begin_recovery(reopened, Finding.AT_OR_AHEAD)
            await self._ledger.note_recovery(number, 0, has_ended=True)
            log.warning("opened again what nothing is missing of", partitions=reopened)
        if lost and self._rebuild is not None:
            await self._rebuild(lost)

    async def _open(self, state: PartitionState, seen: PartitionSeen) -> bool:
        """In this order: a partition that sells is one that the ledger knows to have been opened."""
        if not await self._gate.open_partition(seen, self._installation.id, state.epoch):
            return False
        if not state.opened:
            await self._ledger.mark_opened(state.partition, state.epoch)
        return True

    def _log(self, closed: Mapping[int, Finding]) -> None:
        if closed != self._logged:
            for finding, what_to_do in WHAT_TO_DO.items():
                partitions = [partition for partition, found in closed.items() if found is finding]
                if partitions:
                    log.error("partitions are closed", partitions=partitions, found=finding, what_to_do=what_to_do)
        self._logged = closed


async def use_if_verified(gate: Gate, installation: str, state: PartitionState, seen: PartitionSeen | None) -> Finding:
    """Uses a partition if it is open by what was seen, or can be without another look at its data."""
    finding = examine(installation, state, seen)
    if seen is None:
        return finding
    if finding is Finding.UNOPENED and await gate.open_partition(seen, installation, seen.epoch):
        finding = Finding.OPEN
    if finding is Finding.OPEN:
        gate.use_partition(state.partition, installation, seen.epoch)
    return finding
