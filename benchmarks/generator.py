"""The load generator, a process of its own: `python -m benchmarks.generator` obeys one JSON order a line.

Requests are bytes that were serialised before the round and responses stay bytes, so that a call costs the generator as
little as can be, and the same whichever server answers it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import grpc
import uvloop

from benchmarks.message import BATCH, LINES, METHODS, Requests, Way
from benchmarks.pipe import Pipe

CHANNELS = 4
TIMEOUT_S = 5.0
# Calls under way at once in an open loop; more wait for their turn, and that wait counts.
MOST_AT_ONCE = 2_000
# Who failed does not try again at once.
PAUSE_S = 0.01
# Within so long a call that is to be cancelled is.
CANCEL_WITHIN_S = 0.02

# How a response with a redemption begins, which is field 1 of it.
REDEEMED = "0a"

# Sends the request of a shopper, or of those from it on, and answers the response.
Ask = Callable[[int], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Order:
    """What to do. With `rate` (calls a second) the loop is open, otherwise `at_once` callers take turns, until the time
    is over or, if `items` is given, so many are asked for. Of `cancel_every` calls one is cancelled while it is under
    way, of streams so many that as large a share of the requests is."""

    target: str
    api_key: str
    codes: Sequence[str]
    seconds: float
    at_once: int = 0
    rate: float = 0
    way: Way = "unary"
    lines: int = LINES
    items: int = 0
    cancel_every: int = 0


@dataclass(frozen=True, slots=True)
class Round:
    """What came of it. Latencies in milliseconds: in an open loop from the moment a call was meant to start."""

    calls: int
    items: int
    seconds: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    cpu_s: float
    # Items of calls that were cancelled, and may have been redeemed.
    cancelled: int
    # The first bytes of the responses of unary calls, as REDEEMED: which outcome each one was.
    outcomes: dict[str, int]
    failures: list[str]


@dataclass(slots=True)
class Tally:
    """What has come so far; times in seconds."""

    latencies: list[float] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)
    cancelled: int = 0
    failures: list[str] = field(default_factory=list)


class Generator:
    """Sends calls over a few kept connections to each target."""

    def __init__(self) -> None:
        self._channels: dict[str, list[grpc.aio.Channel]] = {}
        self._number = 0

    async def run(self, order: Order) -> Round:
        """Carries one order out. Raises TimeoutError when answers do not come."""
        requests = Requests(order.codes, lines=order.lines)
        size = BATCH if order.way == "batch" else 1
        done = Tally()
        last = self._number + order.items

        def has_more() -> bool:
            return not order.items or self._number < last

        async with self._way(order, requests) as ask:

            async def call(intended: float) -> None:
                number = self._number
                self._number += size
                try:
                    response = await ask(number)
                except (grpc.aio.AioRpcError, ConnectionError) as error:
                    done.failures.append(_told(error))
                    await asyncio.sleep(PAUSE_S)
                    return
                except asyncio.CancelledError:
                    if not order.cancel_every:
                        raise
                    done.cancelled += size
                    return
                done.latencies.append(time.perf_counter() - intended)
                if order.way == "unary":
                    outcome = response[:1].hex()
                    done.outcomes[outcome] = done.outcomes.get(outcome, 0) + 1

            cpu = time.process_time()
            started = time.perf_counter()
            async with asyncio.timeout(order.seconds + 2 * TIMEOUT_S):
                if order.rate:
                    await open_loop(call, order.rate, order.seconds)
                else:
                    await closed_loop(call, order.at_once, order.seconds, has_more)
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        ordered = sorted(done.latencies)
        p50_ms, p99_ms, p999_ms = (1_000 * percentile(ordered, share) for share in (0.5, 0.99, 0.999))
        return Round(
            calls=len(ordered),
            items=len(ordered) * size,
            seconds=seconds,
            p50_ms=p50_ms,
            p99_ms=p99_ms,
            p999_ms=p999_ms,
            cpu_s=cpu,
            cancelled=done.cancelled,
            outcomes=done.outcomes,
            failures=done.failures[:3],
        )

    @contextlib.asynccontextmanager
    async def _way(self, order: Order, requests: Requests) -> AsyncIterator[Ask]:
        channels = self._to(order.target)
        metadata = (("authorization", f"Bearer {order.api_key}"),)
        if order.way == "stream":
            pipes = Pipes(channels, metadata, requests, order)
            try:
                yield pipes.ask
            finally:
                await pipes.close()
            return
        methods: list[Any] = [channel.unary_unary(METHODS[order.way]) for channel in channels]
        make = requests.batch if order.way == "batch" else requests.unary
        calls = 0

        async def ask(number: int) -> bytes:
            nonlocal calls
            calls += 1
            call: Any = methods[calls % CHANNELS](make(number), timeout=TIMEOUT_S, metadata=metadata)
            if order.cancel_every and calls % order.cancel_every == 0:
                _cancel_soon(call)
            response: bytes = await call
            return response

        yield ask

    def _to(self, target: str) -> list[grpc.aio.Channel]:
        if target not in self._channels:
            options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
            self._channels[target] = [grpc.aio.insecure_channel(target, options=options) for _ in range(CHANNELS)]
        return self._channels[target]


class Pipes:
    """A stream on each connection, and another when one was cancelled."""

    def __init__(self, channels: Sequence[grpc.aio.Channel], metadata: Any, requests: Requests, order: Order) -> None:
        self._open = [self._opener(channel, metadata, requests.id_prefix) for channel in channels]
        self._pipes = [opened() for opened in self._open]
        self._cancelled: list[Pipe] = []
        self._make = requests.stream
        # Everything that is under way over a stream is cancelled with it.
        self._cancel_every = order.cancel_every * max(1, order.at_once // len(channels))
        self._asked = 0

    @staticmethod
    def _opener(channel: grpc.aio.Channel, metadata: Any, id_prefix: bytes) -> Callable[[], Pipe]:
        method: Any = channel.stream_stream(METHODS["stream"])
        return lambda: Pipe(method(metadata=metadata), id_prefix)

    async def ask(self, number: int) -> bytes:
        """The answer to a shopper's request."""
        self._asked += 1
        at = self._asked % len(self._pipes)
        pipe = self._pipes[at]
        if self._cancel_every and self._asked % self._cancel_every == 0:
            self._pipes[at] = self._open[at]()
            self._cancelled.append(pipe)
            _cancel_soon(pipe)
        return await pipe.ask(number, self._make(number))

    async def close(self) -> None:
        """Ends all streams."""
        for pipe in (*self._pipes, *self._cancelled):
            await pipe.close()


