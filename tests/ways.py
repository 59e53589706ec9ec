"""The three ways to redeem, as tests use them: without the client, and with answers that can be compared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from tests.service import an_order
from vouchsafe.client import Customer
from vouchsafe.v1 import redemption_service_pb2 as pb
from vouchsafe.v1.redemption_service_pb2_grpc import RedemptionServiceStub

TIMEOUT_S = 60
Metadata = tuple[tuple[str, str], ...]
Answer = pb.ValidateAndRedeemResponse | Status
Way = Callable[
    [grpc.aio.Channel, Metadata, Sequence[pb.ValidateAndRedeemRequest]],
    Awaitable[list[Answer]],
]


def a_request(*codes: str, id_: str, customer: str = "", source: str = "") -> pb.ValidateAndRedeemRequest:
    """Of an order of its own."""
    return pb.ValidateAndRedeemRequest(
        request_id=id_, codes=codes, customer=Customer(id=customer or id_, source=source), order=an_order(id_)
    )


async def by_calls(
    channel: grpc.aio.Channel, metadata: Metadata, requests: Sequence[pb.ValidateAndRedeemRequest]
) -> list[Answer]:
    stub = RedemptionServiceStub(channel)

    async def call(request: pb.ValidateAndRedeemRequest) -> Answer:
        try:
            return await stub.ValidateAndRedeem(request, metadata=metadata, timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            return status_of(error)

    return await asyncio.gather(*map(call, requests))


async def by_stream(
    channel: grpc.aio.Channel, metadata: Metadata, requests: Sequence[pb.ValidateAndRedeemRequest]
) -> list[Answer]:
    """A request id may be there several times, then it does not matter which answer is whose."""

    async def messages() -> AsyncIterator[pb.StreamValidateAndRedeemRequest]:
        for request in requests:
            yield pb.StreamValidateAndRedeemRequest(request=request)

    line = RedemptionServiceStub(channel).StreamValidateAndRedeem(messages(), metadata=metadata, timeout=TIMEOUT_S)
    answers: dict[str, list[Answer]] = {}
    async for message in line:
        answers.setdefault(message.result.request_id, []).append(_answer(message.result))
    assert sum(map(len, answers.values())) == len(requests)
    return [answers[request.request_id[:128]].pop() for request in requests]


async def by_batch(
    channel: grpc.aio.Channel, metadata: Metadata, requests: Sequence[pb.ValidateAndRedeemRequest]
) -> list[Answer]:
    stub = RedemptionServiceStub(channel)
    batch = pb.BatchValidateAndRedeemRequest(requests=requests)
    results = (await stub.BatchValidateAndRedeem(batch, metadata=metadata, timeout=TIMEOUT_S)).results
    assert [result.request_id for result in results] == [request.request_id[:128] for request in requests]
    return [_answer(result) for result in results]


WAYS: Mapping[str, Way] = {"calls": by_calls, "stream": by_stream, "batch": by_batch}


@dataclass(frozen=True, slots=True)
class Told:
    """What an error tells."""

    code: int
    message: str
    reason: str
    metadata: dict[str, str]
    violations: list[tuple[str, str]]
    is_repeatable: bool


def told(status: Status) -> Told:
    info, bad, retry = ErrorInfo(), BadRequest(), RetryInfo()
    is_repeatable = False
    for detail in status.details:
        is_repeatable |= detail.Unpack(retry)
        _ = detail.Unpack(info) or detail.Unpack(bad)
    violations = [(one.field, one.description) for one in bad.field_violations]
    return Told(status.code, status.message, info.reason, dict(info.metadata), violations, is_repeatable)


def status_of(error: grpc.aio.AioRpcError) -> Status:
    found: Status | None = rpc_status.from_call(error)
    return Status(code=error.code().value[0], message=error.details() or "") if found is None else found


def _answer(result: pb.RedemptionResult) -> Answer:
    return result.error if result.HasField("error") else result.response
