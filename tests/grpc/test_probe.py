"""The probe waits where callers wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from tests.service import until
from vouchsafe.edge.admission import Admission
from vouchsafe.edge.probe import INTERVAL_S, METHOD, Probe

BUSY_S = 0.02
CALLS = 30


class Busy(grpc.aio.ServerInterceptor):
    """Keeps the event loop from doing anything else for a moment, with each call but the probe's."""

    async def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if handler_call_details.method != METHOD:
            time.sleep(BUSY_S)  # noqa: ASYNC251  # that is what it is for
        return await continuation(handler_call_details)


@asynccontextmanager
async def probed(*options: tuple[str, int]) -> AsyncIterator[tuple[Admission, Any]]:
    """An admission that is told by a probe, and a method that nobody answers, in the same queue."""
    admission = Admission(1, 100)
    probe = Probe(admission)
    server = grpc.aio.server(interceptors=(Busy(),), options=options)
    server.add_generic_rpc_handlers((probe,))
    address = probe.open()
    server.add_insecure_port(address)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    running = asyncio.create_task(probe.run())
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield admission, channel
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        probe.close()
        await server.stop(0)


async def call(channel: grpc.aio.Channel, method: str = "/a.Service/Method") -> grpc.StatusCode:
    ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(b"", timeout=20, metadata=(("token", "a guess"),))
    return caught.value.code()


async def most(admission: Admission, calls: asyncio.Future[Any]) -> tuple[float, bool]:
    """The longest wait that is told until the first probe after the calls, and whether it ever was overload."""
    longest_s, overloaded, behind = 0.0, False, asyncio.get_running_loop().time() + 60
    while asyncio.get_running_loop().time() < behind:
        longest_s, overloaded = max(longest_s, admission.wait_s), overloaded or admission.is_overloaded
        if calls.done():
            behind = min(behind, asyncio.get_running_loop().time() + 4 * INTERVAL_S)
        await asyncio.sleep(0)
    return longest_s, overloaded


async def test_it_tells_how_long_calls_wait() -> None:
    async with probed() as (admission, channel):
        longest_s, _ = await most(admission, asyncio.gather(*(call(channel) for _ in range(CALLS))))
        # It began to wait when most of them did.
        assert CALLS * BUSY_S / 3 < longest_s < 20
        await until(lambda: _is_short(admission))
        assert not admission.is_overloaded


async def _is_short(admission: Admission) -> bool:
    return admission.wait_s < BUSY_S


async def test_that_calls_are_dropped_is_overload() -> None:
    bounds = (("grpc.server.max_pending_requests", 1), ("grpc.server.max_pending_requests_hard_limit", 2))
    async with probed(*bounds) as (admission, channel):
        ends = set()

        async def shop() -> None:
            for _ in range(CALLS):
                ends.add(await call(channel))

        _, overloaded = await most(admission, asyncio.gather(*(shop() for _ in range(10))))
        assert ends == {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNIMPLEMENTED}
        assert overloaded


async def test_a_stranger_who_knocks_gets_no_answer() -> None:
    async with probed() as (_, channel):
        assert await call(channel, METHOD) is grpc.StatusCode.UNIMPLEMENTED
