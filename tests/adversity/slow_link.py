"""A slow way between a primary and its replica. What is under way is lost with it, as with the machine of the primary;
between processes of one machine nothing would be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from vouchsafe.embedded import HOST

DELAY_S = 0.01


class SlowLink:
    """Connections to `port` lead to another port, and what comes from there comes later."""

    def __init__(self) -> None:
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    @asynccontextmanager
    async def to(cls, port: int) -> AsyncIterator[SlowLink]:
        link = cls()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                there_reader, there_writer = await asyncio.open_connection(HOST, port)
            except OSError:  # gone for good, which the replica cannot know
                writer.close()
                return
            link._writers += (writer, there_writer)
            for task in (_copy(reader, there_writer, 0), _copy(there_reader, writer, DELAY_S)):
                link._tasks.append(asyncio.create_task(task))

        server = await asyncio.start_server(connected, HOST, 0)
        link.port = server.sockets[0].getsockname()[1]
        try:
            yield link
        finally:
            link.cut()
            server.close()

    def cut(self) -> None:
        """At once."""
        for task in self._tasks:
            task.cancel()
        for writer in self._writers:
            writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    while data := await reader.read(65_536):
        await asyncio.sleep(delay_s)
        writer.write(data)
