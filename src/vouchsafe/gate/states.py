"""Campaigns are paused, resumed, set live and archived; the contract stands in campaign.lua."""

from __future__ import annotations

import json
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class _Step:
    """A step of a campaign's life. `end_ms` is when its pause ends by itself, or of a resume the pause that it ends."""

    kind: EventKind
    campaign_id: str
    reason: str
    author: Author
    end_ms: int | None = None
    turn: Turn | None = None
    plan: str | None = None

    @property
    def body(self) -> str:
        """The body of its event, as ledger/steps.py and ledger/notes.py read it."""
        body: dict[str, str | int | None] = {"reason": self.reason, **self.author.told()}
        if self.kind is EventKind.PAUSED:
            body |= {} if self.end_ms is None else {"resume_time_ms": self.end_ms}
            body |= {} if self.plan is None else {"plan": self.plan}
        if self.turn is not None:
            body["change_id"] = self.turn.change_id
        return json.dumps(body, ensure_ascii=False)

    @property
    def args(self) -> list[bytes | str | int]:
        """Those of set_state behind the token."""
        number, plan_end_ms = (None, None) if self.turn is None else (self.turn.number, self.turn.pause_end_ms)
        said = ["" if one is None else one for one in (self.end_ms, number, self.plan, plan_end_ms)]
        return [self.campaign_id, self.kind.value, self.reason, self.body, *said]


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
        succeeds anywhere. A turn is taken once; that of a plan raises Changed when somebody has paused the campaign by
        hand, for as long as the plan does or for longer.

        It admits nothing from its first step on; what was held before of transactions over several codes is settled
        before the second, so that none of them is decided later.
        """
        plan = None if turn is None else turn.plan
        return await self._stop(_Step(EventKind.PAUSED, campaign_id, reason, author, resume_time_ms, turn, plan))

    async def hand_over(self, status: CampaignStatus, plan: str, author: Author) -> CampaignStatus | None:
        """Makes a pause, if it still stands as it was seen, one of a plan, which may end it then."""
        id_, reason, end_ms = status.campaign.id, status.pause_reason, status.resume_time_ms
        return await self._stop(_Step(EventKind.PAUSED, id_, reason, author, end_ms, plan=plan))

    async def resume(
        self,
        campaign_id: str,
        reason: str,
        author: Author = UNKNOWN,
        *,
        pause_end_ms: int | None = None,
        turn: Turn | None = None,
    ) -> CampaignStatus | None:
        """Lets a paused campaign go on, whoever has paused it. With `pause_end_ms` only if the pause that stands is the
        one that ends by itself then, and with the turn of a plan only if it is that plan's, else raises Changed. A turn
        is taken once."""
        plan = None if turn is None else turn.plan
        return await self._start(_Step(EventKind.RESUMED, campaign_id, reason, author, pause_end_ms, turn, plan))

    async def go_live(self, campaign_id: str, author: Author = UNKNOWN) -> CampaignStatus | None:
        """Ends a draft: its times say from now on where it is in its life."""
        return await self._start(_Step(EventKind.SCHEDULED, campaign_id, "", author))

    async def archive(self, campaign_id: str, reason: str, author: Author = UNKNOWN) -> CampaignStatus | None:
        """Ends a campaign for ever, as `pause` does for a while."""
        return await self._stop(_Step(EventKind.ARCHIVED, campaign_id, reason, author))

    async def _stop(self, step: _Step) -> CampaignStatus | None:
        while isinstance(found := await self._take(step), list):
            await self._gate.settle_to_stop(found)
        return found

    async def _start(self, step: _Step) -> CampaignStatus | None:
        found = await self._take(step)
        return None if isinstance(found, list) else found

    async def _take(self, step: _Step) -> CampaignStatus | list[Part] | None:
        id_ = step.campaign_id
        keys, token = self._gate.keys_and_token_to_stop(self._gate.partition_of(id_))
        names = [keys.meta, keys.outbox, keys.pending, *keys.of_campaigns([id_])]
        (reply,) = await self._gate.write(function_call("set_state", names, [token, *step.args]))
        self._gate.check_problem()
        if reply == b"other":
            raise Changed(f"campaign {id_} is in another pause than the one that was to end or to be replaced")
        if isinstance(reply, bytes):
            raise cannot(step.kind, id_, CampaignState(reply.decode()))
        if reply and isinstance(reply[0], list):
            return [Part.parse(part.decode()) for part in reply[0]]
        return decode_status(id_, reply)
