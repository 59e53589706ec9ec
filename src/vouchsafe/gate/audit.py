"""Reads counters to be held against the ledger, over a connection of its own: an audit is in nobody's way. The contract
stands in audit.lua."""

from __future__ import annotations

from collections.abc import Sequence

from vouchsafe.domain.audit import CountersRead
from vouchsafe.domain.redemption import Position, StreamId
from vouchsafe.gate.connection import Command, checked, function_call
from vouchsafe.gate.gate import Gate

FIRST = "0"
COUNTERS_PER_CALL = 500


class CounterReader:
    """Reads the counters of campaigns in the partitions that `gate` has open. Every method raises Unavailable."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._connections = gate.connections()

    async def close(self) -> None:
        """Closes the connection."""
        await self._connections.close()

    async def scan(self, campaign_id: str, cursor: str = FIRST) -> tuple[CountersRead, str | None]:
        """Some counters of a campaign, and where to go on: None after the last. A counter that was there all the time
        is read at least once; one that comes or goes meanwhile may be left out."""
        found, following = await self._ask("scan_counters", campaign_id, (cursor, COUNTERS_PER_CALL))
        return found, None if following == FIRST else following

    async def read(self, campaign_id: str, counters: Sequence[str]) -> CountersRead:
        """These counters, whether they are there or not."""
        return (await self._ask("read_counters", campaign_id, counters))[0]

    async def in_flight(self, partitions: Sequence[int]) -> tuple[int, int]:
        """How many parts of transactions wait to be settled, and how many rollbacks are not through."""
        commands: list[Command] = []
        for partition in partitions:
            keys, _ = self._gate.keys_and_token(partition)
            commands += [("ZCARD", keys.pending), ("HLEN", keys.returning)]
        counts = checked(await self._connections.execute(commands))
        return sum(counts[::2]), sum(counts[1::2])

    async def _ask(self, name: str, campaign_id: str, args: Sequence[str | int]) -> tuple[CountersRead, str]:
        partition = self._gate.partition_of(campaign_id)
        keys, token = self._gate.keys_and_token(partition)
        names = [keys.meta, keys.outbox, keys.pending, keys.counters(campaign_id), keys.orders(campaign_id)]
        call = function_call(name, names, [token, campaign_id, *args])
        ((last_event, now_ms, cursor, counters, parts),) = checked(await self._connections.call([call]))
        texts = [_text(word) for word in counters]
        read = CountersRead(
            campaign_id=campaign_id,
            position=Position(partition, self._gate.epoch(partition), StreamId.parse(last_event.decode())),
            now_ms=int(now_ms),
            values=dict(zip(texts[::2], texts[1::2], strict=True)),
            parts=[(int(taken_ms), body.decode()) for taken_ms, body in zip(parts[::2], parts[1::2], strict=True)],
        )
        return read, cursor.decode()


def _text(word: bytes) -> str:
    """Whatever stands there: an audit has to name it, not to fail on it."""
    return word.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
