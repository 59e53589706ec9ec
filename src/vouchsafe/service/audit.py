"""Proves that gate and ledger say the same, while the service runs: every counter of every campaign is what the events
say that the ledger holds, those that wait in the outbox, and the parts of transactions that are held.

The gate is read first, some counters at a time, each time with the last event that they are behind. Events never
change, so the book can be read later, up to that event: nothing has to stand still for it, and nothing is tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vouchsafe.domain.audit import Audit
from vouchsafe.domain.partitions import Finding, PartitionState
from vouchsafe.domain.redemption import STREAM_START
from vouchsafe.gate.audit import FIRST, CounterReader
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.outbox import Outbox
from vouchsafe.ledger.audit import Book
from vouchsafe.ledger.ledger import Installation, Ledger
from vouchsafe.service.aside import Entry, write_apart
from vouchsafe.service.recover import followed, use_if_verified

EVENTS_PER_READ = 2_000


class Auditor:
    """Holds the counters of an installation against its book. `outbox` makes the reader of a partition's outbox in an
    epoch. Every method raises Unavailable."""

    def __init__(
        self,
        gate: Gate,
        counters: CounterReader,
        book: Book,
        ledger: Ledger,
        installation: Installation,
        outbox: Callable[[int, int], Outbox],
    ) -> None:
        self._gate = gate
        self._counters = counters
        self._book = book
        self._ledger = ledger
        self._installation = installation
        self._outbox = outbox

    async def audit(self, campaign_id: str | None, advance: Callable[[], None]) -> Audit:
        """Of one campaign, or of all with None; calls `advance` after each partition."""
        found = Audit()
        by_partition: dict[int, list[str]] = {}
        for id_ in await self._book.campaigns():
            by_partition.setdefault(self._gate.partition_of(id_), []).append(id_)
        only = None if campaign_id is None else self._gate.partition_of(campaign_id)
        opened, partitions = [], []
        for state in self._installation.partitions:
            if state.opened and only in (None, state.partition):
                partitions.append(state.partition)
                if await self._is_held(state):
                    opened.append(state.partition)
                    await self._audit_partition(state, by_partition.get(state.partition, ()), found)
                else:
                    found.closed.append(state.partition)
            advance()
        found.rows_differ = await self._book.rows_differ()
        found.set_aside, found.entries_set_aside = await self._book.set_aside(partitions)
        found.parts_in_flight, found.rollbacks_in_flight = await self._counters.in_flight(opened)
        return found

    async def _is_held(self, state: PartitionState) -> bool:
        """Whether the gate holds what the ledger expects of a partition."""
        states = self._installation.partitions
        inspected = await followed(self._ledger, states, await self._gate.inspect())
        seen, epochs = inspected[state.partition], [one.epoch for one in states]
        return await use_if_verified(self._gate, self._installation.id, state, seen, epochs) is Finding.OPEN

    async def _audit_partition(self, state: PartitionState, campaign_ids: Sequence[str], found: Audit) -> None:
        await self._book.begin(state.partition)
        for campaign_id in campaign_ids:
            found.campaigns += 1
            cursor: str | None = FIRST
            while cursor is not None:
                read, cursor = await self._counters.scan(campaign_id, cursor)
                await self._book.add_counters(read)
                found.counters += len(read.values)
        outbox = self._outbox(state.partition, self._gate.epoch(state.partition))
        try:
            await self._add_events(outbox)
            async for campaign_id, missed in self._book.not_read():
                await self._book.add_counters(await self._counters.read(campaign_id, missed))
            # Those that the last reads of counters are behind.
            await self._add_events(outbox)
        finally:
            await outbox.close()
        differing, differ = await self._book.counters_differ()
        found.differing += differing
        found.counters_differ += differ
        found.events += await self._book.count_events()

    async def _add_events(self, outbox: Outbox) -> None:
        """What waits in the outbox, but for what the persister will set aside. What does not wait there any more, the
        ledger holds."""

        async def leave_out(_entry: Entry, _reason: str) -> None:
            pass

        after = STREAM_START
        while entries := await outbox.read(after, EVENTS_PER_READ, block_ms=0):
            await write_apart(entries, self._book.add_events, leave_out)
            after = entries[-1].position.stream_id
            if len(entries) < EVENTS_PER_READ:
                break
