"""A Valkey Cluster on loopback, out of the same wheel: primaries, replicas, slots that move."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot

from vouchsafe.embedded import HOST, EmbeddedValkey, free_port
from vouchsafe.gate.keys import Keys
from vouchsafe.settings import Settings

ALL_SLOTS = 16_384
# Of each primary. Not in equal shares: partitions 0, 1 and 2, which is all that many tests have, lie on three nodes.
SLOTS = ((0, 4_095), (4_096, 12_287), (12_288, 16_383))
WAIT_S = 30.0
NODE_TIMEOUT_MS = 1_500


class Node(EmbeddedValkey):
    """One node of a cluster."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir, free_port())
        self.bus_port = free_port()

    def _command(self) -> Sequence[str]:
        options = {
            "cluster-enabled": "yes",
            "cluster-port": f"{self.bus_port}",
            "cluster-node-timeout": f"{NODE_TIMEOUT_MS}",
            "cluster-require-full-coverage": "no",
        }
        return [*super()._command(), *(word for name, value in options.items() for word in (f"--{name}", value))]

    @property
    def announced_port(self) -> int:
        """The one that it tells others."""
        return self.port

    def ask(self, *command: str | int) -> Any:
        """The node's own answer to a command."""
        with redis.Redis(host=HOST, port=self.port, decode_responses=True, socket_timeout=WAIT_S) as client:
            return client.execute_command(*command)

    @property
    def id(self) -> str:
        """By which the others know it."""
        return str(self.ask("CLUSTER", "MYID"))

    def kill_in_step(self) -> None:
        """Kills a primary when its replica has all that it has."""
        # Whoever writes meanwhile is not answered any more.
        self.ask("CLIENT", "PAUSE", int(WAIT_S * 1000), "WRITE")
        _until(self._is_followed_to_the_end, "its replica does not catch up")
        self.kill()

    def _is_followed_to_the_end(self) -> bool:
        told = self.ask("INFO", "replication")
        return bool(told["slave0"]["offset"] == told["master_repl_offset"])


class EmbeddedCluster(EmbeddedValkey):
    """Three primaries, used as a single Valkey is: started, it serves all slots; stopped and killed as a whole."""

    def __init__(self, data_dir: Path, *, replicas: int = 0, node: Callable[[Path], Node] = Node) -> None:
        """`replicas` are those of each primary; `node` makes one."""
        self.primaries = [node(data_dir / f"primary-{number}") for number in range(len(SLOTS))]
        super().__init__(data_dir, self.primaries[0].port)
        self.replicas = [
            node(data_dir / f"replica-{number}-{copy}") for number in range(len(SLOTS)) for copy in range(replicas)
        ]
        self._per_primary = replicas

    @property
    def nodes(self) -> list[Node]:
        """All of them, the primaries first."""
        return [*self.primaries, *self.replicas]

    @property
    def url(self) -> str:
        """What to connect to."""
        return ",".join(node.url for node in self.primaries)

    def start(self) -> None:
        """Returns when all slots are served."""
        is_new = not self.data_dir.exists()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        for node in self.nodes:
            node.start()
        if is_new:
            self._form()
        _until(self.is_whole, "the cluster is not whole")

    def stop(self) -> None:
        """In good order."""
        for node in self.nodes:
            node.stop()

    def kill(self) -> None:
        """All nodes with SIGKILL."""
        for node in self.nodes:
            node.kill()

    def _form(self) -> None:
        first = self.primaries[0]
        for node, slots in zip(self.primaries, SLOTS, strict=True):
            node.ask("CLUSTER", "ADDSLOTSRANGE", *slots)
        for node in self.nodes[1:]:
            node.ask("CLUSTER", "MEET", HOST, first.port, first.bus_port)
        for number, replica in enumerate(self.replicas):
            primary = self.primaries[number // self._per_primary].id
            _until(functools.partial(_knows, replica, primary), "the nodes never met")
            replica.ask("CLUSTER", "REPLICATE", primary)

    def is_whole(self) -> bool:
        """Whether all slots are served, and every replica follows its primary."""
        for node in self.nodes:
            # A node that is content may still have to hear of some.
            told = _text(node.ask("CLUSTER", "INFO")).splitlines()
            if not {"cluster_state:ok", f"cluster_slots_ok:{ALL_SLOTS}"} <= set(told):
                return False
            if node.ask("INFO", "replication").get("master_link_status", "up") != "up":
                return False
        return True

    def owner(self, partition: int) -> Node:
        """The primary that has a partition now, as the nodes that run see it."""
        slot = key_slot(Keys(partition).meta.encode())
        for asked in self.nodes:
            with contextlib.suppress(redis.ConnectionError, AssertionError):
                for first, last, (_, port, *_), *_ in asked.ask("CLUSTER", "SLOTS"):
                    if first <= slot <= last:
                        return next(node for node in self.nodes if node.announced_port == port)
        raise AssertionError(f"nobody has partition {partition}")

    def kill_and_replace(self, primary: Node) -> None:
        """Returns when a replica has taken the place of a primary that is killed, whatever that was doing."""
        partition = next(number for number in range(Settings().partitions) if self.owner(number) is primary)
        primary.kill()
        _until(lambda: self.owner(partition) is not primary, "no replica takes its place")

    def move(self, partition: int, to: Node) -> None:
        """Moves the slot of a partition to another primary, while everything runs."""
        slot = key_slot(Keys(partition).meta.encode())
        self.owner(partition).ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", to.id)
        _until(lambda: self.owner(partition) is to, f"slot {slot} does not move")


def _knows(node: Node, id_: str) -> bool:
    return id_ in str(node.ask("CLUSTER", "NODES"))


def _text(answer: Any) -> str:
    return answer if isinstance(answer, str) else "\n".join(f"{name}:{value}" for name, value in answer.items())


def _until(holds: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.05)
