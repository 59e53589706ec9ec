"""One stream of the load generator: many ask at once, each is given its own answer."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import grpc

from benchmarks.message import number_of


class Pipe:
    """Answers are matched by the number in their request id. A server that tells none answers in order."""

    def __init__(self, call: grpc.aio.StreamStreamCall[Any, bytes], id_prefix: bytes) -> None:
        self._call = call
        self._id_prefix = id_prefix
        self._asked: dict[bytes, asyncio.Future[Any]] = {}
        self._queue: deque[bytes] = deque()
        self._more = asyncio.Event()
        self._ended: Exception | None = None
        self._tasks = [asyncio.create_task(work) for work in (self._write(), self._read())]

    async def ask(self, number: int, request: bytes) -> bytes:
        """The answer. Raises ConnectionError when the stream has ended, or CancelledError when it was cancelled."""
        if self._ended is not None:
            raise self._ended
        future = self._asked[number_of(number)] = asyncio.get_running_loop().create_future()
        self._queue.append(request)
        self._more.set()
        answer: bytes = await future
        return answer

    def cancel(self) -> None:
        """Gives up the stream, and everything that was asked over it."""
        self._call.cancel()

    async def close(self) -> None:
        """Ends a stream over which everything is answered."""
        for task in self._tasks:
            task.cancel()
        self._call.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _write(self) -> None:
        try:
            while True:
                while self._queue:
                    await self._call.write(self._queue.popleft())
                self._more.clear()
                await self._more.wait()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # who reads is told why

    async def _read(self) -> None:
        digits = len(number_of(0))
        try:
            while isinstance(answer := await self._call.read(), bytes):
                at = answer.find(self._id_prefix) + len(self._id_prefix)
                number = answer[at : at + digits]
                if number not in self._asked:
                    number = next(iter(self._asked))
                self._asked.pop(number).set_result(answer)
            self._ended = ConnectionError("the server has ended the stream")
        except grpc.aio.AioRpcError as error:
            self._ended = ConnectionError(f"{error.code().name}: {error.details()}")
        finally:
            for future in self._asked.values():
                if self._ended is not None:
                    future.set_exception(self._ended)
                else:
                    future.cancel()
            self._asked.clear()
