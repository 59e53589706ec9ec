"""The planned changes of campaigns, and what has become of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from vouchsafe.domain.campaign import Campaign, Definition
from vouchsafe.domain.plans import Plan, PlannedChange, PlanState
from vouchsafe.domain.trail import UNKNOWN, Action, Author, Note
from vouchsafe.ledger.changes import change_campaign
from vouchsafe.ledger.connection import Rejected, transaction
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.ledger.notes import note_actions
from vouchsafe.ledger.queries import SQL
from vouchsafe.ledger.rows import milliseconds, time_of

# Where a page ends: time_ms and id of its last change.
PlanKey = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Due:
    """A change whose time has come, before all others of its campaign. `turn` is that of one that was begun before;
    `is_published`: the gate has the campaign's definition. `pause_end_ms`: when its plan resumes the campaign next.
    """

    planned: PlannedChange
    turn: int | None
    is_published: bool
    pause_end_ms: int | None


@dataclass(frozen=True, slots=True)
class Lateness:
    """How late the oldest change that is due is, 0 for none, and how many have failed."""

    late_s: float
    failed: int


class PlanBook:
    """Every method raises Unavailable when PostgreSQL is out of reach."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    # -- planning ----------------------------------------------------------------------------------------------------

    async def schedule(
        self,
        campaign_id: str,
        change: Callable[[Definition], Definition],
        version: int | None,
        plans: Sequence[Plan],
        author: Author = UNKNOWN,
        reason: str = "",
    ) -> tuple[Campaign, list[PlannedChange]] | None:
        """Changes a definition as `Ledger.update_campaign` does, and puts plans in the place of those that stand,
        all or nothing. The plan has the id of the author's action."""
        async with self._ledger.connection() as connection, transaction(connection):
            changed = await change_campaign(connection, campaign_id, change, version)
            if changed is None:
                return None
            await connection.execute(SQL["replace_plans"], campaign_id)
            times, changes = [time_of(plan.time_ms) for plan in plans], [plan.change_json for plan in plans]
            rows = await connection.fetch(SQL["plan_changes"], campaign_id, times, changes, author.action_id)
            planned = list(map(_planned, rows))
            also = {path: value for one in planned for path, value in one.told.items()}
            await note_actions(connection, changed.note(Action.CAMPAIGN_SCHEDULE, author, reason, also))
            return changed.campaign, planned

    async def cancel(self, change_id: int, note: str, author: Author = UNKNOWN) -> PlannedChange | None:
        """Cancels a change; None when it is not planned (any more)."""
        async with self._ledger.connection() as connection, transaction(connection):
            row = await connection.fetchrow(SQL["cancel_plan"], change_id, note)
            if row is None:
                return None
            planned = _planned(row)
            await note_actions(connection, _cancelled(planned, author))
            return planned

    async def get(self, change_id: int) -> PlannedChange | None:
        """A change by its id, whatever has become of it."""
        row = await self._ledger.fetchrow("get_plan", change_id)
        return _planned(row) if row else None

    async def list(
        self, limit: int, campaign_id: str | None, from_ms: int, to_ms: int, after: PlanKey | None
    ) -> list[PlannedChange]:
        """At most `limit` changes, of a campaign or of all, due in [from_ms, to_ms), by their times."""
        time_ms, change_id = after or (from_ms, 0)
        times = (time_of(from_ms), time_of(to_ms), time_of(time_ms))
        return list(map(_planned, await self._ledger.fetch("list_plans", limit, campaign_id, *times, change_id)))

    # -- applying ----------------------------------------------------------------------------------------------------

    async def due(self, limit: int, after: str) -> Sequence[Due]:
        """What is to be applied next, a change a campaign, by the campaigns' ids, from behind `after` on."""
        rows = await self._ledger.fetch("due_plans", limit, after)
        return [
            Due(_planned(row), row["turn"], row["is_published"], _milliseconds_or_none(row["pause_end_at"]))
            for row in rows
        ]

    async def next_due_s(self) -> float | None:
        """In how many seconds the next change is due that is not yet; None for never."""
        seconds = await self._ledger.fetchval("next_plan")
        return None if seconds is None else float(seconds)

    async def begin(self, planned: PlannedChange) -> int | None:
        """A pause or resume is applied from now on; answers its turn. None: it is not planned (any more), or another
        change of the campaign is being applied."""
        try:
            turn = await self._ledger.fetchval("begin_turn", planned.id, planned.campaign_id)
        except Rejected:
            return None
        return None if turn is None else int(turn)

    async def apply_update(
        self, change_id: int, change: Callable[[Definition], Definition], author: Author = UNKNOWN
    ) -> Campaign | None:
        """Changes the definition and notes that the change is applied, both or nothing; None when it is not planned
        (any more). What `change` raises is raised, and nothing is applied then."""
        async with self._ledger.connection() as connection, transaction(connection):
            campaign_id = await connection.fetchval(SQL["mark_plan_applied"], change_id)
            changed = None if campaign_id is None else await change_campaign(connection, campaign_id, change)
            if changed is None:
                return None
            reason = f"planned change {change_id}"
            await note_actions(connection, changed.note(Action.CAMPAIGN_UPDATE, author, reason))
            return changed.campaign

    async def fail(self, change_id: int, note: str) -> bool:
        """A change that cannot be applied will not be; False when that is settled already."""
        return await self._ledger.fetchval("fail_plan", change_id, note[:1_000]) is not None

    async def skip(self, change_id: int, note: str, author: Author = UNKNOWN) -> bool:
        """A change that was begun will not be applied, as the gate has decided; False when that is settled already."""
        async with self._ledger.connection() as connection, transaction(connection):
            row = await connection.fetchrow(SQL["skip_plan"], change_id, note)
            if row is not None:
                await note_actions(connection, _cancelled(_planned(row), author))
            return row is not None

    async def measure(self) -> Lateness:
        """How it stands with all changes."""
        (row,) = await self._ledger.fetch("measure_plans")
        return Lateness(max(0.0, row["late_s"]), row["failed"])


def _planned(row: asyncpg.Record) -> PlannedChange:
    return PlannedChange(
        row["id"],
        row["campaign_id"],
        milliseconds(row["due_at"]),
        row["change"],
        row["of_pause"],
        PlanState(row["state"]),
        row["note"],
        _milliseconds_or_none(row["ended_at"]),
        row["plan"],
    )


def _cancelled(planned: PlannedChange, author: Author) -> Note:
    target = f"campaign:{planned.campaign_id}"
    return Note(author, Action.CAMPAIGN_CANCEL_CHANGE, target, planned.told, {}, planned.note)


def _milliseconds_or_none(time: datetime | None) -> int | None:
    return None if time is None else milliseconds(time)
