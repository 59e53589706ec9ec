"""Carries out planned changes: each once, at its time, and those of a campaign one after the other.

One process leads, whoever holds the lock. Nothing hangs on there being only one: a change of a definition and the note
that it is applied are one transaction, and a pause or resume has a turn that the gate takes once. That the gate has
taken it the ledger draws from its event, so a leader may die anywhere, and a gate that has lost the event is asked
again. What waits for a store or a partition holds up the later changes of its campaign, and no others.
"""

from __future__ import annotations

import asyncio

import structlog

from vouchsafe.domain.errors import Changed, InvalidRequest, NotAllowed, Unavailable
from vouchsafe.domain.life import check_not_archived
from vouchsafe.domain.plans import Change, PlannedChange, PlannedPause, PlannedResume, PlannedUpdate, Turn
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.states import States
from vouchsafe.ledger.connection import PLANNER_LOCK
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.ledger.plans import Due, PlanBook
from vouchsafe.service.caller import service_author
from vouchsafe.service.persist import Outages, until_stopped
from vouchsafe.service.plans import Merge
from vouchsafe.service.publish import publish

log = structlog.get_logger()

# How long it may take until a lock that is free is taken, and until a change is seen that was planned for very soon.
POLL_S = 0.25
# How soon the next change of a campaign follows, once the ledger has heard of the one before.
FOLLOW_S = 0.05
DUE_PER_PAGE = 200
AT_ONCE = 16
# Of a change that neither ends nor replaces a pause, because that is not its plan's.
LEFT_ALONE = "skipped: the campaign was paused by hand, and a plan does not end that; resume it by hand"


async def plan_forever(gate: Gate, ledger: Ledger, merge: Merge, stop: asyncio.Event) -> None:
    """Carries out what is planned until `stop` is set; any number of processes may do so. A store that goes away is
    waited for."""
    await until_stopped(stop, _Planner(gate, ledger, merge).run())


class _Planner:
    def __init__(self, gate: Gate, ledger: Ledger, merge: Merge) -> None:
        self._gate = gate
        self._ledger = ledger
        self._states = States(gate)
        self._book = PlanBook(ledger)
        self._merge = merge
        self._outages = Outages("planned changes")
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> None:
        while True:
            try:
                await self._lead()
                self._outages.end("leading")
            except Exception as error:  # noqa: BLE001  # whatever it is must not stop the persister
                self._outages.begin("leading", error)
            await asyncio.sleep(POLL_S)

    async def _lead(self) -> None:
        """Leads from when the lock is free for as long as it is held."""
        async with self._ledger.partition_locks() as locks:
            while not await locks.try_lock(PLANNER_LOCK):
                self._outages.end("leading")
                await asyncio.sleep(POLL_S)
            while await locks.alive():
                has_moved = await self._carry_on_all()
                self._outages.end("leading")
                next_s = FOLLOW_S if has_moved else await self._book.next_due_s()
                await asyncio.sleep(POLL_S if next_s is None else min(next_s, POLL_S))

    async def _carry_on_all(self) -> bool:
        """A step for every campaign of which a change is due; answers whether any was taken."""
        has_moved = False
        after = ""
        while page := await self._book.due(DUE_PER_PAGE, after):
            has_moved = any(await asyncio.gather(*map(self._carry_on, page))) or has_moved
            after = page[-1].planned.campaign_id
        return has_moved

    async def _carry_on(self, due: Due) -> bool:
        planned = due.planned
        who = f"campaign {planned.campaign_id}"
        async with self._turns:
            try:
                await self._apply(due)
            except (InvalidRequest, NotAllowed) as error:
                await self._fail(planned, str(error))
            except Changed:
                await self._skip(planned)
            except Exception as error:  # noqa: BLE001  # the changes of other campaigns go on
                self._outages.begin(who, error)
                return False
            self._outages.end(who)
            return True

    async def _apply(self, due: Due) -> None:
        """Raises InvalidRequest and NotAllowed when the change cannot be applied, Unavailable when it cannot be now."""
        planned = due.planned
        # Before anything is begun: what waits for a partition can still be cancelled.
        (status,) = await self._gate.describe([planned.campaign_id])
        if status is None:
            raise Unavailable(f"campaign {planned.campaign_id} is not published yet")
        try:
            change = planned.change
        except ValueError as error:
            raise NotAllowed(f"this release cannot read the change: {error}") from None
        if not due.is_published:
            await self._publish(planned.campaign_id)
        if isinstance(change, PlannedUpdate):
            check_not_archived(planned.campaign_id, status.state)
            await self._update(planned, change)
        else:
            await self._take_turn(due, change)

    async def _update(self, planned: PlannedChange, update: PlannedUpdate) -> None:
        campaign = await self._book.apply_update(
            planned.id,
            lambda current: self._merge(current, update.definition, update.paths),
            service_author("planner"),
        )
        if campaign is not None:
            log.info("a planned change was applied", change=planned.id, campaign=planned.campaign_id)
            # If this fails it is made up for before the campaign's next change, or by the reconciler.
            await publish(self._gate, self._ledger, campaign)

    async def _take_turn(self, due: Due, change: Change) -> None:
        """The gate takes a turn once, however often it is told; the persister notes that it has."""
        planned = due.planned
        number = await self._book.begin(planned) if due.turn is None else due.turn
        if number is None:
            return
        turn = Turn(planned.id, number, planned.plan, due.pause_end_ms)
        # Noted once, like the turn.
        by = service_author("planner")._replace(action_id=f"planned-change-{planned.id}")
        if isinstance(change, PlannedPause):
            await self._states.pause(planned.campaign_id, change.reason, by, turn=turn)
        elif isinstance(change, PlannedResume):
            # The ledger may not have heard yet that somebody has resumed the campaign, or has paused it for longer.
            pause_end_ms = planned.time_ms if planned.of_pause else None
            await self._states.resume(planned.campaign_id, change.reason, by, pause_end_ms=pause_end_ms, turn=turn)

    async def _publish(self, campaign_id: str) -> None:
        campaign = await self._ledger.get_campaign(campaign_id)
        if campaign is not None:
            await publish(self._gate, self._ledger, campaign)

    async def _skip(self, planned: PlannedChange) -> None:
        """The gate has found another pause, which is not the change's to end or to replace."""
        note = "resumed before, or paused again" if planned.of_pause else LEFT_ALONE
        by = service_author("planner")
        if await self._book.skip(planned.id, note, by):
            log.info("a planned change was skipped", change=planned.id, campaign=planned.campaign_id, why=note)

    async def _fail(self, planned: PlannedChange, why: str) -> None:
        if await self._book.fail(planned.id, why):
            log.warning("a planned change has failed", change=planned.id, campaign=planned.campaign_id, error=why)
