"""What every call passes: its deadline, who may, the rules of its message, and the table of errors."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import grpc
from grpc_status import rpc_status

from vouchsafe.domain.errors import InvalidRequest, Overloaded, Unavailable
from vouchsafe.edge.access import Access
from vouchsafe.edge.admission import Admission
from vouchsafe.edge.errors import status_of, told
from vouchsafe.edge.message_rules import MessageRules, decoded
from vouchsafe.service.caller import caller

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

# Calls that are an item each, and refused in overload before their message is looked at. Those that end something that
# was begun, and operators', are never refused; those of many items are asked about each of them (`edge.redemptions`).
ADMITTED_ONE_BY_ONE = frozenset(
    f"/vouchsafe.v1.RedemptionService/{name}" for name in ("Validate", "ValidateAndRedeem", "ReserveRedemption")
)
# What begins something new.
BEGINNING = ADMITTED_ONE_BY_ONE | {
    f"/vouchsafe.v1.RedemptionService/{name}" for name in ("StreamValidateAndRedeem", "BatchValidateAndRedeem")
}
# Most calls are of this one, and take their steps together: reading is one of them (`service.together`).
READ_LATER = "/vouchsafe.v1.RedemptionService/ValidateAndRedeem"
READ_TO_THE_END_S = 1.0
# The same of one that may never end what it sends.
READ_ON_S = 0.1
# How often it is looked at again who calls, while messages of a stream come.
ADMIT_AGAIN_S = 1.0


class Guard:
    """Refuses bad messages before they cost anything, and turns every error into a status with details."""

    def __init__(self, access: Access, admission: Admission, rules: MessageRules) -> None:
        self._access = access
        self._admission = admission
        self._rules = rules
        self._open = False

    def open(self) -> None:
        """Lets calls through from now on; before, all are UNAVAILABLE."""
        self._open = True

    def guarded(self, method: str, handler: Handler) -> Handler:
        """The same method, guarded."""
        # Bytes that are no message would be UNKNOWN if gRPC read them.
        deserialize, serialize = handler.request_deserializer, handler.response_serializer
        if handler.request_streaming and handler.response_streaming:
            exchange = self._exchange(method, _written(handler.stream_stream), deserialize)
            return grpc.stream_stream_rpc_method_handler(exchange, response_serializer=serialize)
        if handler.request_streaming:
            stream = self._stream(method, handler.stream_unary, deserialize)
            return grpc.stream_unary_rpc_method_handler(stream, response_serializer=serialize)
        if handler.response_streaming:
            call = self._call(method, _written(handler.unary_stream), deserialize)
            return grpc.unary_stream_rpc_method_handler(call, response_serializer=serialize)
        call = self._call(method, handler.unary_unary, deserialize)
        return grpc.unary_unary_rpc_method_handler(call, response_serializer=serialize)

    def admitted(self, method: str, handler: Handler) -> Handler:
        """The handler for a call that has just arrived, of which not even the message was read: in overload one that
        refuses."""
        if method not in ADMITTED_ONE_BY_ONE or not self._open:
            return handler
        try:
            entered_s = self._admission.enter()
        except Overloaded as overloaded:
            return _refusing(overloaded)
        # Of the task of the whole call, so that it is left however that ends, and if nothing of it was ever run.
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: self._admission.leave(entered_s))
        return handler

    def _stream(self, method: str, call: Any, deserialize: Any) -> Any:
        """A method that takes a stream: each message is read when its turn comes."""

        async def read(pieces: AsyncIterator[bytes]) -> AsyncIterator[Any]:
            async for data in pieces:
                yield self._rules.read(data, deserialize)

        async def call_reading(pieces: AsyncIterator[bytes], context: Context) -> Any:
            return await call(read(pieces), context)

        return self._call(method, call_reading, None)

    def _exchange(self, method: str, call: Any, deserialize: Any) -> Any:
        """A method with a stream in both directions, each message of which is answered by itself: one that is none
        comes to it as InvalidRequest, and what is wrong with others is the method's to find. It lasts, so who calls is
        looked at again."""

        async def read(pieces: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
            admitted = time.monotonic()
            async for data in pieces:
                if time.monotonic() - admitted >= ADMIT_AGAIN_S:
                    caller.set(self._access.admit(method, context))
                    admitted = time.monotonic()
                try:
                    message = decoded(data, deserialize)
                except InvalidRequest as error:
                    message = error
                yield message

        async def call_reading(pieces: AsyncIterator[bytes], context: Context) -> Any:
            return await call(read(pieces, context), context)

        return self._call(method, call_reading, None, READ_ON_S)

    def _call(self, method: str, call: Any, deserialize: Any, read_on_s: float = READ_TO_THE_END_S) -> Any:
        """`deserialize` is None when the call reads what it gets itself."""
        read: Callable[[Any], Any]
        if deserialize is None:
            read = lambda data: data  # noqa: E731
        elif method == READ_LATER:
            read = lambda data: partial(self._rules.read, data, deserialize)  # noqa: E731
        else:
            read = lambda data: self._rules.read(data, deserialize)  # noqa: E731

        async def guarded(data: Any, context: Context) -> Any:
            remaining_s = context.time_remaining()
            if remaining_s is not None and remaining_s <= 0:
                return await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed before the call")
            try:
                if not self._open:
                    raise Unavailable("the server is starting: it waits for its stores")
                caller.set(self._access.admit(method, context))
                return await call(read(data), context)
            except Exception as error:  # noqa: BLE001  # whatever it is, the caller is told
                status = told(error, method)
            if deserialize is None:
                await _read_on(data, read_on_s)
            return await context.abort(*rpc_status.to_status(status))

        return guarded


class Guarded:
    """All that generated code asks of a server, for services whose methods are guarded.

    gRPC keeps calls that Python has not taken over yet in a queue for each registered method, and in one for others;
    Python takes from all of them in turn. What begins something new shares one, and has no part in the others: however
    many shoppers come, operators and who confirms or rolls back are next.

    An interceptor would do as well, for a tenth of what an empty call costs.
    """

    def __init__(self, server: grpc.aio.Server, guard: Guard) -> None:
        self._server = server
        self._guard = guard

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Nothing: the same methods are registered."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Adds the methods of a service, by their names."""
        methods = {f"/{service}/{name}": handler for name, handler in handlers.items()}
        guarded = {method: self._guard.guarded(method, handler) for method, handler in methods.items()}
        own = {name: guarded[f"/{service}/{name}"] for name in handlers if f"/{service}/{name}" not in BEGINNING}
        self._server.add_generic_rpc_handlers((_Methods(self._guard, guarded),))
        self._server.add_registered_method_handlers(service, own)


class _Methods(grpc.GenericRpcHandler):
    """Guarded methods by their full names."""

    def __init__(self, guard: Guard, guarded: Mapping[str, Handler]) -> None:
        self._guard = guard
        self._guarded = guarded

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """The handler of a call that has arrived; None when it is not for one of these."""
        method = handler_call_details.method
        handler = self._guarded.get(method)
        return None if handler is None else self._guard.admitted(method, handler)


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


def _refusing(overloaded: Overloaded) -> Handler:
    """A handler that only refuses. As one of streams it is run without its message, and a status that is set costs less
    than one that is raised: this is what a worker spends on those whom it cannot serve."""
    status = rpc_status.to_status(status_of(overloaded, ""))

    async def refuse(_requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        context.set_code(status.code)
        context.set_details(status.details)
        context.set_trailing_metadata(status.trailing_metadata)

    return grpc.stream_stream_rpc_method_handler(refuse)
