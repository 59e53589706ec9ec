"""Calls with a deadline each, repeated safely while the service is away."""

from __future__ import annotations

import asyncio
import itertools
import random
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar

import grpc

from vouchsafe.client._channels import File, channel_to
from vouchsafe.client._codes import CodeCalls
from vouchsafe.client._errors import ClientError, from_rpc_error, retry_delay_s
from vouchsafe.v1 import campaign_service_pb2 as campaigns_pb
from vouchsafe.v1 import redemption_service_pb2 as redemptions_pb
from vouchsafe.v1.campaign_pb2 import Campaign, CampaignStats
from vouchsafe.v1.campaign_service_pb2 import AssignedCode
from vouchsafe.v1.campaign_service_pb2_grpc import CampaignServiceStub
from vouchsafe.v1.code_service_pb2_grpc import CodeServiceStub
from vouchsafe.v1.combining_pb2 import Combining
from vouchsafe.v1.definition_pb2 import CampaignDefinition
from vouchsafe.v1.kill_switch_pb2 import KillSwitch, KillSwitchScope
from vouchsafe.v1.order_pb2 import Customer, Order
from vouchsafe.v1.redemption_pb2 import Offer, Redemption
from vouchsafe.v1.redemption_service_pb2 import (
    ReserveRedemptionResponse,
    ValidateAndRedeemResponse,
    ValidateResponse,
)
from vouchsafe.v1.redemption_service_pb2_grpc import RedemptionServiceStub
from vouchsafe.v1.refusal_pb2 import Refusal
from vouchsafe.v1.reservation_pb2 import Reservation
from vouchsafe.v1.rollback_pb2 import ReturnedLine, Rollback

Request = TypeVar("Request")
Response = TypeVar("Response")

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
# Only these say that a repetition may fare better. A deadline that has passed is the caller's to judge. CANCELLED comes
# from a server that drops calls; a call that is cancelled here raises asyncio.CancelledError instead.
REPEATED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED)


