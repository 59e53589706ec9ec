"""What every call passes: its deadline, who may, the rules of its message, and the table of errors."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
import protovalidate
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from vouchsafe.domain.errors import InvalidRequest, Overloaded, Unavailable, Violation
from vouchsafe.edge.access import Access
from vouchsafe.edge.admission import Admission
from vouchsafe.edge.convert_campaigns import definition_violations
from vouchsafe.edge.errors import status_of, told
from vouchsafe.edge.masks import complete, mask_violations
from vouchsafe.edge.paths import field_path
from vouchsafe.edge.probe import METHOD, Probe
from vouchsafe.service.caller import caller
from vouchsafe.v1.buf.validate import validate_pb2
from vouchsafe.v1.campaign_service_pb2 import CreateCampaignRequest, ScheduleCampaignRequest, UpdateCampaignRequest
from vouchsafe.v1.redemption_service_pb2 import BatchValidateAndRedeemRequest

# What needs no credentials: whether the server serves, and what it offers.
PUBLIC = ("/grpc.health.v1.Health/", "/grpc.reflection.v1alpha.ServerReflection/")
# Calls that are an item each, and refused in overload before their message is looked at. Those that end something that
# was begun, and operators', are never refused; those of many items are asked about each of them (`edge.redemptions`).
ADMITTED_ONE_BY_ONE = frozenset(
    f"/vouchsafe.v1.RedemptionService/{name}" for name in ("Validate", "ValidateAndRedeem", "ReserveRedemption")
)
LARGE_MESSAGE_BYTES = 4_096
LARGE_DEFINITION_BYTES = 16_384
TOLD_VIOLATIONS = 20
MAX_BATCH: int = (
    BatchValidateAndRedeemRequest.DESCRIPTOR.fields_by_name["requests"]
    .GetOptions()
    .Extensions[validate_pb2.field]
    .repeated.max_items
)
READ_TO_THE_END_S = 1.0
# The same of one that may never end what it sends.
READ_ON_S = 0.1
# How often it is looked at again who calls, while messages of a stream come.
ADMIT_AGAIN_S = 1.0


class Guard(grpc.aio.ServerInterceptor):
    """Refuses bad messages before they cost anything, and turns every error into a status with details."""

    def __init__(self, access: Access, admission: Admission, probe: Probe | None = None) -> None:
        self._access = access
        self._admission = admission
        self._probe = probe
        self._validator = protovalidate.Validator()
        self._open = False

    def open(self) -> None:
        """Lets calls through from now on; before, all are UNAVAILABLE."""
        self._open = True

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the handlers of all methods but those of health and reflection, which pass untouched."""
        method = handler_call_details.method
        if method.startswith(PUBLIC):
            return await continuation(handler_call_details)
        if method == METHOD and self._probe is not None:
            self._probe.hear(handler_call_details.invocation_metadata)
            return None
        if not self._open:
            # Of a stream, too: nothing but a status is answered.
            return grpc.unary_unary_rpc_method_handler(_refuse_while_starting)
        if method in ADMITTED_ONE_BY_ONE:
            try:
                entered_s = self._admission.enter(1)
            except Overloaded as overloaded:
                return _refusing(overloaded)
            # Of the task of the whole call, so that it is left however that ends, and if nothing of it was ever run.
            task = asyncio.current_task()
            assert task is not None
            task.add_done_callback(lambda _: self._admission.leave(1, entered_s))
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        if handler.request_streaming and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._guarded_exchange(
                    _written(handler.stream_stream), handler.request_deserializer, handler_call_details
                ),
                response_serializer=handler.response_serializer,
            )
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(
                self._guarded_stream(handler.stream_unary, handler.request_deserializer, handler_call_details),
                response_serializer=handler.response_serializer,
            )
        kind, call = grpc.unary_unary_rpc_method_handler, handler.unary_unary
        if handler.response_streaming:
            kind, call = grpc.unary_stream_rpc_method_handler, _written(handler.unary_stream)
        return kind(
            # Bytes that are no message would be UNKNOWN if gRPC read them.
            self._guarded(call, handler.request_deserializer, handler_call_details),
            response_serializer=handler.response_serializer,
        )

    def _guarded_stream(self, call: Any, deserialize: Any, details: grpc.HandlerCallDetails) -> Any:
        """A method that takes a stream: each message is read when its turn comes."""

        async def read(pieces: AsyncIterator[bytes]) -> AsyncIterator[Any]:
            async for data in pieces:
                yield self._read(data, deserialize)

        async def call_reading(pieces: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            return await call(read(pieces), context)

        return self._guarded(call_reading, None, details)

    def _guarded_exchange(self, call: Any, deserialize: Any, details: grpc.HandlerCallDetails) -> Any:
        """A method with a stream in both directions, each message of which is answered by itself: one that is none
        comes to it as InvalidRequest, and what is wrong with others is the method's to find with `check`. It lasts, so
        who calls is looked at again."""
        method, metadata = details.method, details.invocation_metadata

        async def read(pieces: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            admitted = time.monotonic()
            async for data in pieces:
                if time.monotonic() - admitted >= ADMIT_AGAIN_S:
                    caller.set(self._access.admit(method, metadata, context))
                    admitted = time.monotonic()
                try:
                    message = _decoded(data, deserialize)
                except InvalidRequest as error:
                    message = error
                yield message

        async def call_reading(pieces: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            return await call(read(pieces, context), context)

        return self._guarded(call_reading, None, details, READ_ON_S)

    def _guarded(
        self, call: Any, deserialize: Any, details: grpc.HandlerCallDetails, read_on_s: float = READ_TO_THE_END_S
    ) -> Any:
        """`deserialize` is None when the call reads what it gets itself."""
        method, metadata = details.method, details.invocation_metadata

        async def guarded(data: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            remaining_s = context.time_remaining()
            if remaining_s is not None and remaining_s <= 0:
                return await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed before the call")
            try:
                caller.set(self._access.admit(method, metadata, context))
                request = data if deserialize is None else self._read(data, deserialize)
                return await call(request, context)
            except Exception as error:  # noqa: BLE001  # whatever it is, the caller is told
                status = told(error, method)
            if deserialize is None:
                await _read_on(data, read_on_s)
            return await context.abort(*rpc_status.to_status(status))

        return guarded

    def _read(self, data: bytes, deserialize: Any) -> Any:
        request = _decoded(data, deserialize)
        self.check(request, len(data))
        return request

    def check(self, request: Any, size_bytes: int) -> None:
        """Raises InvalidRequest when a message breaks its rules."""
        if isinstance(request, BatchValidateAndRedeemRequest) and 1 <= len(request.requests) <= MAX_BATCH:
            # Each request is checked by itself, and looking at all of them for nothing would cost nearly as much.
            return
        definitions = list(_definitions(request))
        wrong = [one for prefix, part in definitions for one in mask_violations(_paths(part), f"{prefix}update_mask")]
        if wrong:
            raise InvalidRequest(*wrong[:TOLD_VIOLATIONS])
        for _, part in definitions:
            complete(part.definition, _paths(part))
        # A large message may break more rules than there is time to collect, or room to tell.
        large = LARGE_DEFINITION_BYTES if definitions else LARGE_MESSAGE_BYTES
        violations = [
            Violation(field_path(violation.proto.field), violation.proto.message or violation.proto.rule_id)
            for violation in self._validator.collect_violations(request, fail_fast=size_bytes > large)
        ]
        for prefix, part in definitions:
            found = definition_violations(part.definition, is_part=bool(_paths(part)))
            violations += [Violation(prefix + one.field, one.description) for one in found]
        if len(violations) > TOLD_VIOLATIONS:
            untold = len(violations) - TOLD_VIOLATIONS
            violations[TOLD_VIOLATIONS:] = [Violation("request", f"breaks {untold} more rules; mend these first")]
        if violations:
            raise InvalidRequest(*violations)


def _decoded(data: bytes, deserialize: Any) -> Any:
    try:
        return deserialize(data)
    except DecodeError:
        raise InvalidRequest(Violation("request", "is not a message of the type that the method takes")) from None


def _definitions(request: Any) -> Iterator[tuple[str, Any]]:
    """The messages in a request that have a definition, and where each is."""
    if isinstance(request, CreateCampaignRequest | UpdateCampaignRequest):
        yield "", request
    elif isinstance(request, ScheduleCampaignRequest):
        for index, plan in enumerate(request.planned_changes):
            if plan.WhichOneof("change") == "update":
                yield f"planned_changes[{index}].update.", plan.update


def _paths(message: Any) -> list[str]:
    """The fields of its definition that a message is about; none is all."""
    return [] if isinstance(message, CreateCampaignRequest) else list(message.update_mask.paths)


def _written(stream: Any) -> Any:
    """A method that answers with a stream, in the form of one that answers once: it ends when the stream does."""

    async def written(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        # Closed here and not when it is collected: a caller who leaves must leave nothing behind.
        async with contextlib.aclosing(stream(request, context)) as responses:
            async for response in responses:
                await context.write(response)

    return written


async def _read_on(pieces: AsyncIterator[bytes], seconds: float) -> None:
    """Lets a client finish what it sends, for a moment: one whose write fails tells that instead of the status."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            async for _ in pieces:
                pass


async def _refuse_while_starting(_request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
    starting = Unavailable("the server is starting: it waits for its stores")
    return await context.abort(*rpc_status.to_status(status_of(starting, "")))


def _refusing(overloaded: Overloaded) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler that only refuses. As one of streams it is run without its message, and a status that is set costs less
    than one that is raised: this is what a worker spends on those whom it cannot serve."""
    status = rpc_status.to_status(status_of(overloaded, ""))

    async def refuse(_requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        context.set_code(status.code)
        context.set_details(status.details)
        context.set_trailing_metadata(status.trailing_metadata)

    return grpc.stream_stream_rpc_method_handler(refuse)
