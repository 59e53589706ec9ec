"""Running campaigns: the use cases that operators call.

Definitions are written to the ledger first and then published to the gate; `service.publish` repairs a crash in
between. Pausing, resuming and archiving go to the gate first, so that they work while PostgreSQL is away.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from vouchsafe.domain.campaign import Campaign, CampaignFilter, CampaignState, CampaignStatus, CodeEntry, Definition
from vouchsafe.domain.errors import AlreadyExists, Changed, InvalidRequest, NotFound, Unavailable, Violation
from vouchsafe.domain.life import check_not_archived
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.states import States
from vouchsafe.ledger.ledger import CampaignCounters, Ledger
from vouchsafe.service.caller import author
from vouchsafe.service.publish import publish

# Where a page ends: create_time_ms and id of its last campaign.
PageKey = tuple[int, str]
# What is to become of a definition.
Change = Callable[[Definition], Definition]


@dataclass(frozen=True, slots=True)
class CampaignPage:
    """Some campaigns, newest first; `next` is where to go on, None after the last page."""

    campaigns: Sequence[CampaignStatus]
    next: PageKey | None


@dataclass(frozen=True, slots=True)
class CampaignStats:
    """What a campaign has given, by the gate as of now and by the ledger; None while PostgreSQL is away."""

    status: CampaignStatus
    ledger: CampaignCounters | None


class Campaigns:
    """Every method raises Unavailable when a store that it needs is out of reach."""

    def __init__(self, gate: Gate, ledger: Ledger, *, has_secret: bool) -> None:
        self._gate = gate
        self._states = States(gate)
        self._ledger = ledger
        self._has_secret = has_secret

    def check_supported(self, definition: Definition) -> None:
        """Raises InvalidRequest when this server is not set up for what a definition asks."""
        limits = definition.limits
        needs = [
            Violation(f"definition.limits.{name}", f"needs VOUCHSAFE_SECRET to be set on every server, {what_for}")
            for name, what_for in (("identities", "to hash what is counted by"), ("honour_quoted", "to sign quotes"))
            if getattr(limits, name) is not None
        ]
        if needs and not self._has_secret:
            raise InvalidRequest(*needs)

    async def create(
        self,
        campaign_id: str,
        definition: Definition,
        codes: Sequence[CodeEntry],
        reason: str = "",
        *,
        is_draft: bool = False,
    ) -> CampaignStatus:
        """Creates a campaign with its codes. Raises AlreadyExists when the id or a code is taken.

        After Unavailable the campaign may exist already; it goes live by itself then, as soon as the gate is back.
        """
        self.check_supported(definition)
        kept = CampaignState.DRAFT if is_draft else CampaignState.ACTIVE
        campaign = await self._ledger.create_campaign(campaign_id, definition, codes, kept, author(), reason)
        await publish(self._gate, self._ledger, campaign)
        return await self.get(campaign_id)

    async def clone(self, campaign_id: str, new_id: str, display_name: str | None, reason: str = "") -> CampaignStatus:
        """Creates a draft with the definition of another campaign, but for its start and end; under its name with None.
        Raises NotFound, AlreadyExists."""
        definition = (await self._get_at(campaign_id, None)).definition
        name = definition.display_name if display_name is None else display_name
        draft = msgspec.structs.replace(definition, display_name=name, start_time_ms=None, end_time_ms=None)
        return await self.create(new_id, draft, [], reason, is_draft=True)

    async def check_new(self, campaign_id: str, codes: Sequence[CodeEntry]) -> None:
        """Raises AlreadyExists when a campaign of this id and these codes cannot be created."""
        if await self._ledger.get_campaign(campaign_id) is not None:
            raise AlreadyExists(f"there is a campaign {campaign_id} already")
        if taken := await self._ledger.taken_codes([entry.code for entry in codes]):
            raise AlreadyExists(f"the code {taken[0]} belongs to another campaign")

    async def update(self, campaign_id: str, change: Change, version: int | None, reason: str = "") -> CampaignStatus:
        """Puts what `change` makes of a campaign's definition in its place, if it is at this version; None is whatever
        stands. Nobody else's change is lost between. Once this returns, every later decision is made by it. Raises
        NotFound, Changed, NotAllowed and what `change` raises.

        After Unavailable it may stand already; the gate gets it by itself then.
        """

        def supported(current: Definition) -> Definition:
            changed = change(current)
            self.check_supported(changed)
            return changed

        check_not_archived(campaign_id, (await self.get(campaign_id)).state)
        campaign = await self._ledger.update_campaign(campaign_id, supported, version, author(), reason)
        if campaign is None:
            raise await self.why_not_at(campaign_id, version)
        await publish(self._gate, self._ledger, campaign)
        return await self.get(campaign_id)

    async def check_update(self, campaign_id: str, change: Change, version: int | None) -> Definition:
        """The definition that `update` would put there. Raises what `update` raises."""
        check_not_archived(campaign_id, (await self.get(campaign_id)).state)
        changed = change((await self._get_at(campaign_id, version)).definition)
        self.check_supported(changed)
        return changed

    async def why_not_at(self, campaign_id: str, version: int | None) -> Changed:
        """The error of a change that has not found a campaign at this version. Raises NotFound."""
        with contextlib.suppress(Changed):
            await self._get_at(campaign_id, version)
        return Changed(f"campaign {campaign_id} has changed since its etag was read; read it again")

    async def _get_at(self, campaign_id: str, version: int | None) -> Campaign:
        """The campaign's definition as it stands. Raises NotFound, and Changed when it is not at this version."""
        campaign = await self._ledger.get_campaign(campaign_id)
        if campaign is None:
            raise NotFound(f"there is no campaign {campaign_id}")
        if version not in (None, campaign.version):
            raise Changed(f"campaign {campaign_id} has changed since its etag was read; read it again")
        return campaign

    async def get(self, campaign_id: str) -> CampaignStatus:
        """A campaign with its state and count as of now. Raises NotFound."""
        (status,) = await self._gate.describe([campaign_id])
        return status or await self._missing(campaign_id)

    async def stats(self, campaign_id: str) -> CampaignStats:
        """What a campaign has given, by gate and ledger. Raises NotFound."""
        status = await self.get(campaign_id)
        try:
            ledger = await self._ledger.campaign_counters(campaign_id, self._gate.partition_of(campaign_id))
        except Unavailable:
            ledger = None
        return CampaignStats(status, ledger)

    async def list(self, limit: int, after: PageKey | None, wanted: CampaignFilter) -> CampaignPage:
        """At most `limit` campaigns, newest first, from behind `after` on."""
        campaigns = await self._ledger.list_campaigns(limit + 1, after, wanted)
        shown = campaigns[:limit]
        found = await self._gate.describe([campaign.id for campaign in shown])
        return CampaignPage(
            # One that the gate does not have is being published at this moment; its turn comes in the next listing. Of
            # states, the gate has the last word.
            campaigns=[status for status in found if status is not None and wanted.shows(status.state)],
            next=(shown[-1].create_time_ms, shown[-1].id) if len(campaigns) > limit else None,
        )

    async def pause(self, campaign_id: str, reason: str, resume_time_ms: int | None = None) -> CampaignStatus:
        """Stops a campaign, until a time or until it is resumed: once this returns, no later redemption of it succeeds
        on any server. Raises NotFound, NotAllowed, and InvalidRequest for a time that is over."""
        if resume_time_ms is not None and resume_time_ms <= self._gate.clock.now_ms():
            raise InvalidRequest(Violation("resume_time", "must be later than now"))
        paused = await self._states.pause(campaign_id, reason, author(), resume_time_ms=resume_time_ms)
        return paused or await self._missing(campaign_id)

    async def resume(self, campaign_id: str, reason: str) -> CampaignStatus:
        """Lets a paused campaign go on. Raises NotFound, NotAllowed."""
        return await self._states.resume(campaign_id, reason, author()) or await self._missing(campaign_id)

    async def archive(self, campaign_id: str, reason: str) -> CampaignStatus:
        """Ends a campaign for ever: once this returns, nothing of it is redeemed again. Raises NotFound, NotAllowed."""
        return await self._states.archive(campaign_id, reason, author()) or await self._missing(campaign_id)

    async def _missing(self, campaign_id: str) -> CampaignStatus:
        """Never returns: tells a campaign that does not exist from one that the gate lacks."""
        if await self._ledger.get_campaign(campaign_id) is None:
            raise NotFound(f"there is no campaign {campaign_id}")
        raise Unavailable(f"campaign {campaign_id} is being published; try again")
