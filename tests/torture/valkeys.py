"""What stands where a Valkey stands: one, a primary with its replica, or a cluster; each node behind a wire."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from redis.crc import key_slot
from redis.exceptions import ResponseError

from tests.cluster import EmbeddedCluster, Node
from tests.torture.proxy import Proxy
from vouchsafe.domain.errors import Unavailable
from vouchsafe.embedded import HOST, EmbeddedValkey, free_port
from vouchsafe.gate.connection import Command, Connection
from vouchsafe.gate.keys import Keys
from vouchsafe.settings import Settings

ASK_S = 20.0
PARTITIONS = Settings().partitions
STORES = ("one", "pair", "cluster")


class WiredNode(Node):
    """A node that tells everybody to come over its wire: clients, the other nodes, and its replica."""

    def __init__(self, data_dir: Path, dice: random.Random) -> None:
        super().__init__(data_dir)
        self.wire = Proxy(self.port, dice)

    @property
    def announced_port(self) -> int:
        return self.wire.port

    def _command(self) -> Sequence[str]:
        return [*super()._command(), "--cluster-announce-port", f"{self.announced_port}"]


class Valkeys:
    """Entered, all nodes serve. `nodes` are all of them; `wires` have to be started before and closed after."""

    nodes: Sequence[EmbeddedValkey]
    wires: Sequence[Proxy]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.nodes:
            node.stop()

    def start(self) -> None:
        """Returns when all serve."""
        for node in self.nodes:
            node.start()

    @property
    def port(self) -> int:
        """One of its ports, to see that it is free."""
        return self.nodes[0].port

    @property
    def url(self) -> str:
        """What to connect to without wires."""
        return ",".join(node.url for node in self.nodes)

    @property
    def wired_url(self) -> str:
        """The same through the wires."""
        return ",".join(f"redis://{HOST}:{wire.port}/0" for wire in self.wires)

    def owners(self, partitions: int) -> list[EmbeddedValkey]:
        """The node that decides now in each of so many partitions. Raises Unavailable while one has none."""
        return [self.nodes[0]] * partitions

    def is_whole(self) -> bool:
        """Whether every replica follows its primary."""
        return True

    async def ask(self, commands: Mapping[int, Sequence[Command]]) -> dict[int, list[Any]]:
        """What the partitions say, each where it lies, once all of them answer."""
        deadline = time.monotonic() + ASK_S
        while True:
            try:
                return await self._ask(commands)
            except (Unavailable, redis.ConnectionError, ResponseError):
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.1)

    async def _ask(self, commands: Mapping[int, Sequence[Command]]) -> dict[int, list[Any]]:
        nodes = await asyncio.to_thread(self.owners, max(commands) + 1)
        owners = {partition: nodes[partition] for partition in commands}
        answers: dict[int, list[Any]] = {}
        for node in dict.fromkeys(owners.values()):
            connection = Connection(node.url, 10_000)
            try:
                for partition in (one for one, owner in owners.items() if owner is node):
                    answers[partition] = await connection.execute(commands[partition])
            finally:
                await connection.close()
        for refused in (one for replies in answers.values() for one in replies if isinstance(one, ResponseError)):
            raise refused
        return answers


class One(Valkeys):
    """A single Valkey."""

    def __init__(self, data_dir: Path, seed: int) -> None:
        self.nodes = [EmbeddedValkey(data_dir, free_port())]
        self.wires = [Proxy(self.port, random.Random(f"{seed} valkey"))]


class Replicated(Valkeys, ABC):
    """With replicas that can take the place of their primaries."""

    @abstractmethod
    def fail_over(self, node: EmbeddedValkey) -> None:
        """Behind a primary that was killed: when this returns its replica has its place, and it can be started again as
        the replica. Raises Unavailable when there is none that takes it."""


class Pair(Replicated):
    """A primary, which is always the first of `nodes`, and its replica; the wire leads to the primary, as an address
    does that moves with it."""

    def __init__(self, data_dir: Path, seed: int) -> None:
        primary = EmbeddedValkey(data_dir / "one", free_port())
        self.nodes = [primary, EmbeddedValkey(data_dir / "two", free_port(), primary.port)]
        self.wires = [Proxy(primary.port, random.Random(f"{seed} valkey"))]

    @property
    def url(self) -> str:
        return self.nodes[0].url

    def is_whole(self) -> bool:
        with redis.Redis(host=HOST, port=self.nodes[1].port) as client:
            return bool(client.info("replication").get("master_link_status") == "up")

    def fail_over(self, node: EmbeddedValkey) -> None:
        old, new = self.nodes
        assert node is old
        with redis.Redis(host=HOST, port=new.port) as client:
            client.replicaof("NO", "ONE")
        old.primary_port, new.primary_port = new.port, None
        self.nodes = [new, old]
        # Whoever was connected has lost the old one.
        self.wires[0].lead_to(new.port)


class Cluster(Replicated):
    """Three primaries with a replica each."""

    def __init__(self, data_dir: Path, seed: int) -> None:
        numbers = iter(range(6))
        self.cluster = EmbeddedCluster(
            data_dir, replicas=1, node=lambda where: WiredNode(where, random.Random(f"{seed} valkey {next(numbers)}"))
        )
        self.nodes = self.cluster.nodes
        self.wires = [node.wire for node in self.cluster.nodes if isinstance(node, WiredNode)]

    def start(self) -> None:
        self.cluster.start()

    def owners(self, partitions: int) -> list[EmbeddedValkey]:
        """As most nodes see it: one that has just come back may take itself for what it was."""
        slots = [key_slot(Keys(partition).meta.encode()) for partition in range(partitions)]
        views = self._views()
        votes = [Counter(view.get(slot, 0) for view in views) for slot in slots]
        ports = {node.announced_port: node for node in self.cluster.nodes}
        found: list[EmbeddedValkey] = []
        for seen in votes:
            port, count = seen.most_common(1)[0] if seen else (0, 0)
            if port not in ports or 2 * count <= len(self.nodes):
                raise Unavailable("the nodes do not agree who has what")
            found.append(ports[port])
        return found

    def _views(self) -> list[dict[int, int]]:
        """What each node that answers says: the announced port of the primary of each slot."""
        views = []
        for node in self.cluster.nodes:
            with contextlib.suppress(redis.ConnectionError, redis.TimeoutError):
                ranges = node.ask("CLUSTER", "SLOTS")
                views.append(
                    {slot: port for first, last, (_, port, *_), *_ in ranges for slot in range(first, last + 1)}
                )
        return views

    def is_whole(self) -> bool:
        return self.cluster.is_whole()

    def fail_over(self, node: EmbeddedValkey) -> None:
        """The cluster does so by itself, unless the replica was too far behind."""
        deadline = time.monotonic() + ASK_S
        while time.monotonic() < deadline:
            with contextlib.suppress(Unavailable):
                if node not in self.owners(PARTITIONS):
                    return
            time.sleep(0.1)
        raise Unavailable("no replica takes the place of its primary")

    def move_slot(self, dice: random.Random) -> None:
        """Some partition goes to another primary, while everything runs."""
        owners = self.owners(PARTITIONS)
        partition = dice.randrange(PARTITIONS)
        others = sorted(set(owners) - {owners[partition]}, key=lambda node: node.port)
        to = dice.choice(others)
        assert isinstance(to, Node)
        self.cluster.move(partition, to)


MAKERS: Mapping[str, Callable[[Path, int], Valkeys]] = {"one": One, "pair": Pair, "cluster": Cluster}
