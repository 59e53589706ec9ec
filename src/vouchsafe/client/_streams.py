"""Redeeming over a stream that many tasks share: the same call as `ValidateAndRedeem`, for less."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

import grpc
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from vouchsafe.v1 import redemption_service_pb2 as pb
from vouchsafe.v1.redemption_service_pb2_grpc import RedemptionServiceStub

Metadata: TypeAlias = tuple[tuple[str, str], ...]
Line: TypeAlias = "grpc.aio.StreamStreamCall[pb.StreamValidateAndRedeemRequest, pb.StreamValidateAndRedeemResponse]"
Waiting: TypeAlias = "asyncio.Future[pb.ValidateAndRedeemResponse]"

# What is larger goes alone: one request that is too large for the server would end the stream for all of them.
LARGE_REQUEST_BYTES = 65_536
# While a server takes nothing, those who have given up leave what they asked for behind.
MOST_UNDER_WAY = 10_000
# Of a longer id not all would come back.
LONGEST_REQUEST_ID = 128


class SharedStream:
    """The stream of one channel, opened when it is needed, and again after it has ended.

    What cannot share goes alone, as a call of its own: a request with an id that is under way, since answers are told
    apart by their ids; what is larger than any that is right; what comes when very many are under way; and all of them
    at a server that has no streams.
    """

    def __init__(self, channel: grpc.aio.Channel, metadata: Callable[[], Metadata]) -> None:
        """`metadata` are the credentials, asked for when they have to be sent."""
        self._stub = RedemptionServiceStub(channel)
        self._metadata = metadata
        self._stream: _Stream | None = None
        self._has_streams = True

    async def redeem(self, request: pb.ValidateAndRedeemRequest, timeout_s: float) -> pb.ValidateAndRedeemResponse:
        """Answers and fails (AioRpcError) as the call of its own would. To be cancelled by itself alone."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._redeem(request, timeout_s)
        except TimeoutError:
            raise grpc.aio.AioRpcError(grpc.StatusCode.DEADLINE_EXCEEDED, details="no answer in time") from None

    def close(self) -> None:
        """Ends the stream; who waits for an answer is cancelled."""
        if self._stream is not None:
            self._stream.close()

    async def _redeem(self, request: pb.ValidateAndRedeemRequest, timeout_s: float) -> pb.ValidateAndRedeemResponse:
        may_share = request.ByteSize() <= LARGE_REQUEST_BYTES and len(request.request_id) <= LONGEST_REQUEST_ID
        may_be_refused = True
        while may_share and self._has_streams:
            stream = self._stream
            if stream is None or stream.has_ended:
                stream = self._stream = _Stream(self._stub.StreamValidateAndRedeem(metadata=self._metadata()))
            if request.request_id in stream.under_way or len(stream.under_way) >= MOST_UNDER_WAY:
                break
            try:
                return await stream.ask(request)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    self._has_streams = False
                elif error.code() is grpc.StatusCode.UNAUTHENTICATED and stream.has_answered and may_be_refused:
                    # Its credentials were good and are over: others are asked for, once.
                    may_be_refused = False
                elif error.code() is grpc.StatusCode.INTERNAL and stream.has_ended:
                    # A write that meets the end of the stream hides why it has ended; a call of its own tells.
                    break
                else:
                    raise
        return await self._stub.ValidateAndRedeem(request, timeout=timeout_s, metadata=self._metadata())


class _Stream:
    """One stream, from its opening to its end."""

    def __init__(self, line: Line) -> None:
        self.has_answered = False
        self.has_ended = False
        # By request id; one that nobody waits for any more stays until it is answered, for its id is under way.
        self.under_way: dict[str, Waiting] = {}
        self._unsent: asyncio.Queue[tuple[pb.ValidateAndRedeemRequest, Waiting]] = asyncio.Queue()
        self._line = line
        self._writer = asyncio.create_task(self._write_all())
        self._reader = asyncio.create_task(self._read_all())

    async def ask(self, request: pb.ValidateAndRedeemRequest) -> pb.ValidateAndRedeemResponse:
        """The answer to a request whose id is not under way. Raises AioRpcError: its own, or that which ended the
        stream."""
        answer: Waiting = asyncio.get_running_loop().create_future()
        self.under_way[request.request_id] = answer
        self._unsent.put_nowait((request, answer))
        return await answer

    def close(self) -> None:
        """Cancels everything."""
        self.has_ended = True
        self._line.cancel()
        self._writer.cancel()
        self._reader.cancel()
        for answer in self.under_way.values():
            answer.cancel()

    async def _write_all(self) -> None:
        try:
            while True:
                request, answer = await self._unsent.get()
                if answer.done():  # nobody waits for it any more
                    del self.under_way[request.request_id]
                    continue
                await self._line.write(pb.StreamValidateAndRedeemRequest(request=request))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the stream has ended: the reader is told why

    async def _read_all(self) -> None:
        error: grpc.aio.AioRpcError
        try:
            # Not `read`: that leaves answers behind which have come before a write met the end of the stream.
            async for response in self._line:
                self.has_answered = True
                self._settle(response.result)
            error = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, details="the server has ended the stream")
        except grpc.aio.AioRpcError as why:
            error = why
        self.has_ended = True
        self._writer.cancel()
        for answer in self.under_way.values():
            if not answer.done():
                answer.set_exception(error)

    def _settle(self, result: pb.RedemptionResult) -> None:
        answer = self.under_way.pop(result.request_id, None)
        if answer is None or answer.done():  # nobody waits for it any more
            return
        if result.HasField("error"):
            answer.set_exception(error_of(result.error))
        else:
            answer.set_result(result.response)


def error_of(status: Status) -> grpc.aio.AioRpcError:
    """What a call of its own would have failed with."""
    code, details, metadata = rpc_status.to_status(status)
    return grpc.aio.AioRpcError(code, trailing_metadata=grpc.aio.Metadata(*metadata), details=details)
