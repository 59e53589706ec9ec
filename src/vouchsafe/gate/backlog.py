"""How much waits in the gate for the ledger, and how full the store is.

Read over a connection of its own: no sale waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vouchsafe.domain.redemption import StreamId
from vouchsafe.gate.connection import Command, checked
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.keys import Keys

# So many nodes of a stream are looked at to estimate its size.
SAMPLES = 5


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits in the outboxes: entries and bytes in all (the bytes are an estimate of the store's), and for each
    partition, in order, the age of the oldest entry in ms, 0 for none. `used_memory` and `max_memory`, 0 for no bound,
    are in bytes, of the node that is fullest."""

    entries: int
    bytes: int
    ages_ms: Sequence[int]
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
        """What waits now. Raises Unavailable."""
        commands: list[Command] = []
        for outbox in self._outboxes:
            commands += [
                ("XLEN", outbox),
                ("XRANGE", outbox, "-", "+", "COUNT", 1),
                ("MEMORY", "USAGE", outbox, "SAMPLES", SAMPLES),
            ]
        streams = checked(await self._connections.execute(commands))
        nodes = [checked(await node.execute([("TIME",), ("INFO", "memory")])) for node in self._connections.all()]
        now_ms = max(int(seconds) * 1000 + int(microseconds) // 1000 for (seconds, microseconds), _ in nodes)
        used_memory, max_memory = max((_memory(info) for _, info in nodes), key=_share)
        return Waiting(
            entries=sum(streams[::3]),
            bytes=sum(size or 0 for size in streams[2::3]),
            ages_ms=[_age_ms(first, now_ms) for first in streams[1::3]],
            used_memory=used_memory,
            max_memory=max_memory,
        )


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
