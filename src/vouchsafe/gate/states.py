"""Campaigns are paused, resumed, set live and archived; the contract stands in campaign.lua."""

from __future__ import annotations

import json

from vouchsafe.domain.campaign import CampaignState, CampaignStatus
from vouchsafe.domain.errors import Changed
from vouchsafe.domain.life import cannot
from vouchsafe.domain.plans import Turn
from vouchsafe.domain.redemption import EventKind
from vouchsafe.domain.trail import UNKNOWN, Author
from vouchsafe.gate.connection import function_call
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.statuses import decode_status
from vouchsafe.gate.transactions import Part


class States:
    """Every method answers the campaign behind the step, or None when there is none. Raises NotAllowed when the step
    cannot be taken from where the campaign is in its life, and Unavailable."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def pause(
        self,
        campaign_id: str,
        reason: str,
        author: Author = UNKNOWN,
        *,
        resume_time_ms: int | None = None,
        turn: Turn | None = None,
    ) -> CampaignStatus | None:
        """Stops a campaign, until a time or until somebody resumes it: once this returns, no later redemption of it
        succeeds anywhere. A turn is taken once.

        It admits nothing from its first step on; what was held before of transactions over several codes is settled
        before the second, so that none of them is decided later.
        """
        return await self._stop(campaign_id, EventKind.PAUSED, reason, author, resume_time_ms, turn)

    async def resume(
        self,
        campaign_id: str,
        reason: str,
        author: Author = UNKNOWN,
        *,
        pause_end_ms: int | None = None,
        turn: Turn | None = None,
    ) -> CampaignStatus | None:
        """Lets a paused campaign go on. With `pause_end_ms` only if the pause that stands is the one that ends by
        itself then, else raises Changed. A turn is taken once."""
        return await self._start(campaign_id, EventKind.RESUMED, reason, author, pause_end_ms, turn)

    async def go_live(self, campaign_id: str, author: Author = UNKNOWN) -> CampaignStatus | None:
        """Ends a draft: its times say from now on where it is in its life."""
        return await self._start(campaign_id, EventKind.SCHEDULED, "", author)

    async def archive(self, campaign_id: str, reason: str, author: Author = UNKNOWN) -> CampaignStatus | None:
        """Ends a campaign for ever, as `pause` does for a while."""
        return await self._stop(campaign_id, EventKind.ARCHIVED, reason, author)

    async def _stop(
        self,
        campaign_id: str,
        step: EventKind,
        reason: str,
        author: Author = UNKNOWN,
        pause_end_ms: int | None = None,
        turn: Turn | None = None,
    ) -> CampaignStatus | None:
        while True:
            found = await self._step(campaign_id, step, reason, author, pause_end_ms, turn)
            if not isinstance(found, list):
                return found
            await self._gate.settle_to_stop(found)

    async def _start(
        self,
        campaign_id: str,
        step: EventKind,
        reason: str,
        author: Author = UNKNOWN,
        pause_end_ms: int | None = None,
        turn: Turn | None = None,
    ) -> CampaignStatus | None:
        found = await self._step(campaign_id, step, reason, author, pause_end_ms, turn)
        return None if isinstance(found, list) else found

    async def _step(
        self,
        campaign_id: str,
        step: EventKind,
        reason: str,
        author: Author = UNKNOWN,
        pause_end_ms: int | None = None,
        turn: Turn | None = None,
    ) -> CampaignStatus | list[Part] | None:
        keys, token = self._gate.keys_and_token_to_stop(self._gate.partition_of(campaign_id))
        # As ledger/steps.py and ledger/notes.py read it.
        body: dict[str, str | int | None] = {"reason": reason, **author.told()}
        if step is EventKind.PAUSED and pause_end_ms is not None:
            body["resume_time_ms"] = pause_end_ms
        if turn is not None:
            body["change_id"] = turn.change_id
        args: list[bytes | str | int] = [token, campaign_id, step.value, reason, json.dumps(body, ensure_ascii=False)]
        args += ["" if pause_end_ms is None else pause_end_ms, "" if turn is None else turn.number]
        names = [keys.meta, keys.outbox, keys.pending, *keys.of_campaigns([campaign_id])]
        (reply,) = await self._gate.write(function_call("set_state", names, args))
        self._gate.check_problem()
        if reply == b"other":
            raise Changed(f"campaign {campaign_id} is not in the pause that was to end")
        if isinstance(reply, bytes):
            raise cannot(step, campaign_id, CampaignState(reply.decode()))
        if reply and isinstance(reply[0], list):
            return [Part.parse(part.decode()) for part in reply[0]]
        return decode_status(campaign_id, reply)
