"""What events say of the life of campaigns: the states that follow, and what becomes of planned changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from vouchsafe.domain.campaign import CampaignState
from vouchsafe.domain.plans import Plan, PlannedResume
from vouchsafe.domain.redemption import Event, EventKind
from vouchsafe.ledger.bodies import number_of, text_of
from vouchsafe.ledger.rows import time_of

STATES = {
    EventKind.PAUSED: CampaignState.PAUSED,
    EventKind.RESUMED: CampaignState.ACTIVE,
    EventKind.SCHEDULED: CampaignState.ACTIVE,
    EventKind.ARCHIVED: CampaignState.ARCHIVED,
}
# Why a pause does not end by itself any more, or nothing of a campaign is planned any more.
NOTES = {
    EventKind.PAUSED: "paused again",
    EventKind.RESUMED: "resumed before",
    EventKind.ARCHIVED: "the campaign was archived",
}


@dataclass
class Steps:
    """Rows for `persist`: the state of each campaign by its last event (with why it is paused, until when, and the plan
    whose pause it is), changes that are applied, changes of campaigns that are cancelled (all, or only the end of a
    pause), and new ones."""

    states: dict[str, tuple[CampaignState, str, datetime | None, str | None]] = field(default_factory=dict)
    applied: dict[int, datetime] = field(default_factory=dict)
    cancelled: dict[tuple[str, bool], tuple[str, datetime]] = field(default_factory=dict)
    planned: list[tuple[str, datetime, str, str, datetime | None]] = field(default_factory=list)

    @classmethod
    def of(cls, events: Sequence[Event]) -> Steps:
        """What these events say. Raises Rejected."""
        steps = cls()
        for event in events:
            if event.kind in STATES:
                steps._take(event)
        return steps

    @property
    def columns(self) -> Iterable[Sequence[object]]:
        """All rows column by column, kind by kind."""
        yield from _columns(5, [(id_, *row) for id_, row in self.states.items()])
        yield from _columns(2, list(self.applied.items()))
        yield from _columns(4, [(*key, *row) for key, row in self.cancelled.items()])
        yield from _columns(5, self.planned)

    def _take(self, event: Event) -> None:
        id_, at, kind = event.campaign_id, time_of(event.at_ms), event.kind
        reason, resume_at, plan_id = "", None, None
        if kind is EventKind.PAUSED:
            reason, resume_ms = text_of(event, "reason"), number_of(event, "resume_time_ms")
            plan_id = text_of(event, "plan", "") or None
            resume_at = None if resume_ms is None else time_of(resume_ms)
        self.states[id_] = (STATES[kind], reason, resume_at, plan_id)
        if (change_id := number_of(event, "change_id")) is not None:
            self.applied[change_id] = at
        if kind in NOTES:
            # By the first of these that comes.
            self.cancelled.setdefault((id_, kind is EventKind.ARCHIVED), (NOTES[kind], at))
            self.planned = [
                (*row[:3], NOTES[kind], at) if row[0] == id_ and row[4] is None else row for row in self.planned
            ]
        if resume_at is not None:
            plan = Plan(0, PlannedResume("the pause was to end then"))
            self.planned.append((id_, resume_at, plan.change_json, "", None))


def _columns(width: int, rows: Sequence[tuple[object, ...]]) -> Iterable[Sequence[object]]:
    return zip(*rows, strict=True) if rows else [()] * width
