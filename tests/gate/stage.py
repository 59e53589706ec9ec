"""A gate of three partitions, emptied for each sequence, whose clock the test moves."""

from __future__ import annotations

from itertools import count
from typing import Self

from tests.gate.moved_clock import set_time
from tests.opened import open_all
from tests.valkeys import on_every_node
from vouchsafe.gate.checkout import Checkout
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.keys import Keys, partition_of
from vouchsafe.settings import Settings

PARTITIONS = 3


def lying_in(partition: int, name: str) -> str:
    """A name that starts like this and belongs to the partition."""
    return next(found for tail in count() if partition_of(found := f"{name}{tail}", PARTITIONS) == partition)


# Codes A0 and A1 are of the first campaign, and so on. Two campaigns share a partition.
CAMPAIGNS = {"A": lying_in(0, "a"), "B": lying_in(1, "b"), "C": lying_in(1, "c")}
CODES = [f"{letter}{number}" for letter in CAMPAIGNS for number in range(2)]


class Stage:
    """Connections that all sequences share."""

    def __init__(self, gate: Gate, settings: Settings) -> None:
        self.gate = gate
        self.keys = [Keys(partition) for partition in range(PARTITIONS)]
        self.checkout = Checkout(gate, settings)

    @classmethod
    async def connect(cls, settings: Settings) -> Self:
        return cls(await Gate.connect(settings, PARTITIONS), settings)

    async def close(self) -> None:
        await self.checkout.close()
        await self.gate.close()

    async def clear(self, now_ms: int) -> None:
        """Opens the partitions with nothing in them."""
        await on_every_node(self.gate, ("FLUSHALL", "SYNC"))
        await self.move_to(now_ms)
        await open_all(self.gate)

    async def move_to(self, now_ms: int) -> None:
        await on_every_node(self.gate, set_time(now_ms))
        self.gate.clock.set(now_ms)

    def campaign_of(self, code: str) -> str:
        return CAMPAIGNS[code[0]]

    def keys_of(self, campaign_id: str) -> Keys:
        return self.keys[self.gate.partition_of(campaign_id)]
