"""Which node of Valkey holds which partition. One Valkey is a cluster of one node, and is never asked."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from redis.crc import key_slot
from redis.exceptions import ResponseError

from vouchsafe.domain.errors import Misconfigured, Unavailable
from vouchsafe.gate.connection import Connection
from vouchsafe.gate.keys import Keys

SLOTS = 16_384


class Routes:
    """`refresh` keeps them right while nodes fail over and slots move; a call that goes to the wrong node is refused
    there and has done nothing. `urls` are the nodes that hold something."""

    def __init__(self, seeds: Sequence[str], timeout_ms: int) -> None:
        """`seeds` are addresses of nodes, of which one that answers is enough."""
        self._timeout_ms = timeout_ms
        self._seeds = list(seeds)
        self.is_cluster = False
        # Of a cluster, the address of the primary of each slot, '' where nobody has it.
        self._primaries: list[str] = []
        self._nodes: list[str] = list(seeds)
        self.urls: Collection[str] = self._seeds
        self._lock = asyncio.Lock()
        self._asked: dict[str, Connection] = {}

    @classmethod
    async def discover(cls, urls: str, timeout_ms: int) -> Routes:
        """Asks whether it is a cluster. `urls` are addresses with commas between them. Raises Unavailable, and
        Misconfigured when they are no addresses or the cluster does not serve all slots."""
        seeds = [url.strip() for url in urls.split(",") if url.strip()]
        if not seeds:
            raise Misconfigured("VOUCHSAFE_VALKEY_URL is empty; give the address of a Valkey, redis://host:port/0")
        routes = cls(seeds, timeout_ms)
        try:
            found = await routes._ask(("INFO", "cluster"))
            routes.is_cluster = isinstance(found, bytes) and b"cluster_enabled:1" in found
            if routes.is_cluster:
                await routes.refresh()
                if "" in routes._primaries:
                    slots = routes._primaries.count("")
                    raise Misconfigured(f"{slots:,} of the cluster's {SLOTS:,} slots are of no node; assign them all")
            elif len(seeds) > 1:
                raise Misconfigured("VOUCHSAFE_VALKEY_URL names several addresses, but they are no Valkey Cluster")
        except BaseException:
            await routes.close()
            raise
        return routes

    async def close(self) -> None:
        """Closes the connections that it asks over."""
        for connection in self._asked.values():
            await connection.close()

    def url_of(self, partition: int) -> str:
        """The node that holds a partition. Raises Unavailable while there is none."""
        if not self.is_cluster:
            return self._seeds[0]
        url = self._primaries[key_slot(Keys(partition).meta.encode())]
        if not url:
            raise Unavailable("no node of the cluster has the partition")
        return url

    async def refresh(self) -> None:
        """Asks who holds what now. Raises Unavailable when no node answers."""
        if not self.is_cluster:
            return
        async with self._lock:
            reply = await self._ask(("CLUSTER", "SLOTS"))
        if isinstance(reply, ResponseError):
            raise Unavailable(f"the cluster does not say which node has what: {reply}")
        primaries = [""] * SLOTS
        nodes: dict[str, None] = {}
        for first, last, *owners in reply:
            urls = [self._url(host, port) for host, port, *_ in owners]
            nodes |= dict.fromkeys(urls)
            primaries[first : last + 1] = [urls[0]] * (last + 1 - first)
        self._primaries, self.urls = primaries, list(dict.fromkeys(url for url in primaries if url))
        # Any of them can be asked the next time, and the seeds when all of those are gone.
        self._nodes = list(dict.fromkeys([*self._nodes[:1], *nodes, *self._seeds]))

    async def _ask(self, command: tuple[str, ...]) -> Any:
        """The answer of the first node that gives one; that is the first to be asked the next time."""
        failure: Unavailable | None = None
        for url in list(self._nodes):
            if url not in self._asked:
                self._asked[url] = Connection(url, self._timeout_ms)
            try:
                (reply,) = await self._asked[url].execute([command])
            except Unavailable as error:
                failure = error
                continue
            self._nodes.remove(url)
            self._nodes.insert(0, url)
            return reply
        assert failure is not None
        raise failure

    def _url(self, host: bytes | None, port: int) -> str:
        """The address of a node, reached as the seeds are. One that does not know its own host is the one asked."""
        seed = urlsplit(self._nodes[0])
        name = host.decode() if host else seed.hostname or ""
        name = f"[{name}]" if ":" in name else name
        credentials, at, _ = seed.netloc.rpartition("@")
        return urlunsplit(seed._replace(netloc=f"{credentials}{at}{name}:{port}"))
