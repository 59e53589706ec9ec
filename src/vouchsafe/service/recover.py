"""Which partitions of the gate may decide, and what is done about the others.

A partition is trusted once it was held against the ledger in the very process of Valkey that answers: after a start, a
failover, FLUSHALL or with data from elsewhere it is closed by itself, because that process knows no token for it.
What is at or ahead of the ledger is opened again under the next epoch; what is empty or behind is rebuilt first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import structlog

from vouchsafe.domain.errors import Unavailable
from vouchsafe.domain.partitions import Finding, PartitionSeen, PartitionState, examine, is_ahead_of
from vouchsafe.domain.redemption import STREAM_START
from vouchsafe.gate.gate import Gate
from vouchsafe.ledger.ledger import Installation, Ledger
from vouchsafe.ledger.recoveries import RecoveryBook
from vouchsafe.service.rebuild import Lost, Rebuild, open_verified

log = structlog.get_logger()

# What somebody has to do about partitions that stay closed.
WHAT_TO_DO = {
    Finding.FOREIGN: "Valkey holds the data of another installation than PostgreSQL: correct VOUCHSAFE_VALKEY_URL or "
    "VOUCHSAFE_POSTGRES_URL",
    Finding.LEDGER_BEHIND: "PostgreSQL lacks events that it had taken over: restore a backup that is not older",
    Finding.AT_OR_AHEAD: "Valkey was started anew; `vouchsafe persist` verifies them, see that it runs",
    Finding.LOST: "Valkey has lost their data; `vouchsafe persist` rebuilds them, see that it runs",
}


# Nothing that is decided stays unsettled for longer, but where its partition is closed.
LONGEST_UNSETTLED_MS = 3_600_000


class Recovery:
    """Keeps an installation's partitions open as far as they can be trusted. Any number of processes may do so; one at
    a time changes something. `rebuild` opens partitions again, and makes those anew whose data is lost; without it
    others do. `advance` is called with the events read and all that there are."""

    def __init__(
        self,
        gate: Gate,
        ledger: Ledger,
        installation: Installation,
        rebuild: Rebuild | None = None,
        advance: Callable[[int, int], None] | None = None,
    ) -> None:
        self._gate = gate
        self._ledger = ledger
        self._book = RecoveryBook(ledger)
        self._installation = installation
        self._rebuild = rebuild
        self._advance = advance
        self._logged: Mapping[int, Finding] = {}

    async def look(self) -> Mapping[int, Finding]:
        """Opens what may be opened; answers the partitions that are closed, and what was found of them. Raises
        Unavailable when the gate is out of reach; while the ledger is, what it said last counts."""
        try:
            closed = await self._use_what_is_verified(await self._read())
            if any(finding in self.mendable for finding in closed.values()):
                async with self._book.lock() as is_mine:
                    if is_mine:
                        await self._recover()
                closed = await self._use_what_is_verified(await self._read())
        except Unavailable:
            # Whichever store that is: if it is the gate, this raises, too.
            closed = await self._use_what_is_verified(self._installation.partitions, asks=False)
        self._log(closed)
        return closed

    @property
    def mendable(self) -> set[Finding]:
        """What this does something about; of the rest, somebody has to take care (`WHAT_TO_DO`)."""
        return {Finding.NEW} | ({Finding.AT_OR_AHEAD, Finding.LOST} if self._rebuild else set())

    async def _read(self) -> Sequence[PartitionState]:
        self._installation = await self._ledger.installation() or self._installation
        return self._installation.partitions

    async def _use_what_is_verified(self, states: Sequence[PartitionState], *, asks: bool = True) -> dict[int, Finding]:
        closed: dict[int, Finding] = {}
        inspected = await followed(self._ledger if asks else None, states, await self._gate.inspect())
        epochs = [state.epoch for state in states]
        for state, seen in zip(states, inspected, strict=True):
            finding = await use_if_verified(self._gate, self._installation.id, state, seen, epochs)
            if finding is not Finding.OPEN:
                self._gate.close_partition(state.partition)
                closed[state.partition] = finding
        return closed

    async def _recover(self) -> None:
        """What was seen before the lock was held may be another's work by now, so it is looked at again."""
        states = await self._read()
        found: dict[Finding, list[tuple[PartitionState, PartitionSeen]]] = {}
        inspected = await followed(self._ledger, states, await self._gate.inspect())
        for state, seen in zip(states, inspected, strict=True):
            if seen is not None:
                found.setdefault(examine(self._installation.id, state, seen), []).append((state, seen))
        await open_verified(self._gate, self._ledger, self._installation.id, found.get(Finding.NEW, ()))
        if self._rebuild is not None:
            await self._open_again(self._rebuild, states, found)

    async def _open_again(
        self, rebuild: Rebuild, states: Sequence[PartitionState], found: Mapping[Finding, Lost]
    ) -> None:
        """Only once the persister has moved all that waits in partitions which lack nothing: what was decided there has
        to be known wherever a part of it lies."""
        ahead = found.get(Finding.AT_OR_AHEAD, ())
        if any(seen.last > state.offset for state, seen in ahead):
            return
        if ahead:
            since_ms = max(state.offset.ms for state in states) - LONGEST_UNSETTLED_MS
            reopened = await rebuild.reopen(ahead, since_ms)
            number = await self._book.begin(reopened, Finding.AT_OR_AHEAD)
            await self._book.note(number, 0, has_ended=True)
            log.warning("opened again what nothing is missing of", partitions=reopened)
        if lost := found.get(Finding.LOST):
            await rebuild(lost, self._advance)

    def _log(self, closed: Mapping[int, Finding]) -> None:
        if closed != self._logged:
            for finding, what_to_do in WHAT_TO_DO.items():
                partitions = [partition for partition, found in closed.items() if found is finding]
                if partitions and finding is not Finding.AT_OR_AHEAD:
                    log.error("partitions are closed", partitions=partitions, found=finding, what_to_do=what_to_do)
        self._logged = closed


async def followed(
    ledger: Ledger | None, states: Sequence[PartitionState], inspected: Sequence[PartitionSeen | None]
) -> Sequence[PartitionSeen | None]:
    """What was seen of partitions after `states` were read, but for what was trimmed since, because the ledger has
    followed. Without a ledger to ask, nobody can say that it has not."""
    if not any(map(is_ahead_of, states, inspected)):
        return inspected
    installation = await ledger.installation() if ledger is not None else None

    def keeps(number: int, one: PartitionSeen) -> bool:
        return installation is not None and is_ahead_of(installation.partitions[number], one)

    return [
        one if one is None or keeps(number, one) else replace(one, first_kept=STREAM_START)
        for number, one in enumerate(inspected)
    ]


async def use_if_verified(
    gate: Gate, installation: str, state: PartitionState, seen: PartitionSeen | None, epochs: Sequence[int]
) -> Finding:
    """Uses a partition if it is open by what was seen, or can be without another look at its data."""
    finding = examine(installation, state, seen)
    if seen is None:
        return finding
    if finding is Finding.UNOPENED and await gate.open_partition(seen, installation, seen.epoch, epochs, {}):
        finding = Finding.OPEN
    if finding is Finding.OPEN:
        gate.use_partition(state.partition, installation, seen.epoch)
    return finding
