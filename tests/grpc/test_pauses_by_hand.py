"""No plan ends a pause by hand that was made after it, and each end of a pause ends its own."""

from __future__ import annotations

from datetime import UTC, datetime

import asyncpg

from tests.grpc.test_campaign_life import state_of
from tests.grpc.test_combined import create
from tests.grpc.test_kill_switch import outcome
from tests.grpc.test_planned_changes import PAUSE, RESUME, after, at, become, events_of, listed, states_of
from tests.service import Service, settle, until
from vouchsafe.client import AuditEventFilter, Client
from vouchsafe.service.planner import LEFT_ALONE


async def skipped_in_trail(client: Client, campaign_id: str) -> list[str]:
    """Why the planner has cancelled changes of a campaign."""
    wanted = AuditEventFilter(
        target=f"campaign:{campaign_id}", principal="vouchsafe:planner", action="campaign.cancel_change"
    )
    return [one.reason async for one in client.list_audit_events(wanted)]


async def kinds_of(service: Service, campaign_id: str) -> list[str]:
    await settle(service.settings)
    return [kind for kind, _, _ in await events_of(service, campaign_id)]


async def test_a_plan_leaves_a_pause_by_hand_alone_and_says_so(client: Client, service: Service) -> None:
    """On top of its own pause, and instead of it."""
    over, before = await create(client), await create(client)
    for code in (over, before):
        await client.schedule_campaign(code, planned_changes=[at(after(1), PAUSE), at(after(2.5), RESUME)])
    await client.pause_campaign(before, "by hand")
    await until(become(client, over, "APPLIED", "PLANNED"))
    paused = await client.pause_campaign(over, "by hand")
    # The same again changes nothing.
    assert await client.pause_campaign(over, "by hand again") == paused
    await until(become(client, over, "APPLIED", "CANCELLED"))
    await until(become(client, before, "CANCELLED", "CANCELLED"))
    for code, times in ((over, 1), (before, 2)):
        campaign = await client.get_campaign(code)
        assert (state_of(campaign), campaign.pause_reason) == ("PAUSED", "by hand")
        assert await outcome(client, code) == "CAMPAIGN_PAUSED"
        assert await skipped_in_trail(client, code) == [LEFT_ALONE] * times
        assert (await listed(client, code))[-1].note == LEFT_ALONE
    assert await kinds_of(service, over) == ["paused", "paused"]
    assert await kinds_of(service, before) == ["paused"]
    # By hand any pause is ended.
    assert state_of(await client.resume_campaign(over)) == "ACTIVE"


async def test_of_a_planned_pause_and_one_that_ends_by_itself_the_longer_one_holds(client: Client) -> None:
    short, long = await create(client), await create(client)
    start, resume, later = after(1), after(2.5), after(4)
    for code, until_time in ((short, after(1.8)), (long, later)):
        await client.schedule_campaign(code, planned_changes=[at(start, PAUSE), at(resume, RESUME)])
        await client.pause_campaign(code, "by hand", resume_time=until_time)
    await until(become(client, short, "APPLIED", "CANCELLED", "APPLIED"))
    await until(become(client, long, "CANCELLED", "CANCELLED", "APPLIED"))
    changes = await listed(client, short)
    assert changes[-1].end_time.ToDatetime(UTC) >= resume
    assert changes[1].note == "paused again"
    changes = await listed(client, long)
    assert changes[-1].of_pause
    assert changes[-1].end_time.ToDatetime(UTC) >= later
    assert [state_of(await client.get_campaign(code)) for code in (short, long)] == ["ACTIVE", "ACTIVE"]


async def test_a_plan_ends_the_pause_that_stood_when_it_was_made_and_none_behind_it(
    client: Client, service: Service
) -> None:
    ended, again, anew = await create(client), await create(client), await create(client)
    end = after(600)
    for code in (ended, again, anew):
        await client.pause_campaign(code, "by hand", resume_time=end)
        response = await client.schedule_campaign(code, planned_changes=[at(after(2), RESUME)])
        campaign = response.campaign
        assert (state_of(campaign), campaign.pause_reason) == ("PAUSED", "by hand")
        assert campaign.resume_time.ToDatetime(UTC) == end
    await client.pause_campaign(again, "by hand", resume_time=end)
    await client.resume_campaign(anew)
    await client.pause_campaign(anew, "by hand", resume_time=end)
    for code, states in ((ended, ["APPLIED"]), (again, ["CANCELLED"]), (anew, ["CANCELLED"])):

        async def is_over(code: str = code, states: list[str] = states) -> bool:
            return states_of([one for one in await listed(client, code) if not one.of_pause]) == states

        await until(is_over)
    assert [state_of(await client.get_campaign(code)) for code in (ended, again, anew)] == [
        "ACTIVE",
        "PAUSED",
        "PAUSED",
    ]
    assert await kinds_of(service, ended) == ["paused", "paused", "resumed"]
    assert await kinds_of(service, again) == ["paused", "paused", "paused"]
    assert await kinds_of(service, anew) == ["paused", "paused", "resumed", "paused"]


async def test_another_schedule_while_a_plan_has_paused_may_end_that_pause(client: Client) -> None:
    code = await create(client)
    await client.schedule_campaign(code, planned_changes=[at(after(0.5), PAUSE), at(after(600), RESUME)])
    await until(become(client, code, "APPLIED", "PLANNED"))
    await client.schedule_campaign(code, planned_changes=[at(after(0.5), RESUME)])
    await until(become(client, code, "APPLIED", "APPLIED", "CANCELLED"))
    assert state_of(await client.get_campaign(code)) == "ACTIVE"


async def test_whose_a_pause_is_survives_that_valkey_loses_everything(own_service: Service) -> None:
    async with own_service.client(timeout_s=30) as client:
        by_plan, by_hand = await create(client), await create(client)
        due = after(8)
        for code in (by_plan, by_hand):
            await client.schedule_campaign(code, planned_changes=[at(after(0.5), PAUSE), at(due, RESUME)])
        for code in (by_plan, by_hand):
            await until(become(client, code, "APPLIED", "PLANNED"))
        await client.pause_campaign(by_hand, "by hand")
        await settle(own_service.settings)
        await own_service.flush_valkey()
        await settle(own_service.settings)
        assert datetime.now(UTC) < due, "the machine is too slow for this test"
        await until(become(client, by_plan, "APPLIED", "APPLIED"))
        await until(become(client, by_hand, "APPLIED", "CANCELLED"))
        assert [state_of(await client.get_campaign(code)) for code in (by_plan, by_hand)] == ["ACTIVE", "PAUSED"]


async def test_what_an_older_release_has_planned_ends_any_pause(client: Client, service: Service) -> None:
    """As that release said; and what it has paused counts as by hand."""
    code = await create(client)
    await client.schedule_campaign(code, planned_changes=[at(after(1.5), RESUME)])
    ledger = await asyncpg.connect(service.settings.postgres_url)
    try:
        await ledger.execute("update planned_changes set plan = null where campaign_id = $1", code)
    finally:
        await ledger.close()
    await client.pause_campaign(code, "by hand")
    await until(become(client, code, "APPLIED"))
    assert state_of(await client.get_campaign(code)) == "ACTIVE"
