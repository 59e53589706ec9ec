"""Planning what is to happen to campaigns. Who carries it out is `service.planner`."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from vouchsafe.domain.campaign import CampaignState, CampaignStatus, Definition
from vouchsafe.domain.errors import InvalidRequest, NotAllowed, NotFound, Violation
from vouchsafe.domain.life import check_not_archived
from vouchsafe.domain.plans import Plan, PlannedChange, PlannedResume, PlannedUpdate, PlanState
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.states import States
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.ledger.plans import PlanBook, PlanKey
from vouchsafe.service.caller import author
from vouchsafe.service.campaigns import Campaigns
from vouchsafe.service.publish import publish

# A definition that stands, with what paths name of another in it; without paths it is the other one. Raises
# InvalidRequest when that is not sound.
Merge = Callable[[Definition, Definition, Sequence[str]], Definition]

CANCELLED_BY_HAND = "cancelled"
SETTLED = {
    PlanState.APPLYING: "is being carried out",
    PlanState.APPLIED: "has been carried out",
    PlanState.FAILED: "has failed",
}


def _resumes_first(plans: Sequence[Plan]) -> bool:
    """Whether they resume a campaign before they pause it."""
    by_time = sorted(plans, key=lambda plan: plan.time_ms)
    steps = [plan.change for plan in by_time if not isinstance(plan.change, PlannedUpdate)]
    return bool(steps) and isinstance(steps[0], PlannedResume)


@dataclass(frozen=True, slots=True)
class PlanPage:
    """Some planned changes, by their times; `next` is where to go on, None after the last page."""

    changes: Sequence[PlannedChange]
    next: PlanKey | None


class Plans:
    """Every method raises Unavailable when a store that it needs is out of reach."""

    def __init__(self, gate: Gate, ledger: Ledger, campaigns: Campaigns, merge: Merge) -> None:
        self._gate = gate
        self._ledger = ledger
        self._states = States(gate)
        self._book = PlanBook(ledger)
        self._campaigns = campaigns
        self._merge = merge

    async def schedule(
        self,
        campaign_id: str,
        start_ms: int | None,
        end_ms: int | None,
        plans: Sequence[Plan],
        version: int | None,
        reason: str = "",
    ) -> tuple[CampaignStatus, Sequence[PlannedChange]]:
        """Gives a campaign at this version, or whatever stands with None, its start, its end and all that is planned
        from now on; a draft goes live. Raises NotFound, Changed, NotAllowed and InvalidRequest.

        What is planned ends a pause that stands now if it resumes the campaign before it pauses it, and never one that
        somebody makes later. After Unavailable the plans may stand already, with a draft that is still one or a pause
        that they do not end.
        """
        now_ms = self._gate.clock.now_ms()
        if over := [index for index, plan in enumerate(plans) if plan.time_ms <= now_ms]:
            texts = (Violation(f"planned_changes[{index}].time", "must be later than now") for index in over)
            raise InvalidRequest(*texts)

        def change(current: Definition) -> Definition:
            changed = msgspec.structs.replace(current, start_time_ms=start_ms, end_time_ms=end_ms)
            self._check(changed, plans)
            return changed

        status = await self._campaigns.get(campaign_id)
        check_not_archived(campaign_id, status.state)
        by = author()
        found = await self._book.schedule(campaign_id, change, version, plans, by, reason)
        if found is None:
            raise await self._campaigns.why_not_at(campaign_id, version)
        campaign, planned = found
        await publish(self._gate, self._ledger, campaign)
        await self._states.go_live(campaign_id, by)
        if status.state is CampaignState.PAUSED and _resumes_first(plans) and by.action_id is not None:
            await self._states.hand_over(status, by.action_id, by)
        return await self._campaigns.get(campaign_id), planned

    def _check(self, definition: Definition, plans: Sequence[Plan]) -> None:
        """Raises InvalidRequest for the first of the changes, one laid over the other, that would not be accepted."""
        self._merged(definition, definition, (), "")
        for index in sorted(range(len(plans)), key=lambda index: plans[index].time_ms):
            change = plans[index].change
            if isinstance(change, PlannedUpdate):
                prefix = f"planned_changes[{index}].update."
                definition = self._merged(definition, change.definition, change.paths, prefix)

    def _merged(self, current: Definition, given: Definition, paths: Sequence[str], prefix: str) -> Definition:
        try:
            merged = self._merge(current, given, paths)
            self._campaigns.check_supported(merged)
        except InvalidRequest as error:
            # What the request says itself stands in it under its own name.
            own = {} if prefix else {f"definition.{name}": name for name in ("start_time", "end_time")}
            raise InvalidRequest(
                *(Violation(prefix + own.get(one.field, one.field), one.description) for one in error.violations)
            ) from None
        return merged

    async def list(
        self, limit: int, campaign_id: str | None, from_ms: int, to_ms: int, after: PlanKey | None
    ) -> PlanPage:
        """At most `limit` changes, of a campaign or of all, due in [from_ms, to_ms), from behind `after` on."""
        changes = await self._book.list(limit + 1, campaign_id, from_ms, to_ms, after)
        shown: builtins.list[PlannedChange] = changes[:limit]
        return PlanPage(shown, (shown[-1].time_ms, shown[-1].id) if len(changes) > limit else None)

    async def cancel(self, change_id: int, reason: str) -> PlannedChange:
        """Cancels a change: once this returns, it is never carried out. Raises NotFound, and NotAllowed when it is too
        late for that."""
        cancelled = await self._book.cancel(change_id, reason or CANCELLED_BY_HAND, author())
        if cancelled is not None:
            return cancelled
        standing = await self._book.get(change_id)
        if standing is None:
            raise NotFound(f"there is no planned change {change_id}")
        if standing.state is PlanState.CANCELLED:
            return standing
        if standing.of_pause and standing.state is PlanState.PLANNED:
            raise NotAllowed(
                f"change {change_id} is the end of a pause and goes with it; "
                f"pause campaign {standing.campaign_id} again without an end, or resume it"
            )
        raise NotAllowed(f"change {change_id} {SETTLED[standing.state]} and cannot be cancelled")
