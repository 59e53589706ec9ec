"""The calls about campaigns, as part of the client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from datetime import datetime

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from vouchsafe.client._calls import Calls, Tries
from vouchsafe.v1 import campaign_service_pb2 as campaigns_pb
from vouchsafe.v1.campaign_pb2 import Campaign, CampaignState, CampaignStats
from vouchsafe.v1.campaign_service_pb2 import AssignedCode
from vouchsafe.v1.definition_pb2 import CampaignDefinition
from vouchsafe.v1.kill_switch_pb2 import KillSwitch, KillSwitchScope
from vouchsafe.v1.planned_change_pb2 import ChangePlan, PlannedChange


class CampaignCalls(Calls):
    """What `Client` offers for campaigns and their stopping."""

    async def create_campaign(
        self,
        campaign_id: str,
        definition: CampaignDefinition,
        *,
        shared_codes: Sequence[str] = (),
        single_use_codes: Sequence[str] = (),
        assigned_codes: Sequence[AssignedCode] = (),
        draft: bool = False,
        validate_only: bool = False,
        reason: str = "",
    ) -> Campaign:
        """Creates a campaign with its codes; nothing of a `draft` is redeemed before it is scheduled. Raises
        AlreadyExists when the id or a code is taken. With `validate_only` nothing is created, and the answer has only
        the id and the definition.

        Not repeated: after `Unavailable` the campaign may exist already, and a second call would only find it taken.
        """
        request = campaigns_pb.CreateCampaignRequest(
            campaign_id=campaign_id,
            definition=definition,
            shared_codes=shared_codes,
            single_use_codes=single_use_codes,
            assigned_codes=assigned_codes,
            draft=draft,
            validate_only=validate_only,
            reason=reason,
        )
        return (await self._call(lambda: next(self._campaigns).CreateCampaign, request, repeat=False)).campaign

    async def update_campaign(
        self,
        campaign_id: str,
        definition: CampaignDefinition,
        *,
        update_mask: Sequence[str] = (),
        etag: str = "",
        validate_only: bool = False,
        reason: str = "",
    ) -> Campaign:
        """Puts a definition in the place of the one that stands, or with `update_mask` only the fields that it names,
        such as "limits.total". Raises NotFound, NotAllowed, and Changed when it is not the one that `etag` was read
        with. Not repeated, as `create_campaign`."""
        request = campaigns_pb.UpdateCampaignRequest(
            campaign_id=campaign_id,
            definition=definition,
            update_mask=FieldMask(paths=update_mask),
            etag=etag,
            validate_only=validate_only,
            reason=reason,
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
        tries = Tries(self._timeout_s)
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
                    tries = Tries(self._timeout_s)
                await tries.wait_after(error)
            else:
                return
            finally:
                call.cancel()

    async def list_campaigns(
        self,
        *,
        show_archived: bool = False,
        state: CampaignState.ValueType = CampaignState.CAMPAIGN_STATE_UNSPECIFIED,
        label: str = "",
        page_size: int = 100,
    ) -> AsyncIterator[Campaign]:
        """All campaigns, or those in a state or with a label, newest first, fetched page by page."""
        token = ""
        while True:
            request = campaigns_pb.ListCampaignsRequest(
                page_size=page_size, page_token=token, show_archived=show_archived, state=state, label=label
            )
            response = await self._call(lambda: next(self._campaigns).ListCampaigns, request)
            for campaign in response.campaigns:
                yield campaign
            token = response.next_page_token
            if not token:
                return

    async def pause_campaign(
        self, campaign_id: str, reason: str = "", *, resume_time: datetime | None = None
    ) -> Campaign:
        """Stops a campaign, until a time (aware, else UTC) or until it is resumed: once this returns, no later
        redemption of it succeeds. Raises NotFound, NotAllowed."""
        request = campaigns_pb.PauseCampaignRequest(
            campaign_id=campaign_id, reason=reason, resume_time=_moment(resume_time)
        )
        return (await self._call(lambda: next(self._campaigns).PauseCampaign, request)).campaign

    async def resume_campaign(self, campaign_id: str, reason: str = "") -> Campaign:
        """Lets a paused campaign go on. Raises NotFound, NotAllowed."""
        request = campaigns_pb.ResumeCampaignRequest(campaign_id=campaign_id, reason=reason)
        return (await self._call(lambda: next(self._campaigns).ResumeCampaign, request)).campaign

    async def archive_campaign(self, campaign_id: str, reason: str = "") -> Campaign:
        """Puts a campaign away for good. Raises NotFound, and NotAllowed for one that is active."""
        request = campaigns_pb.ArchiveCampaignRequest(campaign_id=campaign_id, reason=reason)
        return (await self._call(lambda: next(self._campaigns).ArchiveCampaign, request)).campaign

    async def schedule_campaign(
        self,
        campaign_id: str,
        *,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        planned_changes: Sequence[ChangePlan] = (),
        etag: str = "",
        reason: str = "",
    ) -> campaigns_pb.ScheduleCampaignResponse:
        """Says when a campaign starts and ends (None: at once, never) and all that is to happen in between; a draft
        goes live. Raises NotFound, NotAllowed, and Changed when it is not as it was when `etag` was read. Not
        repeated; after `Unavailable` a second call is safe."""
        request = campaigns_pb.ScheduleCampaignRequest(
            campaign_id=campaign_id,
            start_time=_moment(start_time),
            end_time=_moment(end_time),
            planned_changes=planned_changes,
            etag=etag,
            reason=reason,
        )
        return await self._call(lambda: next(self._campaigns).ScheduleCampaign, request, repeat=False)

    async def list_planned_changes(
        self,
        campaign_id: str = "",
        *,
        from_time: datetime | None = None,
        to_time: datetime | None = None,
        page_size: int = 100,
    ) -> AsyncIterator[PlannedChange]:
        """Changes that are or were planned, of a campaign or of all, by their times, fetched page by page."""
        token = ""
        while True:
            request = campaigns_pb.ListPlannedChangesRequest(
                campaign_id=campaign_id,
                from_time=_moment(from_time),
                to_time=_moment(to_time),
                page_size=page_size,
                page_token=token,
            )
            response = await self._call(lambda: next(self._campaigns).ListPlannedChanges, request)
            for planned in response.planned_changes:
                yield planned
            token = response.next_page_token
            if not token:
                return

    async def cancel_planned_change(self, change_id: int, reason: str = "") -> PlannedChange:
        """Cancels a change: once this returns, it is never carried out. Raises NotFound, and NotAllowed when it is too
        late."""
        request = campaigns_pb.CancelPlannedChangeRequest(change_id=change_id, reason=reason)
        return (await self._call(lambda: next(self._campaigns).CancelPlannedChange, request)).planned_change

    async def clone_campaign(
        self, campaign_id: str, new_campaign_id: str, *, display_name: str | None = None, reason: str = ""
    ) -> Campaign:
        """Makes a draft with the definition of another campaign, without its start and end. Raises NotFound,
        AlreadyExists. Not repeated, as `create_campaign`."""
        request = campaigns_pb.CloneCampaignRequest(
            campaign_id=campaign_id, new_campaign_id=new_campaign_id, display_name=display_name, reason=reason
        )
        return (await self._call(lambda: next(self._campaigns).CloneCampaign, request, repeat=False)).campaign

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


def _moment(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    message = Timestamp()
    message.FromDatetime(time)
    return message
