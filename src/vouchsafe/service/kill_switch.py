"""Stopping many campaigns at once: the kill switch, and pausing by label. Both need the gate only.

Each partition is stopped in a step of its own, and they all have to answer: whatever is out of reach could redeem again
when it is back. Those that do answer are stopped all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from vouchsafe.domain.campaign import CampaignStatus
from vouchsafe.domain.errors import NotAllowed, NotFound, Unavailable
from vouchsafe.domain.kill_switch import Engaged, KillSwitch, KillSwitches, SwitchEvent, combine
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.stops import Stops
from vouchsafe.service.caller import author
from vouchsafe.service.campaigns import Campaigns

# Campaigns that are paused or resumed at the same time.
AT_ONCE = 32

Result = TypeVar("Result")
Item = TypeVar("Item")


class KillSwitchboard:
    """Every method raises Unavailable when not all partitions could be reached."""

    def __init__(self, gate: Gate, campaigns: Campaigns) -> None:
        self._gate = gate
        self._stops = Stops(gate)
        self._campaigns = campaigns

    async def engage(self, scope: str, reason: str) -> KillSwitch:
        """Stops redeeming: once this returns, no later redemption within the scope succeeds on any server."""
        engaged = Engaged(reason, self._gate.clock.now_ms())
        self._check("stopped", await self._stops.engage(scope, engaged, author()))
        return (await self.get()).of(scope)

    async def release(self, scope: str, reason: str) -> KillSwitch:
        """Lets redeeming go on."""
        event = SwitchEvent(scope, reason, self._gate.clock.now_ms(), *author())
        self._check("released", await self._stops.release(event))
        return (await self.get()).of(scope)

    async def get(self) -> KillSwitches:
        """What is engaged, by the gate itself. Never Unavailable: what cannot be asked is told."""
        return combine(await self._stops.read())

    def _check(self, done: str, results: Sequence[Unavailable | None]) -> None:
        failures = [one for one in results if one is not None]
        if failures:
            partitions = self._gate.partitions
            raise Unavailable(
                f"{done} in {partitions - len(failures)} of {partitions} partitions, not in the others: {failures[0]}; "
                "call again until all are"
            ) from failures[0]

    # -- by label ----------------------------------------------------------------------------------------------------

    async def pause(self, label: str, reason: str) -> Sequence[CampaignStatus]:
        """Stops all campaigns that have a label now, in the order of their ids; drafts and what is archived are left
        out."""
        return await self._with_label(label, "paused", lambda id_: self._campaigns.pause(id_, reason))

    async def resume(self, label: str, reason: str) -> Sequence[CampaignStatus]:
        """Lets all campaigns that have a label go on, as `pause` stops them."""
        return await self._with_label(label, "resumed", lambda id_: self._campaigns.resume(id_, reason))

    async def _with_label(
        self, label: str, done: str, step: Callable[[str], Awaitable[CampaignStatus]]
    ) -> Sequence[CampaignStatus]:
        asked = await _all(range(self._gate.partitions), lambda partition: self._stops.labelled(partition, label))
        ids = sorted(id_ for found in asked if isinstance(found, list) for id_ in found)
        results = await _all(ids, step)
        failures = [one for one in (*asked, *results) if isinstance(one, Unavailable)]
        statuses = [one for one in results if isinstance(one, CampaignStatus)]
        if failures:
            count = len(statuses)
            raise Unavailable(f"{count} campaigns are {done}, not all: {failures[0]}; call again") from failures[0]
        if not ids:
            raise NotFound(f"no campaign has the label {label}")
        return statuses


async def _all(
    items: Sequence[Item], step: Callable[[Item], Awaitable[Result]]
) -> list[Result | Unavailable | NotAllowed]:
    """Takes a step for each, some at once; what is out of reach, or not allowed, holds up no other."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def take(item: Item) -> Result | Unavailable | NotAllowed:
        async with turns:
            try:
                return await step(item)
            except (Unavailable, NotAllowed) as error:
                return error

    return list(await asyncio.gather(*map(take, items)))
