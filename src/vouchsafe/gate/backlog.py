"""How much waits in the gate for the ledger, and how full the store is.

Read over a connection of its own: no sale waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vouchsafe.domain.errors import Unavailable
from vouchsafe.domain.redemption import StreamId
from vouchsafe.gate.connection import Command, as_unavailable, checked
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.keys import Keys

# So many nodes of a stream are looked at to estimate its size.
SAMPLES = 5


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits in the outboxes: entries and bytes in all (the bytes are an estimate of the store's), and for each
    partition, in order, the age of the oldest entry in ms, 0 for none. Of a node that is away nothing is known: ages of
    its partitions are None, and the sums are of the others. `used_memory` and `max_memory`, 0 for no bound, are in
    bytes, of the node that is fullest."""

    entries: int
    bytes: int
    ages_ms: Sequence[int | None]
    used_memory: int
    max_memory: int


class BacklogReader:
    """Looks at the outboxes of an installation's partitions."""

    def __init__(self, gate: Gate) -> None:
        self._outboxes = [Keys(partition).outbox for partition in range(gate.partitions)]
        self._connections = gate.connections()

    async def close(self) -> None:
        """Closes the connection."""
        await self._connections.close()

    async def read(self) -> Waiting:
        """What waits now. Raises Unavailable when no node answers."""
        commands: list[Command] = []
        for outbox in self._outboxes:
            commands += [
                ("XLEN", outbox),
                ("XRANGE", outbox, "-", "+", "COUNT", 1),
                ("MEMORY", "USAGE", outbox, "SAMPLES", SAMPLES),
            ]
        found = await self._connections.try_to_call(commands)
        streams = [
            None if any(isinstance(reply, Exception) for reply in stream) else stream
            for stream in zip(found[::3], found[1::3], found[2::3], strict=True)
        ]
        known = [stream for stream in streams if stream is not None]
        if not known:
            raise as_unavailable(next(reply for reply in found if isinstance(reply, Exception)))
        nodes = await self._nodes()
        now_ms = max(int(seconds) * 1000 + int(microseconds) // 1000 for (seconds, microseconds), _ in nodes)
        used_memory, max_memory = max((_memory(info) for _, info in nodes), key=_share)
        return Waiting(
            entries=sum(length for length, _, _ in known),
            bytes=sum(size or 0 for _, _, size in known),
            ages_ms=[None if stream is None else _age_ms(stream[1], now_ms) for stream in streams],
            used_memory=used_memory,
            max_memory=max_memory,
        )

    async def _nodes(self) -> list[list[Any]]:
        """Clock and memory of those that answer."""
        answers = []
        failure: Unavailable | None = None
        for node in self._connections.all():
            try:
                answers.append(checked(await node.execute([("TIME",), ("INFO", "memory")])))
            except Unavailable as error:
                failure = error
        if failure is not None and not answers:
            raise failure
        return answers


def _memory(info: bytes) -> tuple[int, int]:
    """What a node uses and may use."""
    facts = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    return int(facts["used_memory"]), int(facts["maxmemory"])


def _share(memory: tuple[int, int]) -> float:
    used, bound = memory
    return used / bound if bound else 0.0


def _age_ms(first: Any, now_ms: int) -> int:
    """Of the oldest entry. The ids are of the store's clock, and never go back when that does."""
    return max(0, now_ms - StreamId.parse(first[0][0].decode()).ms) if first else 0