async def closed_loop(
    call: Callable[[float], Awaitable[None]], at_once: int, seconds: float, has_more: Callable[[], bool]
) -> None:
    """So many callers, each of whom calls again as soon as it has an answer."""
    until = time.perf_counter() + seconds

    async def caller() -> None:
        while has_more() and (now := time.perf_counter()) < until:
            await call(now)

    await asyncio.gather(*(caller() for _ in range(at_once)))


async def open_loop(call: Callable[[float], Awaitable[None]], rate: float, seconds: float) -> None:
    """Calls are meant to start at even distances, whether or not earlier ones have been answered."""
    room = asyncio.Semaphore(MOST_AT_ONCE)
    started = time.perf_counter()

    async def one(intended: float) -> None:
        await call(intended)
        room.release()

    async with asyncio.TaskGroup() as tasks:
        for number in range(int(rate * seconds)):
            intended = started + number / rate
            if (early_s := intended - time.perf_counter()) > 0:
                await asyncio.sleep(early_s)  # the loop's timers are up to a millisecond late, whoever is called
            await room.acquire()
            tasks.create_task(one(intended))


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that so large a share of the values does not pass; not a number for none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


def _cancel_soon(call: Any) -> None:
    asyncio.get_running_loop().call_later(random.uniform(0, CANCEL_WITHIN_S), call.cancel)  # noqa: S311  # for variety


def _told(error: Exception) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error)


async def _obey() -> None:
    generator = Generator()
    while line := await asyncio.to_thread(sys.stdin.readline):
        done = await generator.run(Order(**json.loads(line)))
        sys.stdout.write(json.dumps(asdict(done)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(_obey())
