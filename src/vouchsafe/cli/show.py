"""How campaigns are shown: as tables, or as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from vouchsafe.cli.common import as_dict, print_json, print_message
from vouchsafe.cli.tables import print_rows
from vouchsafe.cli.words import effect_text

if TYPE_CHECKING:
    from vouchsafe.client import Campaign, CampaignDefinition, CampaignState


def show_campaign(campaign: Campaign, as_json: bool) -> None:
    """One campaign."""
    if as_json:
        print_message(campaign)
    else:
        _print_table([campaign])


def show_campaigns(campaigns: list[Campaign], as_json: bool) -> None:
    """Several campaigns."""
    if as_json:
        print_json([as_dict(campaign) for campaign in campaigns])
    else:
        _print_table(campaigns)


def _print_table(campaigns: list[Campaign]) -> None:
    """A row a campaign."""
    rows = []
    for campaign in campaigns:
        definition = campaign.definition
        limits = definition.limits
        rows.append(
            {
                "campaign": campaign.id,
                "name": definition.display_name,
                "state": state_text(campaign.state),
                "reason": campaign.pause_reason,
                "until": campaign.resume_time.ToJsonString() if campaign.HasField("resume_time") else "",
                "labels": " ".join(definition.labels),
                "redeemed": f"{campaign.redeemed_count}",
                "limit": f"{limits.total}" if limits.HasField("total") else "",
                "per customer": f"{limits.per_customer}" if limits.HasField("per_customer") else "",
                "discount": ", ".join(effect_text(effect, definition.currency_code) for effect in definition.effects),
                "start": _time_text(definition, "start_time"),
                "end": _time_text(definition, "end_time"),
            }
        )
    print_rows(rows, right=("redeemed", "limit", "per customer"), whole="campaign")


def state_text(state: CampaignState.ValueType) -> str:
    """A state in a word."""
    from vouchsafe.client import CampaignState

    return CampaignState.Name(state).removeprefix("CAMPAIGN_STATE_").lower()


def _time_text(definition: CampaignDefinition, field: Literal["start_time", "end_time"]) -> str:
    return getattr(definition, field).ToJsonString() if definition.HasField(field) else ""
