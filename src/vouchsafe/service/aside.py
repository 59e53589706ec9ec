"""What cannot be written must not hold up what can: it is found by halving, and nothing changes its place."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from vouchsafe.domain.redemption import Event
from vouchsafe.gate.outbox import NoEvent
from vouchsafe.ledger.connection import Rejected
from vouchsafe.service.replay import check_body

Entry = Event | NoEvent


async def write_apart(
    entries: Sequence[Entry],
    write: Callable[[Sequence[Event]], Awaitable[None]],
    refuse: Callable[[Entry, str], Awaitable[None]],
) -> None:
    """Writes the entries in their order, in as few steps as that takes; calls `refuse` in its turn, with a reason, for
    each that is no event, that no rebuild could read, or that is Rejected by itself. Raises whatever else they raise.
    """
    if not entries:
        return
    try:
        await write(_events(entries))
    except Rejected as error:
        if len(entries) == 1:
            await refuse(entries[0], str(error))
            return
        half = len(entries) // 2
        await write_apart(entries[:half], write, refuse)
        await write_apart(entries[half:], write, refuse)


def _events(entries: Sequence[Entry]) -> Sequence[Event]:
    events = []
    for entry in entries:
        if isinstance(entry, NoEvent):
            raise Rejected(entry.reason)
        try:
            check_body(entry.kind, entry.body)
        except (ValueError, RecursionError):
            raise Rejected("a rebuild could not read the body") from None
        events.append(entry)
    return events
