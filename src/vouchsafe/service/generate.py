"""Generating codes: operations of the ledger, carried out piece by piece by the persisters.

A piece and how far the operation is with it are one transaction, so it goes on exactly where it was cut off, whoever
was killed. What is in the ledger and not in the gate yet is noted there in the same transaction, and published before
the operation goes on.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Sequence

from vouchsafe.domain.campaign import CodeEntry
from vouchsafe.domain.codes import Operation
from vouchsafe.gate.directory import Directory
from vouchsafe.gate.gate import Gate
from vouchsafe.ledger.codes import CodeBook, Generated, Publication
from vouchsafe.ledger.connection import FIRST_OPERATION_LOCK, Rejected
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.service.persist import Outages, until_stopped
from vouchsafe.service.publish import publish_codes

CODES_PER_PIECE = 10_000
# Then it is the turn of the next operation: a small one does not wait for the end of a large one.
PIECES_PER_TURN = 20
POLL_S = 0.25


async def generate_forever(gate: Gate, ledger: Ledger, stop: asyncio.Event) -> None:
    """Carries operations out until `stop` is set. Any number of processes may do so: of each operation one at a time
    has the lock. A store that goes away is waited for."""
    await until_stopped(stop, _Generator(gate, ledger).run())


class _Generator:
    def __init__(self, gate: Gate, ledger: Ledger) -> None:
        self._gate = gate
        self._ledger = ledger
        self._book = CodeBook(ledger)
        self._directory = Directory(gate)

    async def run(self) -> None:
        outages = Outages("generating codes")
        while True:
            has_done = False
            try:
                if operations := await self._book.running_operations():
                    has_done = await self._take_turns(operations)
                outages.end("operations")
            except Exception as error:  # noqa: BLE001  # one that fails must not stop the persister
                outages.begin("operations", error)
            if not has_done:
                await asyncio.sleep(POLL_S)

    async def _take_turns(self, operations: Sequence[Operation]) -> bool:
        """A turn for each operation that nobody else has; answers whether there was one."""
        has_done = False
        async with self._ledger.partition_locks() as locks:
            for operation in operations:
                lock = FIRST_OPERATION_LOCK - operation.number
                if await locks.try_lock(lock):
                    has_done = await self._carry_on(operation) or has_done
                    await locks.unlock(lock)
        return has_done

    async def _carry_on(self, operation: Operation) -> bool:
        """Some pieces of an operation; answers False when somebody else has written one meanwhile."""
        # What was cut off between the stores.
        await publish_codes(self._gate, self._ledger, operation_id=operation.id)
        lacking: Publication | None = None
        for _ in range(PIECES_PER_TURN):
            count = min(CODES_PER_PIECE, operation.wanted - operation.done)
            if not count:
                break
            codes = operation.form.draw(count)
            # PostgreSQL writes a piece while Valkey gets the one before.
            try:
                generated = await _both(self._book.generate(operation, codes), self._publish(lacking))
            except Rejected as error:
                await self._book.end_operation(operation.id, str(error))
                return True
            if generated is None:
                return False
            operation = dataclasses.replace(operation, done=operation.done + generated.created)
            lacking = self._lacking(operation, codes, generated)
        await self._publish(lacking)
        if operation.done == operation.wanted:
            # Some may have been there before, by chance: what was new of their piece is read back.
            await publish_codes(self._gate, self._ledger, operation_id=operation.id)
            await self._book.end_operation(operation.id)
        return True

    def _lacking(self, operation: Operation, codes: Sequence[str], generated: Generated) -> Publication | None:
        """What has to be published, if it is known here."""
        if generated.publication is None or generated.created < len(codes):
            return None
        entries = [CodeEntry(code, operation.campaign_id, operation.use_limit) for code in codes]
        return Publication(generated.publication, entries)

    async def _publish(self, lacking: Publication | None) -> None:
        if lacking is not None:
            await self._directory.put(lacking.entries)
            await self._book.mark_published([lacking.number])


async def _both(writing: Awaitable[Generated | None], publishing: Awaitable[None]) -> Generated | None:
    """Both at once; raises what one of them has raised when neither is under way any more."""
    written, published = await asyncio.gather(writing, publishing, return_exceptions=True)
    if isinstance(published, BaseException):
        raise published
    if isinstance(written, BaseException):
        raise written
    return written
