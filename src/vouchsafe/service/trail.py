"""The audit trail: read, and proved to be whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing

from vouchsafe.domain.trail import FIRST_HASH, AuditEvent, Chain, ChainCheck, TrailFilter
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.ledger.trail import TrailBook, Walk

ROWS_PER_STEP = 1_000


class Trail:
    """What operators did, by the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._book = TrailBook(ledger)

    async def list(
        self, wanted: TrailFilter, limit: int, before: int | None
    ) -> tuple[Sequence[AuditEvent], int | None]:
        """At most `limit` actions, newest first, from before that number on (None: from the newest), and where to go on
        (None: at the end). Raises Unavailable."""
        found = await self._book.list(wanted, limit + 1, before)
        shown = found[:limit]
        return shown, shown[-1].number if len(found) > limit else None


async def check_chain(walk: Walk, expected: bytes | None, advance: Callable[[int, int], None]) -> ChainCheck:
    """Walks the chain up to its end or the first row where it breaks; `expected` is a hash that it had as its end once,
    and so has to be in it. Calls `advance` with the rows so far and all that there are. Raises Unavailable."""
    chain = Chain()
    broken = None
    expected_row = 0 if expected == FIRST_HASH else None
    async with aclosing(walk.links()) as links:
        async for link in links:
            if broken := chain.follow(link):
                break
            if chain.hash == expected:
                expected_row = chain.number
            if chain.number % ROWS_PER_STEP == 0:
                advance(chain.number, walk.head.number)
    advance(chain.number, walk.head.number)
    broken = broken or chain.end(*walk.head)
    if broken is None and expected is not None and expected_row is None:
        broken = "no row has the expected head: rows were taken from the end, or the chain was written anew"
    return ChainCheck(chain.number, chain.hash, broken, expected_row)
