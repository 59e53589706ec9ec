"""Lanes: concurrent calls gathered into few function calls.

Calls are what costs, items are cheap. While one exchange with Valkey is under way, whatever arrives waits and goes
into the next: no timer, and no added wait when idle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import structlog
from redis.exceptions import ResponseError

from vouchsafe.domain.errors import Overloaded, Unavailable, VouchsafeError
from vouchsafe.gate.connection import Command, Connection, as_unavailable
from vouchsafe.gate.gate import Gate
from vouchsafe.settings import Settings

log = structlog.get_logger()

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True, eq=False, slots=True)
class Function(Generic[Item, Answer]):
    """A Lua function that takes a batch of items of one partition and replies with a list of one answer for each.

    `encode` makes the command; `decode` reads one answer (it gets the partition, the item and the reply) and may raise.
    `decides`: it decides, or tells what was decided, and is not answered before that is as safe as was promised.
    """

    encode: Callable[[int, Sequence[Item]], Command]
    decode: Callable[[int, Item, Any], Answer]
    decides: bool = True


class _Asked(NamedTuple):
    """Items that one caller asks about together, and where the answers go: the one, or a list of all, in which what
    went wrong with an item takes its place."""

    items: Sequence[Any]
    future: asyncio.Future[Any]
    is_one: bool

    def fail(self, error: Exception) -> None:
        self.settle([error] * len(self.items))

    def settle(self, answers: list[Any]) -> None:
        if self.future.done():  # its caller has gone
            return
        if not self.is_one:
            self.future.set_result(answers)
        elif isinstance(answers[0], Exception):
            self.future.set_exception(answers[0])
        else:
            self.future.set_result(answers[0])


@dataclass(slots=True)
class _Call:
    function: Function[Any, Any]
    partition: int
    waiting: list[_Asked]

    @property
    def items(self) -> list[Any]:
        return [item for asked in self.waiting for item in asked.items]

    def fail(self, error: Exception) -> None:
        for asked in self.waiting:
            asked.fail(error)

    def settle(self, reply: Any) -> None:
        if isinstance(reply, ResponseError):
            self.fail(as_unavailable(reply))
            return
        if len(reply) != (count := sum(len(asked.items) for asked in self.waiting)):
            raise ValueError(f"{len(reply)} answers to {count} items")
        replies = iter(reply)
        for asked in self.waiting:
            asked.settle([self._decoded(item, next(replies)) for item in asked.items])

    def _decoded(self, item: Any, reply: Any) -> Any:
        try:
            return self.function.decode(self.partition, item, reply)
        except Exception as error:  # noqa: BLE001  # whatever it is, it belongs to this item
            return error


class Lane:
    """One connection and one task that flushes what waits for it.

    Callers await futures and never touch the connection: cancelling one leaves no reply unread. `own_write` is the call
    that writes in a partition what a replica has to confirm; None where no replica is waited for.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        own_write: Callable[[int], Command | None],
        batch_size: int,
        max_waiting: int,
    ) -> None:
        self._connection = connection
        self._own_write = own_write
        self._batch_size = batch_size
        self._max_waiting = max_waiting
        self._waiting: dict[tuple[Function[Any, Any], int], list[_Asked]] = {}
        self._count = 0
        # Whether the last exchange that had to be confirmed was not.
        self._in_doubt = False
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        self._flusher = asyncio.create_task(self._flush_forever(), name="lane")

    def submit(self, function: Function[Item, Answer], partition: int, item: Item) -> asyncio.Future[Answer]:
        """Queues one item. Raises Overloaded when too many wait, Unavailable after `close`.

        The future raises Unavailable when the store is out of reach, and whatever `function.decode` raises.
        """
        self._check_room(1)
        return self._queue(function, partition, (item,), is_one=True)

    async def ask_each(
        self, function: Function[Item, Answer], partition: int, items: Sequence[Item]
    ) -> list[Answer | Exception]:
        """What is answered about each item, or what went wrong with it. Raises what `submit` raises."""
        self._check_room(len(items))
        parts = (items[at : at + self._batch_size] for at in range(0, len(items), self._batch_size))
        asked = [self._queue(function, partition, part, is_one=False) for part in parts]
        return [answer for answers in await asyncio.gather(*asked) for answer in answers]

    def _check_room(self, count: int) -> None:
        if self._closed:
            raise Unavailable("the server is shutting down")
        if self._count + count > self._max_waiting:
            raise Overloaded(f"{self._count} calls are waiting for the gate already")

    def _queue(
        self, function: Function[Any, Any], partition: int, items: Sequence[Any], *, is_one: bool
    ) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault((function, partition), []).append(_Asked(items, future, is_one))
        self._count += len(items)
        self._idle.clear()
        self._wake.set()
        return future

    async def close(self) -> None:
        """Answers what waits, then closes the connection."""
        self._closed = True
        await self._idle.wait()
        self._flusher.cancel()
        await asyncio.gather(self._flusher, return_exceptions=True)
        await self._connection.close()

    async def _flush_forever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._exchange(self._take())
            self._idle.set()

    def _take(self) -> list[_Call]:
        """What the next exchange carries: a call for each function and partition that has items, bounded in size."""
        calls = []
        left = {}
        for (function, partition), waiting in self._waiting.items():
            taken: list[_Asked] = []
            rest: list[_Asked] = []
            room = self._batch_size
            for asked in waiting:
                count = len(asked.items)
                if asked.future.done():
                    # A caller that has gone (cancelled, or out of time) wants no decision any more.
                    self._count -= count
                elif rest or count > room:
                    rest.append(asked)
                else:
                    taken.append(asked)
                    room -= count
                    self._count -= count
            if rest:
                left[(function, partition)] = rest
            if taken:
                calls.append(_Call(function, partition, taken))
        self._waiting = left
        return calls

    async def _exchange(self, calls: list[_Call]) -> None:
        commands = []
        sent = []
        for call in calls:
            try:
                commands.append(call.function.encode(call.partition, call.items))
                sent.append(call)
            except Exception as error:  # noqa: BLE001  # whatever it is, it must not stop the lane
                call.fail(error)
        if not sent:
            return
        try:
            replies = await self._replies(sent, commands)
            for call, reply in zip(sent, replies, strict=True):
                call.settle(reply)
        except Exception as error:  # whatever it is, it must not stop the lane
            if not isinstance(error, Unavailable):
                log.exception("an exchange with Valkey went wrong")
            for call in sent:
                call.fail(error)

    async def _replies(self, sent: list[_Call], commands: list[Command]) -> list[Any]:
        """The replies, once they are as safe as was promised."""
        deciding = next((call.partition for call in sent if call.function.decides), None)
        own_write = None if deciding is None else self._own_write(deciding)
        if own_write is None:
            return await self._connection.call(commands)
        if self._in_doubt:
            # What no replica would confirm is better not decided.
            await self._connection.call((), own_write)
        self._in_doubt = True
        replies = await self._connection.call(commands, own_write)
        self._in_doubt = False
        return replies


