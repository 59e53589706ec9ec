"""The load generator, a process of its own: `python -m benchmarks.generator` obeys one JSON order a line.

Responses stay bytes, so that a call costs the generator the same whichever server answers it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass
from typing import Any

import grpc
import uvloop

from benchmarks.message import METHOD, redeem_request

CHANNELS = 4
TIMEOUT_S = 5.0
# Calls under way at once in an open loop; more wait for their turn, and that wait counts.
MOST_AT_ONCE = 2_000

Call = Callable[[int], Coroutine[Any, Any, bytes]]


@dataclass(frozen=True, slots=True)
class Order:
    """What to do. With `rate` (calls a second) the loop is open, otherwise `at_once` callers take turns."""

    target: str
    api_key: str
    code: str
    seconds: float
    at_once: int = 0
    rate: float = 0


@dataclass(frozen=True, slots=True)
class Round:
    """What came of it. Latencies in milliseconds: in an open loop from the moment a call was meant to start."""

    calls: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_s: float
    # The first bytes of the responses: which outcome each one was.
    outcomes: dict[str, int]
    failures: list[str]


class Generator:
    """Sends calls over a few kept connections to each target."""

    def __init__(self) -> None:
        self._calls: dict[str, list[grpc.aio.UnaryUnaryMultiCallable[Any, bytes]]] = {}
        self._number = 0

    async def run(self, order: Order) -> Round:
        """Carries one order out."""
        methods = self._methods(order.target)
        metadata = (("authorization", f"Bearer {order.api_key}"),)
        latencies_ms: list[float] = []
        outcomes: dict[str, int] = {}
        failures: list[str] = []

        async def call(intended: float) -> None:
            self._number += 1
            request = redeem_request(order.code, self._number)
            try:
                response = await methods[self._number % CHANNELS](request, timeout=TIMEOUT_S, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                failures.append(f"{error.code().name}: {error.details()}")
                return
            latencies_ms.append((time.perf_counter() - intended) * 1000)
            outcome = response[:1].hex()
            outcomes[outcome] = outcomes.get(outcome, 0) + 1

        cpu = time.process_time()
        started = time.perf_counter()
        if order.rate:
            await _open_loop(call, order.rate, order.seconds)
        else:
            await _closed_loop(call, order.at_once, order.seconds)
        latencies_ms.sort()
        return Round(
            calls=len(latencies_ms),
            seconds=time.perf_counter() - started,
            p50_ms=_percentile(latencies_ms, 0.50),
            p99_ms=_percentile(latencies_ms, 0.99),
            cpu_s=time.process_time() - cpu,
            outcomes=outcomes,
            failures=failures[:3],
        )

    def _methods(self, target: str) -> list[grpc.aio.UnaryUnaryMultiCallable[Any, bytes]]:
        if target not in self._calls:
            options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
            self._calls[target] = [
                grpc.aio.insecure_channel(target, options=options).unary_unary(
                    METHOD, request_serializer=lambda message: message.SerializeToString()
                )
                for _ in range(CHANNELS)
            ]
        return self._calls[target]


async def _closed_loop(call: Callable[[float], Coroutine[Any, Any, None]], at_once: int, seconds: float) -> None:
    until = time.perf_counter() + seconds

    async def caller() -> None:
        while (now := time.perf_counter()) < until:
            await call(now)

    await asyncio.gather(*(caller() for _ in range(at_once)))


async def _open_loop(call: Callable[[float], Coroutine[Any, Any, None]], rate: float, seconds: float) -> None:
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


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


async def _obey() -> None:
    generator = Generator()
    while line := await asyncio.to_thread(sys.stdin.readline):
        done = await generator.run(Order(**json.loads(line)))
        sys.stdout.write(json.dumps(asdict(done)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(_obey())
