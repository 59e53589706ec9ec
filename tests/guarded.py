"""A service that tells what it has counted of guesses, and callers as it meets them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import urllib.request
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status
from prometheus_client.parser import text_string_to_metric_families

from tests.service import Service, a_service, an_order, until
from vouchsafe import app
from vouchsafe.client import Customer
from vouchsafe.domain.access import Role
from vouchsafe.embedded import free_port
from vouchsafe.v1 import redemption_service_pb2 as pb
from vouchsafe.v1.redemption_service_pb2_grpc import RedemptionServiceStub

WORKERS = 2
# So many that each worker has some of them.
CONNECTIONS = 12
NUMBERS = itertools.count()
# A call is answered or refused, but not given up, on a machine that is busy with the other tests.
PATIENCE_MS = "20000"
# What a caller is answered whom a worker does not know yet.
NOT_YET = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Service]:
    """Two workers that tell what they count."""
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("VOUCHSAFE_SERVER_METRICS_PORT", str(free_port()))
            patch.setenv("VOUCHSAFE_GATE_TIMEOUT_MS", PATIENCE_MS)
            running = stack.enter_context(a_service(tmp_path_factory.mktemp("guarded"), pytestconfig, workers=WORKERS))
        yield running


def fresh(name: str) -> str:
    """A name that no other test has used."""
    return f"{name}-{next(NUMBERS)}-{uuid.uuid4().hex[:8]}"


async def a_key(service: Service, role: Role) -> str:
    """A key of a caller of its own."""
    return await app.create_key(service.settings, fresh(role), [role], None)


class Caller:
    """Calls of one principal, by all workers."""

    def __init__(self, service: Service, key: str) -> None:
        options = (("grpc.use_local_subchannel_pool", 1),)
        self._channels = [grpc.aio.insecure_channel(service.target, options=options) for _ in range(CONNECTIONS)]
        stubs: list[Any] = [RedemptionServiceStub(channel) for channel in self._channels]
        self._all, self._stubs = stubs, itertools.cycle(stubs)
        self._metadata = (("authorization", f"Bearer {key}"),)

    async def __aenter__(self) -> Caller:
        """Once the worker at the end of each connection has read the key."""
        for stub in self._all:
            await until(lambda stub=stub: self._is_known(stub), timeout_s=60)  # type: ignore[misc]
        return self

    async def _is_known(self, stub: Any) -> bool:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetRedemption(pb.GetRedemptionRequest(), metadata=self._metadata, timeout=20)
        return caught.value.code() not in NOT_YET

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def ask(self, request: Any) -> Any:
        """The response, or the error."""
        stub = next(self._stubs)
        method = {
            pb.ValidateRequest: stub.Validate,
            pb.ValidateAndRedeemRequest: stub.ValidateAndRedeem,
            pb.ReserveRedemptionRequest: stub.ReserveRedemption,
        }[type(request)]
        try:
            return await method(request, metadata=self._metadata, timeout=60)
        except grpc.aio.AioRpcError as error:
            return error

    async def validate(self, code: str, customer_id: str, source: str = "") -> Any:
        customer = Customer(id=customer_id, source=source)
        return await self.ask(pb.ValidateRequest(codes=[code], customer=customer, order=an_order(fresh("o"))))

    async def redeem(self, code: str, customer_id: str, source: str = "") -> Any:
        order = an_order(fresh("o"))
        customer = Customer(id=customer_id, source=source)
        return await self.ask(
            pb.ValidateAndRedeemRequest(request_id=order.id, codes=[code], customer=customer, order=order)
        )


def is_throttled(answer: Any) -> bool:
    """Whether it is the error for who has failed too often, with all that belongs to it."""
    if not isinstance(answer, grpc.aio.AioRpcError):
        return False
    assert answer.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, answer
    return retry_of(answer) > 0


def retry_of(error: grpc.aio.AioRpcError) -> float:
    status: Any = rpc_status.from_call(error)
    info, retry = ErrorInfo(), RetryInfo()
    assert status.details[0].Unpack(info)
    assert info.reason == "THROTTLED"
    assert status.details[1].Unpack(retry)
    return float(retry.retry_delay.ToMilliseconds() / 1_000)


def throttled_by(error: grpc.aio.AioRpcError) -> str:
    status: Any = rpc_status.from_call(error)
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    return info.metadata["by"]


def counted(service: Service) -> dict[str, float]:
    """What the workers have counted, by name and label."""
    address = f"http://{service.settings.host}:{service.settings.server_metrics_port}/metrics"
    with urllib.request.urlopen(address, timeout=20) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    samples = [sample for family in families for sample in family.samples]
    assert {name for sample in samples for name in sample.labels} <= {"by"}
    return {" ".join((sample.name, *sample.labels.values())): sample.value for sample in samples}


def store_ms(service: Service) -> int:
    seconds, micros = next(iter(service.valkeys())).time()
    return int(seconds) * 1_000 + int(micros) // 1_000


async def gathered(calls: Sequence[Callable[[], Awaitable[Any]]], at_once: int) -> list[Any]:
    """Makes the calls, so many at a time."""
    slots = asyncio.Semaphore(at_once)

    async def one(call: Callable[[], Awaitable[Any]]) -> Any:
        async with slots:
            return await call()

    return await asyncio.gather(*map(one, calls))
