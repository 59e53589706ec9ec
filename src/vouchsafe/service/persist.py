"""From the outbox to the ledger: every event the gate has recorded, exactly once.

For each partition that it owns, the persister reads on from the last id that the ledger holds, writes the events and
the new id in one transaction, and trims the outbox up to that id. It may be killed anywhere: what was written and not
trimmed is trimmed by the next, what was read and not written is read again. What is no event, or none that PostgreSQL
takes, is set aside in the same way, so that it holds up nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence

import structlog

from vouchsafe.domain.errors import Unavailable, VouchsafeError
from vouchsafe.domain.redemption import STREAM_START, Event, StreamId
from vouchsafe.gate.outbox import Outbox
from vouchsafe.ledger.ledger import Installation, Ledger, OffsetMoved
from vouchsafe.ledger.locks import PartitionLocks
from vouchsafe.service.aside import Entry, write_apart
from vouchsafe.settings import Settings
from vouchsafe.telemetry import EVENTS_PERSISTED

log = structlog.get_logger()

OWNERSHIP_INTERVAL_S = 0.5
READ_BLOCK_MS = 1_000
# Reading no more often than this, unless batches are full, lets them fill: at 2,000 events a second it saves three
# quarters of the work.
COLLECT_S = 0.1
# Not where callers wait for each of them.
AWAITED_COLLECT_S = 0.002
SHORTEST_DELAY_S = 0.1
LONGEST_DELAY_S = 5.0


class Persister:
    """Follows the outboxes of an installation. Any number may run: each partition has one owner at a time.

    `outbox` makes the reader of a partition's outbox in an epoch.
    """

    def __init__(
        self, ledger: Ledger, installation: Installation, outbox: Callable[[int, int], Outbox], settings: Settings
    ) -> None:
        self._ledger = ledger
        self._partitions = [state.partition for state in installation.partitions]
        self._outbox = outbox
        self._batch = settings.persist_batch
        self._collect_s = AWAITED_COLLECT_S if settings.acknowledge == "ledger" else COLLECT_S
        self._outages = Outages("persister")

    async def run(self, stop: asyncio.Event) -> None:
        """Follows until `stop` is set; a store that goes away is waited for. Whatever is under way then is dropped: the
        next persister does it again."""
        await until_stopped(stop, self._own())

    async def _own(self) -> None:
        """Holds a session of locks, and another when it is lost."""
        delays = Delays()
        while True:
            try:
                async with self._ledger.partition_locks() as locks:
                    self._outages.end("locks")
                    delays.reset()
                    await self._follow_what_is_free(locks)
            except VouchsafeError as error:
                self._outages.begin("locks", error)
            await delays.wait()

    async def _follow_what_is_free(self, locks: PartitionLocks) -> None:
        """Follows every partition that it can lock, until the session is lost; then all are given up."""
        followed: dict[int, asyncio.Task[None]] = {}
        try:
            while await locks.alive():
                for partition in self._partitions:
                    task = followed.get(partition)
                    if task is None:
                        if await locks.try_lock(partition):
                            followed[partition] = asyncio.create_task(self._follow(partition))
                    elif task.done():
                        await locks.unlock(partition)
                        del followed[partition]
                await asyncio.sleep(OWNERSHIP_INTERVAL_S)
            raise Unavailable("the session that held the partitions' locks is lost")
        finally:
            for task in followed.values():
                task.cancel()
            await asyncio.gather(*followed.values(), return_exceptions=True)

    async def _follow(self, partition: int) -> None:
        """Follows a partition until somebody else does: then it ends."""
        who = f"partition {partition}"
        delays = Delays()

        def well() -> None:
            self._outages.end(who)
            delays.reset()

        try:
            while True:
                try:
                    await self._drain(partition, well)
                except OffsetMoved as error:
                    log.warning("another persister has written; giving the partition up", error=str(error))
                    return
                except Unavailable as error:
                    self._outages.begin(who, error)
                except Exception:  # whatever it is, it is told and tried again; the other partitions go on
                    log.exception("events cannot be moved; they and all after them wait in the outbox", who=who)
                await delays.wait()
        finally:
            self._outages.forget(who)

    async def _drain(self, partition: int, well: Callable[[], None]) -> None:
        """Moves events until something goes wrong, calling `well` whenever something went right."""
        state = await self._ledger.partition(partition)
        # Of what the ledger holds, a persister that was killed may have trimmed nothing.
        offset, trimmed = state.offset, STREAM_START
        outbox = self._outbox(partition, state.epoch)
        loop = asyncio.get_running_loop()
        read_again_at = loop.time()
        try:
            while True:
                if trimmed < offset and await _trim(outbox, offset):
                    trimmed = offset
                await asyncio.sleep(read_again_at - loop.time())
                try:
                    entries = await outbox.read(offset, self._batch, READ_BLOCK_MS)
                except Unavailable:
                    if (await self._ledger.partition(partition)).epoch == state.epoch:
                        raise
                    return  # it was opened again, and is followed from there
                is_part = 0 < len(entries) < self._batch
                read_again_at = loop.time() + (self._collect_s if is_part else 0)
                if entries:
                    await self._write(outbox, state.partition, state.epoch, offset, entries)
                    offset = entries[-1].position.stream_id
                well()
        finally:
            await outbox.close()

    async def _write(
        self, outbox: Outbox, partition: int, epoch: int, offset: StreamId, entries: Sequence[Entry]
    ) -> None:
        """Moves what follows the offset, each entry to the book or, if that does not take it, aside."""

        async def write(events: Sequence[Event]) -> None:
            nonlocal offset
            await self._ledger.persist(partition, epoch, offset, events)
            offset = events[-1].position.stream_id
            EVENTS_PERSISTED.inc(len(events))

        async def refuse(entry: Entry, reason: str) -> None:
            nonlocal offset
            fields = await outbox.fields(entry.position.stream_id)
            await self._ledger.set_aside(partition, epoch, offset, entry.position, fields, reason)
            offset = entry.position.stream_id
            # Never what stands in it: codes are secrets.
            log.error("an entry of the outbox was set aside", entry=str(entry.position), reason=reason)

        await write_apart(entries, write, refuse)


async def _trim(outbox: Outbox, upto: StreamId) -> bool:
    """Whether it was: a partition that is closed is not trimmed, but moved all the same, because only then it can be
    opened again. If the gate is away, reading tells."""
    try:
        await outbox.trim(upto)
    except Unavailable:
        return False
    return True


class Delays:
    """How long to wait before trying again: twice as long each time, up to a bound, and never quite the same."""

    def __init__(self) -> None:
        self._next_s = SHORTEST_DELAY_S

    def reset(self) -> None:
        """Begins again with the shortest."""
        self._next_s = SHORTEST_DELAY_S

    async def wait(self) -> None:
        """Waits, longer than the last time."""
        delay_s = self._next_s * random.uniform(0.5, 1.0)  # noqa: S311  # nobody gains by guessing it
        self._next_s = min(self._next_s * 2, LONGEST_DELAY_S)
        await asyncio.sleep(delay_s)


class Outages:
    """Logs what is out of reach once, however many notice it and however often, and once that it is back."""

    def __init__(self, what: str) -> None:
        self._log = log.bind(what=what)
        self._errors: dict[str, str] = {}

    def begin(self, who: str, error: Exception) -> None:
        """Somebody cannot go on."""
        if who not in self._errors and str(error) not in self._errors.values():
            self._log.warning("waiting", who=who, error=str(error), cause=repr(error.__cause__))
        self._errors.setdefault(who, str(error))

    def end(self, who: str) -> None:
        """Somebody goes on."""
        error = self._errors.pop(who, None)
        if error is not None and error not in self._errors.values():
            self._log.info("going on", who=who)

    def forget(self, who: str) -> None:
        """Somebody does not try any more."""
        self._errors.pop(who, None)


async def until_stopped(stop: asyncio.Event, work: Coroutine[object, object, None]) -> None:
    """Runs `work` until it ends or `stop` is set, which cancels it."""
    task = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()
        stopping.cancel()
        result, _ = await asyncio.gather(task, stopping, return_exceptions=True)
    if isinstance(result, Exception):
        raise result
