"""Calls with a deadline each, repeated safely while the service is away."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar

import grpc

from vouchsafe.client._channels import File, channel_to
from vouchsafe.client._errors import Throttled, from_rpc_error, retry_delay_s
from vouchsafe.client._streams import SharedStream
from vouchsafe.v1.audit_service_pb2_grpc import AuditServiceStub
from vouchsafe.v1.campaign_service_pb2_grpc import CampaignServiceStub
from vouchsafe.v1.code_service_pb2_grpc import CodeServiceStub
from vouchsafe.v1.redemption_service_pb2_grpc import RedemptionServiceStub

Request = TypeVar("Request")
Response = TypeVar("Response")

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
# Only these say that a repetition may fare better. A deadline that has passed is the caller's to judge. CANCELLED comes
# from a server that drops calls; a call that is cancelled here raises asyncio.CancelledError instead.
REPEATED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED)


class Calls:
    """The connections to one target, and how every call over them is made."""

    def __init__(
        self,
        target: str,
        *,
        api_key: str | Callable[[], str] = "",
        tls_ca_file: File | None = None,
        tls_cert_file: File | None = None,
        tls_key_file: File | None = None,
        timeout_s: float = 5.0,
        channels: int = 4,
    ) -> None:
        if timeout_s <= 0 or channels < 1:
            raise ValueError("timeout_s must be greater than 0 and channels at least 1")
        self._timeout_s = timeout_s
        self._api_key = api_key
        tls = (tls_ca_file, tls_cert_file, tls_key_file)
        self._channels = [channel_to(target, *tls) for _ in range(channels)]
        self._streams = [SharedStream(channel, self._metadata) for channel in self._channels]
        self._redeemers = itertools.cycle(self._streams)
        self._redemptions = itertools.cycle([RedemptionServiceStub(channel) for channel in self._channels])
        self._campaigns = itertools.cycle([CampaignServiceStub(channel) for channel in self._channels])
        self._codes = itertools.cycle([CodeServiceStub(channel) for channel in self._channels])
        self._audits = itertools.cycle([AuditServiceStub(channel) for channel in self._channels])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections; calls under way are cancelled."""
        for stream in self._streams:
            stream.close()
        await asyncio.gather(*(channel.close() for channel in self._channels))

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        key = self._api_key if isinstance(self._api_key, str) else self._api_key()
        return (("authorization", f"Bearer {key}"),) if key else ()

    async def _call(
        self,
        method: Callable[[], grpc.aio.UnaryUnaryMultiCallable[Request, Response]],
        request: Request,
        *,
        repeat: bool = True,
    ) -> Response:
        """Calls over the next channel in turn, again and again until an answer comes or the time is up."""
        return await self._tried(
            lambda timeout_s: method()(request, timeout=timeout_s, metadata=self._metadata()), repeat=repeat
        )

    async def _tried(self, attempt: Callable[[float], Awaitable[Response]], *, repeat: bool = True) -> Response:
        """The same with any kind of call, which is told how many seconds it has."""
        tries = Tries(self._timeout_s)
        while True:
            try:
                return await attempt(tries.remaining_s)
            except grpc.aio.AioRpcError as error:
                await tries.wait_after(error, repeat=repeat)


class Tries:
    """The tries of one call, which have `timeout_s` together, and the growing pauses between them."""

    def __init__(self, timeout_s: float) -> None:
        self._deadline = asyncio.get_running_loop().time() + timeout_s
        self._pause_s = FIRST_PAUSE_S
        self._earlier: grpc.aio.AioRpcError | None = None

    @property
    def remaining_s(self) -> float:
        """How long the next try may take."""
        return self._deadline - asyncio.get_running_loop().time()

    async def in_time(self, answer: Awaitable[Response]) -> Response:
        """The answer of a try that does not end by itself."""
        try:
            return await asyncio.wait_for(answer, self.remaining_s)
        except TimeoutError:
            raise grpc.aio.AioRpcError(grpc.StatusCode.DEADLINE_EXCEEDED, details="no answer in time") from None

    async def wait_after(self, error: grpc.aio.AioRpcError, *, repeat: bool = True) -> None:
        """Returns when it is time for another try. Raises the error in its typed form when there is to be none."""
        if self._earlier is not None and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            # The server's own words say more than that there was no time for another try.
            raise from_rpc_error(self._earlier) from None
        self._earlier = error
        # Half of the pause is chance, so that many callers do not come back all at once; never before the server asks.
        pause_s = max(self._pause_s, 2 * retry_delay_s(error))
        wait_s = pause_s * random.uniform(0.5, 1)  # noqa: S311  # nobody needs to be unable to guess it
        if not repeat or not may_be_repeated(error) or wait_s >= self.remaining_s:
            raise from_rpc_error(error) from None
        await asyncio.sleep(wait_s)
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)


def may_be_repeated(error: grpc.aio.AioRpcError) -> bool:
    """Whether the same request may fare better later. Not what slows down guessing: that would only be fed."""
    return error.code() in REPEATED and not isinstance(from_rpc_error(error), Throttled)
