"""How campaigns are read, alone and with their state and what they count; the contracts stand in campaign.lua."""

from __future__ import annotations

from collections.abc import Sequence

from vouchsafe.domain.campaign import Campaign, CampaignState, CampaignStatus, Definition
from vouchsafe.gate.connection import Command, function_call
from vouchsafe.gate.keys import Keys


def describe_call(keys: Keys, token: str, campaign_ids: Sequence[str]) -> Command:
    """The call that reads campaigns of one partition; `decode_status` reads each of its replies."""
    names = [keys.meta, keys.outbox, *keys.of_campaigns(campaign_ids)]
    return function_call("describe", names, [token, *campaign_ids])


def definition_call(keys: Keys, token: str, campaign_ids: Sequence[str]) -> Command:
    """The call that reads only what campaigns of one partition are defined as; `decode_definition` reads each reply."""
    return function_call("definition", [keys.meta, *map(keys.campaign, campaign_ids)], [token])


def decode_definition(_partition: int, campaign_id: str, reply: list[bytes] | None) -> Campaign | None:
    """One campaign as `definition` answers it; None when there is none."""
    if not reply:
        return None
    version, definition, created_ms = reply
    return Campaign(campaign_id, int(version), Definition.from_json(definition), int(created_ms))


def decode_status(campaign_id: str, reply: list[bytes] | None) -> CampaignStatus | None:
    """One campaign as `describe` and `set_state` answer it; None when there is none."""
    if not reply:
        return None
    (
        version,
        definition,
        created_ms,
        state,
        pause_reason,
        resume_ms,
        uses,
        money,
        customers,
        held,
        held_money,
        now_ms,
    ) = reply
    held_count, held_minor = int(held or 0), int(held_money or 0)
    return CampaignStatus(
        campaign=Campaign(
            campaign_id,
            int(version),
            Definition.from_json(definition),
            int(created_ms),
            CampaignState(state.decode()),
        ),
        pause_reason=pause_reason.decode(),
        resume_time_ms=int(resume_ms) if resume_ms else None,
        redeemed_count=int(uses or 0) - held_count,
        discount_minor=int(money or 0) - held_minor,
        held_count=held_count,
        held_minor=held_minor,
        customer_count=int(customers) if customers else None,
        now_ms=int(now_ms),
    )
