"""Callers who come at their own pace, whoever is answered: `python -m benchmarks.open_loop` obeys JSON orders by line.

A process of its own. On a machine with few cores it takes from the server what shoppers elsewhere would not, so whoever
starts it measures the CPU that the server was given.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import grpc
import uvloop
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status

from benchmarks.message import BATCH, METHODS, Requests, Way
from benchmarks.processes import child
from vouchsafe.v1.redemption_service_pb2 import (
    BatchValidateAndRedeemResponse,
    RedemptionResult,
    ValidateAndRedeemResponse,
)

CHANNELS = 4
# As a checkout would wait.
TIMEOUT_S = 2.0
# Tries of a caller who comes again, and the longest pause between them: as the Python client.
TRIES = 5
LONGEST_PAUSE_S = 1.0
DROPPED_RETRY_S = 0.25
RETRY_INFO = f"/{RetryInfo.DESCRIPTOR.full_name}"


@dataclass(frozen=True, slots=True)
class Order:
    """So many requests a second for so long, in calls of their own or in batches. With `comes_again`, a call that is
    refused is repeated after what the server asks for."""

    target: str
    api_key: str
    code: str
    seconds: float
    rate: float
    way: Way = "unary"
    comes_again: bool = False


@dataclass(slots=True)
class Crowd:
    """What came of the requests that were sent. `ends` counts them by how they ended: redeemed, refused (with a time to
    come again), dropped (without), or the status. In milliseconds: how long calls took in which some were redeemed, or
    refused, and how far behind its own pace the generator was with each."""

    seconds: float = 0
    redeemed_ms: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)
    ends: dict[str, int] = field(default_factory=dict)

    def __iadd__(self, other: Crowd) -> Crowd:
        self.seconds = max(self.seconds, other.seconds)
        self.redeemed_ms += other.redeemed_ms
        self.refused_ms += other.refused_ms
        self.late_ms += other.late_ms
        for end, count in other.ends.items():
            self.count(end, count)
        return self

    def count(self, end: str, count: int = 1) -> None:
        """So many calls ended so."""
        self.ends[end] = self.ends.get(end, 0) + count


@contextlib.contextmanager
def crowd_of(order: Order) -> Iterator[subprocess.Popen[str]]:
    """A process that carries out the order; read the answer with `crowd_from`."""
    with child("benchmarks.open_loop") as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(asdict(order)) + "\n")
        process.stdin.flush()
        yield process


def crowd_from(process: subprocess.Popen[str]) -> Crowd:
    """Waits until the process is done."""
    assert process.stdout is not None
    return Crowd(**json.loads(process.stdout.readline()))


async def run(order: Order) -> Crowd:
    """Carries one order out."""
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
    channels = [grpc.aio.insecure_channel(order.target, options=options) for _ in range(CHANNELS)]
    methods: list[Any] = [channel.unary_unary(METHODS[order.way]) for channel in channels]
    metadata = (("authorization", f"Bearer {order.api_key}"),)
    requests = Requests([order.code])
    make, size = (requests.batch, BATCH) if order.way == "batch" else (requests.unary, 1)
    crowd = Crowd()

    async def caller(number: int, intended: float) -> None:
        crowd.late_ms.append((time.perf_counter() - intended) * 1_000)
        for attempt in range(TRIES if order.comes_again else 1):
            sent = time.perf_counter()
            call = methods[number % CHANNELS](make(number * size), timeout=TIMEOUT_S, metadata=metadata)
            ends, retry_s = await _ends_of(order.way, size, call)
            took_ms = (time.perf_counter() - sent) * 1_000
            for end in ends:
                crowd.count(end)
            if "redeemed" in ends:
                crowd.redeemed_ms.append(took_ms)
            if "refused" in ends:
                crowd.refused_ms.append(took_ms)
            if not order.comes_again or "redeemed" in ends:
                return
            pause_s = min(max(0.05 * 2**attempt, 2 * retry_s), LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311  # for variety

    started = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number in range(int(order.rate / size * order.seconds)):
            intended = started + number * size / order.rate
            if (early_s := intended - time.perf_counter()) > 0:
                await asyncio.sleep(early_s)
            elif not number % 16:
                await asyncio.sleep(0)  # late: answers have to be read all the same
            tasks.create_task(caller(number, intended))
        crowd.seconds = time.perf_counter() - started
    await asyncio.gather(*(channel.close() for channel in channels))
    return crowd


async def _ends_of(way: Way, size: int, call: Awaitable[bytes]) -> tuple[list[str], float]:
    """How each request of a call ended, and after how many seconds a call that was refused shall come again."""
    try:
        data = await call
    except grpc.aio.AioRpcError as error:
        end, retry_s = _end_of(error)
        return [end] * size, retry_s
    if way == "batch":
        return [_end_in(result) for result in BatchValidateAndRedeemResponse.FromString(data).results], 0
    response = ValidateAndRedeemResponse.FromString(data)
    return ["redeemed" if response.HasField("redemption") else "no redemption"], 0


def _end_in(result: RedemptionResult) -> str:
    if result.WhichOneof("result") == "response":
        return "redeemed" if result.response.HasField("redemption") else "no redemption"
    comes_again = any(detail.type_url.endswith(RETRY_INFO) for detail in result.error.details)
    return "refused" if comes_again else Code.Name(result.error.code)


def _end_of(error: grpc.aio.AioRpcError) -> tuple[str, float]:
    """How a call ended, and after how many seconds its caller shall come again."""
    retry = RetryInfo()
    status = rpc_status.from_call(error)
    if status is not None and any(detail.Unpack(retry) for detail in status.details):
        return "refused", retry.retry_delay.ToMilliseconds() / 1_000
    return ("dropped", DROPPED_RETRY_S) if error.code() is grpc.StatusCode.CANCELLED else (error.code().name, 0.0)


async def _obey() -> None:
    while line := await asyncio.to_thread(sys.stdin.readline):
        done = await run(Order(**json.loads(line)))
        sys.stdout.write(json.dumps(asdict(done)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(_obey())
