"""A wire between the service and one of its stores, which can be disturbed while it is in use."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter

from vouchsafe.embedded import HOST

CHUNK_BYTES = 65_536


class Proxy:
    """Listens on a port of its own and passes everything on to `to_port`. `seen` counts what was done to the traffic:
    replies swallowed, requests torn, connections cut, replies delayed, chunks held up."""

    def __init__(self, to_port: int, dice: random.Random) -> None:
        self._to_port = to_port
        self._dice = dice
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server
        self.delay_s = 0.0
        self.seen: Counter[str] = Counter()

    async def start(self) -> None:
        """Begins to listen."""
        self._server = await asyncio.start_server(self._accept, HOST)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.sockets[0].getsockname()[1])

    def came_from(self, port: int) -> int | None:
        """The port at the service's end of the connection that the store sees coming from a port."""
        for link in self._links:
            if link.up.get_extra_info("sockname")[1] == port:
                return int(link.down.get_extra_info("peername")[1])
        return None

    async def close(self) -> None:
        """Cuts everything and listens no more."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def swallow_replies(self, share: float) -> None:
        """On this share of the connections the next reply is not passed on, though its request was; then they are
        cut."""
        for link in self._some(share):
            link.swallows = True

    def tear_requests(self, share: float) -> None:
        """On this share of the connections only a part of the next request is passed on; then they are cut."""
        for link in self._some(share):
            link.tears = True

    def cut(self, share: float) -> None:
        """Resets this share of the connections."""
        for link in self._some(share):
            link.cut()
            self.seen["cut"] += 1

    def lead_to(self, port: int) -> None:
        """Leads somewhere else from now on; what is connected stays so."""
        self._to_port = port

    def hold(self) -> None:
        """Nothing passes any more, in neither direction, until `flow`; nobody is told."""
        self._flowing.clear()

    def flow(self) -> None:
        """What was held passes."""
        self._flowing.set()

    def _some(self, share: float) -> list[_Link]:
        return [link for link in self._links if self._dice.random() < share]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The server keeps no reference to it, and logs what it raises: neither is wanted.
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            up_reader, up_writer = await asyncio.open_connection(HOST, self._to_port)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, up_writer)
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass_requests(link, reader))
                both.create_task(self._pass_replies(link, up_reader))
        except* (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._links.discard(link)
            link.cut()

    async def _pass_requests(self, link: _Link, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await self._flow("held up")
            if link.tears:
                link.up.write(data[: self._dice.randrange(len(data))])
                self.seen["torn"] += 1
                with contextlib.suppress(OSError):
                    await link.up.drain()
                break
            link.up.write(data)
            await link.up.drain()
        raise ConnectionResetError

    async def _pass_replies(self, link: _Link, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await self._flow("held up")
            if link.swallows:
                self.seen["swallowed"] += 1
                break
            if self.delay_s:
                self.seen["delayed"] += 1
                await asyncio.sleep(self._dice.uniform(0, self.delay_s))
            link.down.write(data)
            await link.down.drain()
        raise ConnectionResetError

    async def _flow(self, what: str) -> None:
        if not self._flowing.is_set():
            self.seen[what] += 1
            await self._flowing.wait()


class _Link:
    """One connection of the service, and the one to the store that belongs to it."""

    def __init__(self, down: asyncio.StreamWriter, up: asyncio.StreamWriter) -> None:
        self.down = down
        self.up = up
        self.swallows = False
        self.tears = False
        self._uncut: tuple[asyncio.StreamWriter, ...] = (down, up)

    def cut(self) -> None:
        # Once: a transport that is on its way down does not take it a second time.
        writers, self._uncut = self._uncut, ()
        for writer in writers:
            writer.transport.abort()
