"""The steps of a campaign's life, and what is said when one cannot be taken. The gate decides (campaign.lua)."""

from __future__ import annotations

from collections.abc import Mapping

from vouchsafe.domain.campaign import CampaignState
from vouchsafe.domain.errors import NotAllowed
from vouchsafe.domain.redemption import EventKind

_WHY: Mapping[tuple[EventKind, CampaignState], str] = {
    (EventKind.PAUSED, CampaignState.DRAFT): "is a draft, of which nothing can be redeemed; there is nothing to pause",
    (EventKind.RESUMED, CampaignState.DRAFT): "is a draft; take it into life with ScheduleCampaign",
    (EventKind.ARCHIVED, CampaignState.ACTIVE): "is active; pause it first",
}


def cannot(step: EventKind, campaign_id: str, state: CampaignState) -> NotAllowed:
    """The error of a step that cannot be taken from this state."""
    return NotAllowed(f"campaign {campaign_id} {_WHY.get((step, state), _ARCHIVED)}")


def check_not_archived(campaign_id: str, state: CampaignState) -> None:
    """Raises NotAllowed for a campaign that is archived."""
    if state is CampaignState.ARCHIVED:
        raise NotAllowed(f"campaign {campaign_id} {_ARCHIVED}")


_ARCHIVED = "is archived, which is final; clone it to go on with another"
