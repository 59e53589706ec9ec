"""CampaignService, for operators."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from grpc.aio import ServicerContext

from vouchsafe.domain.campaign import Definition
from vouchsafe.edge import convert_campaigns as convert
from vouchsafe.edge import convert_plans
from vouchsafe.edge.convert_switches import scope_text, switch_message, switches_message
from vouchsafe.edge.masks import merged
from vouchsafe.service.campaigns import Campaigns
from vouchsafe.service.kill_switch import KillSwitchboard
from vouchsafe.service.plans import Plans
from vouchsafe.service.watch import Watch
from vouchsafe.v1 import campaign_service_pb2 as pb
from vouchsafe.v1.campaign_service_pb2_grpc import CampaignServiceServicer

Context = ServicerContext[Any, Any]

DEFAULT_PAGE_SIZE = 50


class CampaignServicer(CampaignServiceServicer):
    """Messages arrive validated, and errors leave through the guard (`edge.guard`)."""

    # Set before the first call is let through.
    use_case: Campaigns
    switches: KillSwitchboard
    watch: Watch
    plans: Plans

    async def CreateCampaign(self, request: pb.CreateCampaignRequest, context: Context) -> pb.CreateCampaignResponse:
        """Creates a campaign with its codes."""
        definition, now_ms = convert.definition(request.definition), time.time_ns() // 1_000_000
        codes = convert.new_codes(request, now_ms)
        if request.validate_only:
            self.use_case.check_supported(definition)
            await self.use_case.check_new(request.campaign_id, codes)
            # As it would be: it does not exist, so it has no state.
            campaign = pb.CreateCampaignResponse().campaign
            campaign.id = request.campaign_id
            campaign.definition.CopyFrom(convert.definition_message(definition))
            return pb.CreateCampaignResponse(campaign=campaign)
        status = await self.use_case.create(
            request.campaign_id, definition, codes, request.reason, is_draft=request.draft
        )
        return pb.CreateCampaignResponse(campaign=convert.campaign_message(status))

    async def UpdateCampaign(self, request: pb.UpdateCampaignRequest, context: Context) -> pb.UpdateCampaignResponse:
        """Puts a new definition, or some fields of one, in the place of the old."""
        definition, version = convert.definition(request.definition), convert.etag_version(request.etag)
        paths = list(request.update_mask.paths)

        def change(current: Definition) -> Definition:
            return merged(current, definition, paths) if paths else definition

        if request.validate_only:
            changed = await self.use_case.check_update(request.campaign_id, change, version)
            message = convert.campaign_message(await self.use_case.get(request.campaign_id))
            message.definition.CopyFrom(convert.definition_message(changed))
            return pb.UpdateCampaignResponse(campaign=message)
        status = await self.use_case.update(request.campaign_id, change, version, request.reason)
        return pb.UpdateCampaignResponse(campaign=convert.campaign_message(status))

    async def GetCampaign(self, request: pb.GetCampaignRequest, context: Context) -> pb.GetCampaignResponse:
        """One campaign by its id."""
        status = await self.use_case.get(request.campaign_id)
        return pb.GetCampaignResponse(campaign=convert.campaign_message(status))

    async def GetCampaignStats(
        self, request: pb.GetCampaignStatsRequest, context: Context
    ) -> pb.GetCampaignStatsResponse:
        """What one campaign has given."""
        stats = await self.use_case.stats(request.campaign_id)
        return pb.GetCampaignStatsResponse(stats=convert.stats_message(stats))

    async def WatchCampaign(
        self, request: pb.WatchCampaignRequest, context: Context
    ) -> AsyncGenerator[pb.WatchCampaignResponse, None]:
        """What one campaign has given, again and again."""
        async with aclosing(self.watch.follow(request.campaign_id)) as states:
            async for stats in states:
                yield pb.WatchCampaignResponse(stats=convert.stats_message(stats))

    async def ListCampaigns(self, request: pb.ListCampaignsRequest, context: Context) -> pb.ListCampaignsResponse:
        """A page of campaigns."""
        page = await self.use_case.list(
            request.page_size or DEFAULT_PAGE_SIZE,
            convert.page_key(request.page_token),
            convert.campaign_filter(request),
        )
        return pb.ListCampaignsResponse(
            campaigns=[convert.campaign_message(status) for status in page.campaigns],
            next_page_token=convert.page_token(page.next),
        )

    async def PauseCampaign(self, request: pb.PauseCampaignRequest, context: Context) -> pb.PauseCampaignResponse:
        """Stops a campaign at once, on every server."""
        resume_ms = convert_plans.time_ms(request.resume_time) if request.HasField("resume_time") else None
        status = await self.use_case.pause(request.campaign_id, request.reason, resume_ms)
        return pb.PauseCampaignResponse(campaign=convert.campaign_message(status))

    async def ResumeCampaign(self, request: pb.ResumeCampaignRequest, context: Context) -> pb.ResumeCampaignResponse:
        """Lets a paused campaign go on."""
        status = await self.use_case.resume(request.campaign_id, request.reason)
        return pb.ResumeCampaignResponse(campaign=convert.campaign_message(status))

    async def ArchiveCampaign(self, request: pb.ArchiveCampaignRequest, context: Context) -> pb.ArchiveCampaignResponse:
        """Puts a campaign away for good."""
        status = await self.use_case.archive(request.campaign_id, request.reason)
        return pb.ArchiveCampaignResponse(campaign=convert.campaign_message(status))

    async def ScheduleCampaign(
        self, request: pb.ScheduleCampaignRequest, context: Context
    ) -> pb.ScheduleCampaignResponse:
        """Says when a campaign starts and ends, and what happens in between."""
        start_ms, end_ms = (
            convert_plans.time_ms(getattr(request, name)) if request.HasField(name) else None
            for name in ("start_time", "end_time")
        )
        status, planned = await self.plans.schedule(
            request.campaign_id,
            start_ms,
            end_ms,
            list(map(convert_plans.plan, request.planned_changes)),
            convert.etag_version(request.etag),
            request.reason,
        )
        return pb.ScheduleCampaignResponse(
            campaign=convert.campaign_message(status), planned_changes=map(convert_plans.planned_message, planned)
        )

    async def ListPlannedChanges(
        self, request: pb.ListPlannedChangesRequest, context: Context
    ) -> pb.ListPlannedChangesResponse:
        """A page of planned changes."""
        page = await self.plans.list(
            request.page_size or DEFAULT_PAGE_SIZE,
            request.campaign_id or None,
            *convert_plans.span_ms(request),
            convert_plans.page_key(request.page_token),
        )
        return pb.ListPlannedChangesResponse(
            planned_changes=map(convert_plans.planned_message, page.changes),
            next_page_token=convert_plans.page_token(page.next),
        )

    async def CancelPlannedChange(
        self, request: pb.CancelPlannedChangeRequest, context: Context
    ) -> pb.CancelPlannedChangeResponse:
        """Cancels a change that is still planned."""
        cancelled = await self.plans.cancel(request.change_id, request.reason)
        return pb.CancelPlannedChangeResponse(planned_change=convert_plans.planned_message(cancelled))

    async def CloneCampaign(self, request: pb.CloneCampaignRequest, context: Context) -> pb.CloneCampaignResponse:
        """Makes a draft out of another campaign."""
        name = request.display_name if request.HasField("display_name") else None
        status = await self.use_case.clone(request.campaign_id, request.new_campaign_id, name, request.reason)
        return pb.CloneCampaignResponse(campaign=convert.campaign_message(status))

    async def PauseCampaigns(self, request: pb.PauseCampaignsRequest, context: Context) -> pb.PauseCampaignsResponse:
        """Stops all campaigns with a label."""
        statuses = await self.switches.pause(request.label, request.reason)
        return pb.PauseCampaignsResponse(campaigns=map(convert.campaign_message, statuses))

    async def ResumeCampaigns(self, request: pb.ResumeCampaignsRequest, context: Context) -> pb.ResumeCampaignsResponse:
        """Lets all campaigns with a label go on."""
        statuses = await self.switches.resume(request.label, request.reason)
        return pb.ResumeCampaignsResponse(campaigns=map(convert.campaign_message, statuses))

    async def EngageKillSwitch(
        self, request: pb.EngageKillSwitchRequest, context: Context
    ) -> pb.EngageKillSwitchResponse:
        """Stops redeeming at once, on every server."""
        switch = await self.switches.engage(scope_text(request.scope), request.reason)
        return pb.EngageKillSwitchResponse(kill_switch=switch_message(switch))

    async def ReleaseKillSwitch(
        self, request: pb.ReleaseKillSwitchRequest, context: Context
    ) -> pb.ReleaseKillSwitchResponse:
        """Lets redeeming go on."""
        switch = await self.switches.release(scope_text(request.scope), request.reason)
        return pb.ReleaseKillSwitchResponse(kill_switch=switch_message(switch))

    async def GetKillSwitch(self, request: pb.GetKillSwitchRequest, context: Context) -> pb.GetKillSwitchResponse:
        """What is stopped."""
        return switches_message(await self.switches.get())