class Client(CodeCalls):
    """Talks to one target over `channels` connections, kept open and used in turn.

    `api_key` is sent with every call; a signed token does as well, and a function is asked for one before each call, as
    tokens do not last. With `tls_ca_file`, who signs the server's certificate, calls are encrypted; `tls_cert_file` and
    `tls_key_file` are this caller's own certificate. All three are PEM files.

    Every call ends within `timeout_s`, repetitions included. Methods raise `ClientError`.
    """

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
        self._redemptions = itertools.cycle([RedemptionServiceStub(channel) for channel in self._channels])
        self._campaigns = itertools.cycle([CampaignServiceStub(channel) for channel in self._channels])
        self._codes = itertools.cycle([CodeServiceStub(channel) for channel in self._channels])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections; calls under way are cancelled."""
        await asyncio.gather(*(channel.close() for channel in self._channels))

    # -- checkout ----------------------------------------------------------------------------------------------------

    async def redeem(
        self,
        code: str,
        customer: Customer,
        order: Order,
        *,
        request_id: str | None = None,
        quote_token: str = "",
    ) -> Redemption | Refusal:
        """Redeems a code on an order, exactly once however often it has to be asked. `quote_token` is that of the offer
        which `validate` has made, if there is one: a campaign may honour it at its limits.

        The request id is made here unless given, and kept over repetitions. After `Unavailable` or
        `DeadlineExceeded` the outcome is not known: call again with the error's `request_id` to learn it.
        """
        response = await self.redeem_codes([code], customer, order, request_id=request_id, quote_token=quote_token)
        return response.redemption if response.HasField("redemption") else response.refusal

    async def redeem_codes(
        self,
        codes: Sequence[str],
        customer: Customer,
        order: Order,
        *,
        combining: Combining | None = None,
        request_id: str | None = None,
        quote_token: str = "",
    ) -> ValidateAndRedeemResponse:
        """Redeems several codes on an order, all that apply or none: the redemption or the refusal, and the codes left
        out with their reasons. As safe to repeat as `redeem`. A `quote_token` is for just the codes that its offer
        applied."""
        request = redemptions_pb.ValidateAndRedeemRequest(
            request_id=request_id or str(uuid.uuid4()),
            codes=codes,
            customer=customer,
            order=order,
            combining=combining,
            quote_token=quote_token,
        )
        try:
            return await self._call(lambda: next(self._redemptions).ValidateAndRedeem, request)
        except ClientError as error:
            error.request_id = request.request_id
            raise

    async def validate(self, code: str, customer: Customer, order: Order) -> Offer | Refusal:
        """What `redeem` would answer now. Takes nothing."""
        response = await self.validate_codes([code], customer, order)
        return response.offer if response.HasField("offer") else response.refusal

    async def validate_codes(
        self,
        codes: Sequence[str],
        customer: Customer,
        order: Order,
        *,
        combining: Combining | None = None,
        explain: bool = False,
    ) -> ValidateResponse:
        """How codes go together on an order now: the offer or the refusal, the codes left out with their reasons, and
        with `explain` all that was looked at. Takes nothing."""
        request = redemptions_pb.ValidateRequest(
            codes=codes, customer=customer, order=order, combining=combining, explain=explain
        )
        return await self._call(lambda: next(self._redemptions).Validate, request)

    async def reserve(
        self,
        codes: Sequence[str],
        customer: Customer,
        order: Order,
        *,
        ttl_s: float | None = None,
        combining: Combining | None = None,
        request_id: str | None = None,
        quote_token: str = "",
    ) -> ReserveRedemptionResponse:
        """Holds what redeeming the codes would take, for `ttl_s` (None: the server's 15 minutes): the reservation or
        the refusal, and the codes left out with their reasons. As safe to repeat as `redeem`."""
        request = redemptions_pb.ReserveRedemptionRequest(
            request_id=request_id or str(uuid.uuid4()),
            codes=codes,
            customer=customer,
            order=order,
            combining=combining,
            quote_token=quote_token,
        )
        if ttl_s is not None:
            request.ttl.FromMilliseconds(round(ttl_s * 1000))
        try:
            return await self._call(lambda: next(self._redemptions).ReserveRedemption, request)
        except ClientError as error:
            error.request_id = request.request_id
            raise

    async def confirm(self, reservation_id: str) -> Redemption | Refusal:
        """Redeems what is held; again answers the same. Raises NotFound."""
        request = redemptions_pb.ConfirmRedemptionRequest(reservation_id=reservation_id)
        response = await self._call(lambda: next(self._redemptions).ConfirmRedemption, request)
        return response.redemption if response.HasField("redemption") else response.refusal

    async def release(self, reservation_id: str) -> Reservation | Refusal:
        """Gives back what is held; again answers the same. Raises NotFound."""
        request = redemptions_pb.ReleaseRedemptionRequest(reservation_id=reservation_id)
        response = await self._call(lambda: next(self._redemptions).ReleaseRedemption, request)
        return response.reservation if response.HasField("reservation") else response.refusal

    async def roll_back(
        self,
        redemption_id: str,
        *,
        lines: Sequence[ReturnedLine] = (),
        order: Order | None = None,
        reason: str = "",
        request_id: str | None = None,
    ) -> Rollback | Refusal:
        """Takes a redemption back: all that is left, or what `lines` say. As safe to repeat as `redeem`. Raises
        NotFound."""
        request = redemptions_pb.RollbackRedemptionRequest(
            request_id=request_id or str(uuid.uuid4()),
            redemption_id=redemption_id,
            lines=lines,
            order=order,
            reason=reason,
        )
        try:
            response = await self._call(lambda: next(self._redemptions).RollbackRedemption, request)
        except ClientError as error:
            error.request_id = request.request_id
            raise
        return response.rollback if response.HasField("rollback") else response.refusal

    async def get_redemption(self, redemption_id: str) -> Redemption:
        """One redemption by its id. Raises NotFound."""
        request = redemptions_pb.GetRedemptionRequest(redemption_id=redemption_id)
        response = await self._call(lambda: next(self._redemptions).GetRedemption, request)
        return response.redemption

    # -- campaigns ---------------------------------------------------------------------------------------------------

    async def create_campaign(
        self,
        campaign_id: str,
        definition: CampaignDefinition,
        *,
        shared_codes: Sequence[str] = (),
        single_use_codes: Sequence[str] = (),
        assigned_codes: Sequence[AssignedCode] = (),
        validate_only: bool = False,
    ) -> Campaign:
        """Creates a campaign with its codes. Raises AlreadyExists when the id or a code is taken. With `validate_only`
        nothing is created, and the answer has only the id and the definition.

        Not repeated: after `Unavailable` the campaign may exist already, and a second call would only find it taken.
        """
        request = campaigns_pb.CreateCampaignRequest(
            campaign_id=campaign_id,
            definition=definition,
            shared_codes=shared_codes,
            single_use_codes=single_use_codes,
            assigned_codes=assigned_codes,
            validate_only=validate_only,
        )
        return (await self._call(lambda: next(self._campaigns).CreateCampaign, request, repeat=False)).campaign

    async def update_campaign(
        self, campaign_id: str, definition: CampaignDefinition, *, etag: str = "", validate_only: bool = False
    ) -> Campaign:
        """Puts a definition in the place of the one that stands. Raises NotFound, and Changed when it is not the one
        that `etag` was read with. Not repeated, as `create_campaign`."""
        request = campaigns_pb.UpdateCampaignRequest(
            campaign_id=campaign_id, definition=definition, etag=etag, validate_only=validate_only
        )
        return (await self._call(lambda: next(self._campaigns).UpdateCampaign, request, repeat=False)).campaign

    async def get_campaign(self, campaign_id: str) -> Campaign:
        """One campaign by its id. Raises NotFound."""
        request = campaigns_pb.GetCampaignRequest(campaign_id=campaign_id)
        return (await self._call(lambda: next(self._campaigns).GetCampaign, request)).campaign

    async def get_campaign_stats(self, campaign_id: str) -> CampaignStats:
        """What a campaign has given, by both stores. Raises NotFound."""
        request = campaigns_pb.GetCampaignStatsRequest(campaign_id=campaign_id)
        return (await self._call(lambda: next(self._campaigns).GetCampaignStats, request)).stats

    async def watch_campaign(self, campaign_id: str) -> AsyncGenerator[CampaignStats, None]:
        """What a campaign has given: at once, and again when something but the time has changed, at most once a second.
        A stream that breaks is opened again, and its first state may be one that was seen before.

        Raises NotFound; Unavailable or DeadlineExceeded when it has been broken for `timeout_s`. Leave it early inside
        `contextlib.aclosing`, so that the server knows at once.
        """
        request = campaigns_pb.WatchCampaignRequest(campaign_id=campaign_id)
        tries = _Tries(self._timeout_s)
        while True:
            answered = False
            call = next(self._campaigns).WatchCampaign(request, metadata=self._metadata())
            try:
                response = await tries.in_time(call.read())
                while isinstance(response, campaigns_pb.WatchCampaignResponse):  # until the end of the stream
                    answered = True
                    yield response.stats
                    response = await call.read()
            except grpc.aio.AioRpcError as error:
                if answered:
                    tries = _Tries(self._timeout_s)
                await tries.wait_after(error)
            else:
                return
            finally:
                call.cancel()

    async def list_campaigns(self, *, page_size: int = 100) -> AsyncIterator[Campaign]:
        """All campaigns, newest first, fetched page by page."""
        token = ""
        while True:
            request = campaigns_pb.ListCampaignsRequest(page_size=page_size, page_token=token)
            response = await self._call(lambda: next(self._campaigns).ListCampaigns, request)
            for campaign in response.campaigns:
                yield campaign
            token = response.next_page_token
            if not token:
                return

    async def pause_campaign(self, campaign_id: str, reason: str = "") -> Campaign:
        """Stops a campaign: once this returns, no later redemption of it succeeds. Raises NotFound."""
        request = campaigns_pb.PauseCampaignRequest(campaign_id=campaign_id, reason=reason)
        return (await self._call(lambda: next(self._campaigns).PauseCampaign, request)).campaign

    async def resume_campaign(self, campaign_id: str, reason: str = "") -> Campaign:
        """Lets a paused campaign go on. Raises NotFound."""
        request = campaigns_pb.ResumeCampaignRequest(campaign_id=campaign_id, reason=reason)
        return (await self._call(lambda: next(self._campaigns).ResumeCampaign, request)).campaign

    async def pause_campaigns(self, label: str, reason: str = "") -> list[Campaign]:
        """Stops all campaigns that have a label now. Raises NotFound when there is none; Unavailable when not all are
        paused: call again."""
        request = campaigns_pb.PauseCampaignsRequest(label=label, reason=reason)
        return list((await self._call(lambda: next(self._campaigns).PauseCampaigns, request)).campaigns)

    async def resume_campaigns(self, label: str, reason: str = "") -> list[Campaign]:
        """Lets all campaigns that have a label go on. Raises as `pause_campaigns`."""
        request = campaigns_pb.ResumeCampaignsRequest(label=label, reason=reason)
        return list((await self._call(lambda: next(self._campaigns).ResumeCampaigns, request)).campaigns)

    async def engage_kill_switch(self, scope: KillSwitchScope, reason: str = "") -> KillSwitch:
        """Stops redeeming: once this returns, no later redemption within the scope succeeds. Unavailable: it is engaged
        wherever that was possible; call again."""
        request = campaigns_pb.EngageKillSwitchRequest(scope=scope, reason=reason)
        return (await self._call(lambda: next(self._campaigns).EngageKillSwitch, request)).kill_switch

    async def release_kill_switch(self, scope: KillSwitchScope, reason: str = "") -> KillSwitch:
        """Lets redeeming go on, as far as nothing else stops it."""
        request = campaigns_pb.ReleaseKillSwitchRequest(scope=scope, reason=reason)
        return (await self._call(lambda: next(self._campaigns).ReleaseKillSwitch, request)).kill_switch

    async def get_kill_switch(self) -> campaigns_pb.GetKillSwitchResponse:
        """What is stopped; a state of UNKNOWN when that cannot be told for certain."""
        request = campaigns_pb.GetKillSwitchRequest()
        return await self._call(lambda: next(self._campaigns).GetKillSwitch, request)

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
        tries = _Tries(self._timeout_s)
        while True:
            try:
                return await method()(request, timeout=tries.remaining_s, metadata=self._metadata())
            except grpc.aio.AioRpcError as error:
                await tries.wait_after(error, repeat=repeat)


class _Tries:
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
        if not repeat or error.code() not in REPEATED or wait_s >= self.remaining_s:
            raise from_rpc_error(error) from None
        await asyncio.sleep(wait_s)
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
