"""What operators did is in the trail exactly once, whatever is killed or away meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import time

from tests.service import Service, a_campaign, settle
from vouchsafe import app
from vouchsafe.client import AuditEventFilter, Client, KillSwitchScope, Unavailable
from vouchsafe.domain.trail import ChainCheck

EVERYTHING = KillSwitchScope(everything=True)
CAMPAIGNS, ROUNDS = 12, 25


async def chain(service: Service) -> ChainCheck:
    return await app.check_trail(service.settings, None, lambda _done, _total: None)


async def reasons(client: Client, action: str) -> list[str]:
    """Of all actions of a kind, in the order in which they were noted."""
    return [one.reason async for one in client.list_audit_events(AuditEventFilter(action=action))][::-1]


async def test_persisters_killed_in_the_middle_note_every_action_once(own_service: Service) -> None:
    async with own_service.client(timeout_s=30) as client:
        ids = [(await a_campaign(client))[0] for _ in range(CAMPAIGNS)]
        over = asyncio.Event()

        async def operate(id_: str) -> None:
            for number in range(ROUNDS):
                await client.pause_campaign(id_, f"{id_} {number}")
                await client.resume_campaign(id_, f"{id_} {number}")

        async def kill() -> None:
            while not over.is_set():
                await asyncio.sleep(0.4)
                await asyncio.to_thread(own_service.kill, "persister")

        killing = asyncio.create_task(kill())
        await asyncio.gather(*map(operate, ids))
        for number in range(3):
            await client.engage_kill_switch(EVERYTHING, f"{number}")
            await client.release_kill_switch(EVERYTHING, f"{number}")
        over.set()
        await killing
        await settle(own_service.settings)
        for action in ("campaign.pause", "campaign.resume"):
            noted = await reasons(client, action)
            assert len(noted) == CAMPAIGNS * ROUNDS
            for id_ in ids:  # each campaign's in the order in which they were done
                mine = [reason for reason in noted if reason.startswith(id_)]
                assert mine == [f"{id_} {number}" for number in range(ROUNDS)]
        for action in ("kill_switch.engage", "kill_switch.release"):
            assert sorted(await reasons(client, action)) == ["0", "1", "2"]
    found = await chain(own_service)
    # With the key that the service was made with.
    assert (found.broken, found.rows) == (None, 1 + CAMPAIGNS * (1 + 2 * ROUNDS) + 6)


async def test_what_was_stopped_while_postgresql_was_away_is_noted_with_its_time(own_service: Service) -> None:
    async with own_service.client(timeout_s=30) as client:
        campaign, code = await a_campaign(client)
        await settle(own_service.settings)
        await asyncio.to_thread(own_service.stop_postgres)
        before_ms = time.time_ns() // 1_000_000
        await client.pause_campaign(campaign, "stock is gone")
        await client.disable_code(code, "it leaked")
        await client.engage_kill_switch(EVERYTHING, "in any case")
        after_ms = time.time_ns() // 1_000_000
        async with own_service.client(timeout_s=2) as hasty:
            with contextlib.suppress(Unavailable):  # it cannot be created, so it is not noted
                await a_campaign(hasty)
        await asyncio.sleep(1)
        await asyncio.to_thread(own_service.start_postgres)
        await settle(own_service.settings)
        found = [one async for one in client.list_audit_events()]
        stopped = {one.action: one for one in found if one.action.split(".")[1] in ("pause", "disable", "engage")}
        assert {action: (one.principal, one.target, one.reason) for action, one in stopped.items()} == {
            "campaign.pause": ("key:dev", f"campaign:{campaign}", "stock is gone"),
            "code.disable": ("key:dev", f"code:{code}", "it leaked"),
            "kill_switch.engage": ("key:dev", "kill_switch:*", "in any case"),
        }
        for one in stopped.values():
            assert before_ms - 1_000 <= one.action_time.ToMilliseconds() <= after_ms + 1_000
        assert len(found) == 5
    assert (await chain(own_service)).broken is None
