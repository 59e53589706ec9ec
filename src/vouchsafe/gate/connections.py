"""Connections to every node of Valkey that holds something, used as if they were one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from vouchsafe.domain.errors import Unavailable
from vouchsafe.gate.connection import Command, Connection
from vouchsafe.gate.routes import Routes

Ask = Callable[[Connection, list[Command]], Awaitable[list[Any]]]


class Connections:
    """One task at a time may use it. Commands go to the node that holds the partition of their first key, in one go for
    each node; those without a key to any."""

    def __init__(self, routes: Routes, timeout_ms: int) -> None:
        self._routes = routes
        self._timeout_ms = timeout_ms
        self._by_url: dict[str, Connection] = {}

    def all(self) -> list[Connection]:
        """One for each node that holds something."""
        return [self._to(url) for url in self._routes.urls]

    async def close(self) -> None:
        """Closes all of them."""
        for connection in self._by_url.values():
            await connection.close()

    async def execute(self, commands: Sequence[Command], *, extra_wait_ms: int = 0) -> list[Any]:
        """As `Connection.execute`."""

        async def ask(connection: Connection, some: list[Command]) -> list[Any]:
            return await connection.execute(some, extra_wait_ms=extra_wait_ms)

        return _all_or_none(await self._spread(commands, ask))

    async def call(
        self, calls: Sequence[Command], own_write: Callable[[int], Command | None] | None = None
    ) -> list[Any]:
        """As `Connection.call`; `own_write` makes the call that writes in a partition what a replica confirms."""

        return _all_or_none(await self.try_to_call(calls, own_write))

    async def try_to_call(
        self, calls: Sequence[Command], own_write: Callable[[int], Command | None] | None = None
    ) -> list[Any]:
        """As `call`, with Unavailable in the place of what a node that is away does not answer."""

        async def ask(connection: Connection, some: list[Command]) -> list[Any]:
            return await connection.call(some, None if own_write is None else own_write(partition_of(some[0])))

        return await self._spread(calls, ask)

    async def _spread(self, commands: Sequence[Command], ask: Ask) -> list[Any]:
        if not commands:
            return []
        if len(self._routes.urls) == 1:
            (connection,) = self.all()
            return await _answers(ask, connection, list(commands))
        by_url: dict[str, list[int]] = {}
        found: list[Any] = [None] * len(commands)
        for index, command in enumerate(commands):
            try:
                url = self._routes.url_of(partition_of(command))
            except Unavailable as error:
                found[index] = error
            else:
                by_url.setdefault(url, []).append(index)
        groups = [
            _answers(ask, self._to(url), [commands[index] for index in indexes]) for url, indexes in by_url.items()
        ]
        for indexes, replies in zip(by_url.values(), await asyncio.gather(*groups), strict=True):
            for index, reply in zip(indexes, replies, strict=True):
                found[index] = reply
        return found

    def _to(self, url: str) -> Connection:
        connection = self._by_url.get(url)
        if connection is None:
            connection = self._by_url[url] = Connection(url, self._timeout_ms)
        return connection


def partition_of(command: Command) -> int:
    """The partition of a command's first key, 0 for a command without one."""
    for word in command:
        if isinstance(word, str) and word.startswith("{p"):
            return int(word[2:4])
    return 0


async def _answers(ask: Ask, connection: Connection, commands: list[Command]) -> list[Any]:
    try:
        return await ask(connection, commands)
    except Unavailable as error:
        return [error] * len(commands)


def _all_or_none(found: list[Any]) -> list[Any]:
    for one in found:
        if isinstance(one, Unavailable):
            raise one
    return found
