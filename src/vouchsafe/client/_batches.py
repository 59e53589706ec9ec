"""Redeeming many requests in one call, with those repeated that may fare better."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence

import grpc

from vouchsafe.client._calls import Tries, may_be_repeated
from vouchsafe.client._errors import ClientError, from_rpc_error, retry_delay_s
from vouchsafe.client._streams import error_of
from vouchsafe.v1 import redemption_service_pb2 as pb

Call = Callable[[pb.BatchValidateAndRedeemRequest, float], Awaitable[pb.BatchValidateAndRedeemResponse]]


async def redeem_in_batches(
    call: Call, requests: Sequence[pb.ValidateAndRedeemRequest], tries: Tries
) -> list[pb.ValidateAndRedeemResponse | ClientError]:
    """The answers in the order of the requests, or what each failed with. `call` has so many seconds."""
    asked = [_with_id(request) for request in requests]
    answers: dict[int, pb.ValidateAndRedeemResponse] = {}
    errors: dict[int, grpc.aio.AioRpcError] = {}
    left = list(range(len(asked)))
    while left:
        batch = pb.BatchValidateAndRedeemRequest(requests=[asked[place] for place in left])
        try:
            results = (await call(batch, tries.remaining_s)).results
        except grpc.aio.AioRpcError as error:
            # What the server said of a request before says more than that there was no time for another try.
            late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            errors = dict.fromkeys(left, error) | (errors if late else {})
        else:
            told = dict(zip(left, results, strict=True))
            answers |= {place: one.response for place, one in told.items() if not one.HasField("error")}
            errors |= {place: error_of(one.error) for place, one in told.items() if one.HasField("error")}
        left = [place for place in left if place not in answers and may_be_repeated(errors[place])]
        if left:
            try:
                await tries.wait_after(max((errors[place] for place in left), key=retry_delay_s))
            except ClientError:
                break
    return [answers.get(place) or _typed(errors[place], request) for place, request in enumerate(asked)]


def _with_id(request: pb.ValidateAndRedeemRequest) -> pb.ValidateAndRedeemRequest:
    if request.request_id:
        return request
    given = pb.ValidateAndRedeemRequest(request_id=str(uuid.uuid4()))
    given.MergeFrom(request)
    return given


def _typed(error: grpc.aio.AioRpcError, request: pb.ValidateAndRedeemRequest) -> ClientError:
    typed = from_rpc_error(error)
    typed.request_id = request.request_id
    return typed