class Lanes:
    """A lane to each node that holds something: one that is slow or away holds up no other."""

    def __init__(self, gate: Gate, settings: Settings) -> None:
        self._gate = gate
        self._timeout_ms = settings.gate_timeout_ms
        self._batch_size = settings.batch_size
        self._max_waiting = settings.max_waiting
        self._by_url: dict[str, Lane] = {}

    def submit(self, function: Function[Item, Answer], partition: int, item: Item) -> asyncio.Future[Answer]:
        """As `Lane.submit`, to the node that holds the partition; Unavailable while there is none."""
        return self._lane(partition).submit(function, partition, item)

    async def ask_each(
        self, function: Function[Item, Answer], partition: int, items: Sequence[Item]
    ) -> list[Answer | Exception]:
        """As `Lane.ask_each`, likewise, but that it raises nothing."""
        try:
            return await self._lane(partition).ask_each(function, partition, items)
        except VouchsafeError as error:
            return [error] * len(items)

    def _lane(self, partition: int) -> Lane:
        url = self._gate.routes.url_of(partition)
        lane = self._by_url.get(url)
        if lane is None:
            lane = self._by_url[url] = Lane(
                Connection(url, self._timeout_ms),
                own_write=self._gate.own_write,
                batch_size=self._batch_size,
                max_waiting=self._max_waiting,
            )
        return lane

    async def close(self) -> None:
        """Answers what waits, then closes the connections."""
        await asyncio.gather(*(lane.close() for lane in self._by_url.values()))
