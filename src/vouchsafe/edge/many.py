"""Many requests over one call: each is answered by itself, and one that fails fails alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, Generic, TypeVar

from vouchsafe.domain.errors import Overloaded, Unavailable

# Requests of one stream that are read and whose answers are not written.
MAX_UNDER_WAY = 1_000
MAX_STREAMS = 1_000
# How long what is under way may take when the caller may not go on.
LAST_ANSWERS_S = 1.0
# Requests of a batch that begin before others get their turn.
SLICE = 64

Request = TypeVar("Request")
Answer = TypeVar("Answer")


async def answer_batch(
    requests: Sequence[Request], answer_each: Callable[[Sequence[Request]], Coroutine[Any, Any, Sequence[Answer]]]
) -> list[Answer]:
    """The answers, in the order of their requests; all are under way together. `answer_each` raises nothing."""
    async with asyncio.TaskGroup() as group:
        tasks = []
        for at in range(0, len(requests), SLICE):
            tasks.append(group.create_task(answer_each(requests[at : at + SLICE])))
            await asyncio.sleep(0)
    return [answer for task in tasks for answer in task.result()]


class Streams:
    """The streams of a worker, which would never end by themselves."""

    def __init__(self) -> None:
        self._open: set[_Stream[Any, Any]] = set()
        self._closed = False

    def close(self) -> None:
        """Nothing more is read. What is under way is answered, then each stream ends with Unavailable."""
        self._closed = True
        for stream in self._open:
            stream.close()

    async def answers(
        self, requests: AsyncIterator[Request], answer: Callable[[Request], Coroutine[Any, Any, Answer]]
    ) -> AsyncGenerator[Answer, None]:
        """The answers, each as soon as it is there; `answer` raises nothing. An answer counts as taken when the next is
        asked for. Raises what `requests` raises, Overloaded when there are too many streams already, and Unavailable
        after `close`; what is under way is answered first."""
        if self._closed:
            raise _closing()
        if len(self._open) >= MAX_STREAMS:
            raise Overloaded(f"{len(self._open)} streams are open already")
        stream = _Stream(requests, answer)
        self._open.add(stream)
        try:
            async with aclosing(stream.answers()) as answers:
                async for one in answers:
                    yield one
        finally:
            self._open.discard(stream)


class _Stream(Generic[Request, Answer]):
    """One stream: a task that reads, one for each request under way, and one that waits for the last of them."""

    def __init__(
        self, requests: AsyncIterator[Request], answer: Callable[[Request], Coroutine[Any, Any, Answer]]
    ) -> None:
        self._answer = answer
        self._slots = asyncio.Semaphore(MAX_UNDER_WAY)
        self._under_way: set[asyncio.Task[None]] = set()
        # None is behind the last.
        self._answered: asyncio.Queue[Answer | None] = asyncio.Queue()
        self._reader = asyncio.create_task(self._read(requests))
        self._last = asyncio.create_task(self._wait_for_last())

    def close(self) -> None:
        """Reads nothing more."""
        self._reader.cancel()

    async def answers(self) -> AsyncGenerator[Answer, None]:
        """As `Streams.answers`."""
        try:
            while (answer := await self._answered.get()) is not None:
                yield answer
                self._slots.release()
            if self._reader.cancelled():
                raise _closing()
            self._reader.result()
        finally:
            left = (self._reader, self._last, *self._under_way)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[Request]) -> None:
        """Begins with each request as it comes. The next is not read before there is room for it: who does not take
        its answers holds up nobody else, and costs no more memory than this."""
        while True:
            await self._slots.acquire()
            try:
                request = await anext(requests)
            except StopAsyncIteration:
                return
            task = asyncio.create_task(self._answer_one(request))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _answer_one(self, request: Request) -> None:
        self._answered.put_nowait(await self._answer(request))

    async def _wait_for_last(self) -> None:
        await asyncio.wait((self._reader,))
        if self._under_way:
            refused = not self._reader.cancelled() and self._reader.exception() is not None
            await asyncio.wait(self._under_way, timeout=LAST_ANSWERS_S if refused else None)
        self._answered.put_nowait(None)


def _closing() -> Unavailable:
    return Unavailable("the server is shutting down; open another stream")
