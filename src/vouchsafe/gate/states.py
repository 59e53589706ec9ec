"""Campaigns are paused, resumed, set live and archived; the contract stands in campaign.lua."""

from __future__ import annotations

import json

from vouchsafe.domain.campaign import CampaignState, CampaignStatus
from vouchsafe.domain.life import cannot
from vouchsafe.domain.redemption import EventKind
from vouchsafe.gate.connection import function_call
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.statuses import decode_status
from vouchsafe.gate.transactions import Part


class States:
    """Every method answers the campaign behind the step, or None when there is none. Raises NotAllowed when the step
    cannot be taken from where the campaign is in its life, and Unavailable."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def pause(self, campaign_id: str, reason: str) -> CampaignStatus | None:
        """Stops a campaign: once this returns, no later redemption of it succeeds anywhere.

        It admits nothing from its first step on; what was held before of transactions over several codes is settled
        before the second, so that none of them is decided later.
        """
        return await self._stop(campaign_id, EventKind.PAUSED, reason)

    async def resume(self, campaign_id: str, reason: str) -> CampaignStatus | None:
        """Lets a paused campaign go on."""
        return await self._start(campaign_id, EventKind.RESUMED, reason)

    async def go_live(self, campaign_id: str) -> CampaignStatus | None:
        """Ends a draft: its times say from now on where it is in its life."""
        return await self._start(campaign_id, EventKind.SCHEDULED, "")

    async def archive(self, campaign_id: str, reason: str) -> CampaignStatus | None:
        """Ends a campaign for ever, as `pause` does for a while."""
        return await self._stop(campaign_id, EventKind.ARCHIVED, reason)

    async def _stop(self, campaign_id: str, step: EventKind, reason: str) -> CampaignStatus | None:
        while True:
            found = await self._step(campaign_id, step, reason)
            if not isinstance(found, list):
                return found
            await self._gate.settle_to_stop(found)

    async def _start(self, campaign_id: str, step: EventKind, reason: str) -> CampaignStatus | None:
        found = await self._step(campaign_id, step, reason)
        return None if isinstance(found, list) else found

    async def _step(self, campaign_id: str, step: EventKind, reason: str) -> CampaignStatus | list[Part] | None:
        keys, token = self._gate.keys_and_token_to_stop(self._gate.partition_of(campaign_id))
        body = json.dumps({"reason": reason}, ensure_ascii=False)
        names = [keys.meta, keys.outbox, keys.pending, *keys.of_campaigns([campaign_id])]
        (reply,) = await self._gate.write(
            function_call("set_state", names, [token, campaign_id, step.value, reason, body])
        )
        self._gate.check_problem()
        if isinstance(reply, bytes):
            raise cannot(step, campaign_id, CampaignState(reply.decode()))
        if reply and isinstance(reply[0], list):
            return [Part.parse(part.decode()) for part in reply[0]]
        return decode_status(campaign_id, reply)
