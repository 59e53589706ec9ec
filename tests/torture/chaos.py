"""What a fault is, and what it works with."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.service import until
from tests.torture.losses import Loss, waiting
from tests.torture.proxy import Proxy
from tests.torture.service import Tortured
from tests.torture.valkeys import ASK_S, PARTITIONS, STORES, Cluster
from vouchsafe.embedded import EmbeddedPostgres, EmbeddedValkey

LONGEST_FREEZE_S = 3.0
# So long after it goes on, a node that was replaced meanwhile may take itself for what it was.
WAKES_MS = 2_000


@dataclass
class Harm:
    """What faults have done beside: `losses` are the moments at which Valkey has lost data that its contract does not
    keep; `refused_for_memory` is how many calls it has refused because its memory was full."""

    losses: list[Loss] = field(default_factory=list)
    refused_for_memory: int = 0


@dataclass(frozen=True)
class Chaos:
    """What one fault works with. The dice are its own: what it does is the same again whatever else happens."""

    service: Tortured
    harm: Harm
    dice: random.Random

    def some_time(self, longest_s: float = LONGEST_FREEZE_S) -> Awaitable[None]:
        """A while."""
        return asyncio.sleep(self.dice.uniform(0.1, longest_s))

    def some_wires(self, store: str) -> Sequence[Proxy]:
        """One of those to it, or all."""
        wires = self.service.wires[store]
        return [self.dice.choice(wires)] if self.dice.random() < 0.5 else wires

    def some_nodes(self, store: str) -> Sequence[EmbeddedValkey | EmbeddedPostgres]:
        """Mostly one of its, else all."""
        nodes = self.service.nodes(store)
        return [self.dice.choice(nodes)] if self.dice.random() < 0.7 else nodes

    async def owners(self) -> list[EmbeddedValkey]:
        """Who decides in each partition, once the nodes agree."""
        await waiting(self.service.group)
        return await asyncio.to_thread(self.service.group.owners, PARTITIONS)

    async def whole(self) -> None:
        """Returns when every replica has what its primary has."""
        await until(lambda: asyncio.to_thread(self.service.group.is_whole), ASK_S)

    @contextlib.asynccontextmanager
    async def maybe_replaced(self, nodes: Iterable[object]) -> AsyncIterator[None]:
        """What happens to these nodes may cost what their replicas have not got yet, with a contract that does not wait
        for them."""
        lost = [node for node in nodes if node in self.service.group.nodes]
        if not lost or self.service.acknowledge != "gate" or not isinstance(self.service.group, Cluster):
            yield
            return
        owners = await self.owners()
        before = await waiting(self.service.group)
        yield
        if since_ms := held_by(lost, owners, before):
            self.harm.losses.append(Loss.now("replaced", since_ms, later_ms=WAKES_MS))


Run = Callable[[Chaos], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """`targets` are what it happens to or needs: two faults that share one never happen at the same moment. `loses`:
    Valkey comes back with less than it has acknowledged."""

    name: str
    targets: frozenset[str]
    run: Run
    loses: bool = False
    # What may stand where a Valkey stands, so that it can happen.
    stores: Sequence[str] = STORES


def held_by(nodes: Iterable[object], owners: Sequence[object], since_ms: Mapping[int, int]) -> dict[int, int]:
    """Of the partitions, those in which these nodes decided."""
    lost = list(nodes)
    return {partition: ms for partition, ms in since_ms.items() if owners[partition] in lost}
