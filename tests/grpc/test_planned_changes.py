"""Planned changes through real gRPC: planned, listed, cancelled, and carried out once at their times."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from tests.grpc.test_campaign_life import campaign_in, state_of
from tests.grpc.test_combined import create
from tests.grpc.test_kill_switch import outcome
from tests.service import Service, settle, until
from vouchsafe.client import (
    CampaignDefinition,
    Changed,
    ChangePlan,
    Client,
    InvalidArgument,
    Limits,
    NotAllowed,
    NotFound,
    PlannedChange,
    PlannedChangeState,
    PlannedPause,
    PlannedResume,
    PlannedUpdate,
)

PAUSE, RESUME = ChangePlan(pause=PlannedPause(reason="planned")), ChangePlan(resume=PlannedResume(reason="planned"))


def after(seconds: float) -> datetime:
    """To the millisecond, as times are kept."""
    moment = datetime.now(UTC) + timedelta(seconds=seconds)
    return moment.replace(microsecond=moment.microsecond // 1_000 * 1_000)


def at(time: datetime, plan: ChangePlan) -> ChangePlan:
    planned = ChangePlan()
    planned.CopyFrom(plan)
    planned.time.FromDatetime(time)
    return planned


def update(mask: list[str], **fields: object) -> ChangePlan:
    planned = ChangePlan(update=PlannedUpdate(definition=CampaignDefinition(**fields)))  # type: ignore[arg-type]
    planned.update.update_mask.paths.extend(mask)
    return planned


def states_of(changes: list[PlannedChange]) -> list[str]:
    return [PlannedChangeState.Name(one.state).removeprefix("PLANNED_CHANGE_STATE_") for one in changes]


async def listed(client: Client, campaign_id: str) -> list[PlannedChange]:
    return [one async for one in client.list_planned_changes(campaign_id, page_size=2)]


def become(client: Client, campaign_id: str, *states: str) -> Callable[[], Awaitable[bool]]:
    """Whether that has become of a campaign's changes."""

    async def holds() -> bool:
        return states_of(await listed(client, campaign_id)) == list(states)

    return holds


async def events_of(service: Service, campaign_id: str) -> list[tuple[str, datetime, int | None]]:
    """The steps of a campaign in the ledger, in order: kind, time, and the planned change that it was, if any."""
    connection = await asyncpg.connect(service.settings.postgres_url)
    try:
        rows = await connection.fetch(
            "select kind, at, body from events where campaign_id = $1 and kind in ('paused', 'resumed') "
            "order by epoch, ms, seq",
            campaign_id,
        )
    finally:
        await connection.close()
    return [(row["kind"], row["at"], json.loads(row["body"]).get("change_id")) for row in rows]


async def test_changes_are_carried_out_once_at_their_times_and_in_their_order(client: Client, service: Service) -> None:
    code = await create(client)
    first, second, third = after(1.5), after(2.5), after(3.5)
    response = await client.schedule_campaign(
        code,
        planned_changes=[
            at(third, RESUME),
            at(first, PAUSE),
            # At the same time they follow each other as they were given.
            at(second, update(["limits.total"], limits=Limits(total=7))),
            at(second, update(["limits.total", "display_name"], limits=Limits(total=9), display_name="Later")),
        ],
    )
    assert states_of(list(response.planned_changes)) == ["PLANNED"] * 4
    assert [one.plan.time.ToDatetime(UTC) for one in response.planned_changes] == [third, first, second, second]
    assert await outcome(client, code) == "redeemed"
    await until(become(client, code, *["APPLIED"] * 4))
    campaign = await client.get_campaign(code)
    assert (state_of(campaign), campaign.version) == ("ACTIVE", 4)
    assert (campaign.definition.limits.total, campaign.definition.display_name) == (9, "Later")
    assert await outcome(client, code) == "redeemed"
    (pause, paused_at, by_pause), (resume, resumed_at, by_resume) = await events_of(service, code)
    assert (pause, by_pause) == ("paused", response.planned_changes[1].id)
    assert (resume, by_resume) == ("resumed", response.planned_changes[0].id)
    for happened, planned in ((paused_at, first), (resumed_at, third)):
        # Never before; and within a second, which a machine that is busy may not manage.
        assert timedelta(0) <= happened - planned < timedelta(seconds=2)
    for change in await listed(client, code):
        assert timedelta(0) <= change.end_time.ToDatetime(UTC) - change.plan.time.ToDatetime(UTC) < timedelta(seconds=2)


async def test_a_draft_goes_live_by_its_schedule(client: Client) -> None:
    draft = await campaign_in(client, "DRAFT", "ENDED")
    response = await client.schedule_campaign(draft, start_time=after(-60), end_time=after(1.5))
    assert state_of(response.campaign) == "ACTIVE"
    assert await outcome(client, draft) == "redeemed"

    async def is_over() -> bool:
        return await outcome(client, draft) == "CAMPAIGN_ENDED"

    await until(is_over)
    again = await client.schedule_campaign(draft, start_time=after(3_600))
    assert state_of(again.campaign) == "SCHEDULED"
    assert not again.campaign.definition.HasField("end_time")


async def test_a_schedule_takes_the_place_of_the_one_before(client: Client) -> None:
    code = await create(client)
    etag = (await client.get_campaign(code)).etag
    first = await client.schedule_campaign(code, planned_changes=[at(after(600), PAUSE), at(after(700), RESUME)])
    with pytest.raises(Changed):
        await client.schedule_campaign(code, etag=etag)
    assert states_of(await listed(client, code)) == ["PLANNED"] * 2
    await client.schedule_campaign(code, planned_changes=[at(after(800), PAUSE)], etag=first.campaign.etag)
    found = await listed(client, code)
    assert states_of(found) == ["CANCELLED", "CANCELLED", "PLANNED"]
    assert {one.note for one in found[:2]} == {"replaced by another schedule"}


async def test_what_would_not_be_accepted_now_is_refused_now_and_nothing_is_planned(client: Client) -> None:
    code = await create(client)
    late = after(600)
    wrong: dict[str, list[ChangePlan]] = {
        "planned_changes[1].time": [at(late, PAUSE), at(after(-1), PAUSE)],
        "planned_changes[0].change": [at(late, ChangePlan())],
        "planned_changes[0].time": [PAUSE],
        "planned_changes[0].update.update_mask": [at(late, update(["limits.sum"]))],
        "planned_changes[0].update.definition.limits.total": [
            at(late, update(["limits.total"], limits=Limits(total=-1)))
        ],
        # What stands then is what counts: the first of them makes the second wrong.
        "planned_changes[0].update.definition.currency_code": [
            at(after(700), update(["currency_code"])),
            at(
                late,
                update(["currency_code", "limits.budget_minor"], currency_code="EUR", limits=Limits(budget_minor=9)),
            ),
        ],
        "planned_changes[0].update.definition.effects": [at(late, update([], display_name="No effects"))],
        "planned_changes": [at(late, PAUSE)] * 51,
    }
    for field, plans in wrong.items():
        with pytest.raises(InvalidArgument) as caught:
            await client.schedule_campaign(code, planned_changes=plans)
        assert list(caught.value.violations) == [field]
    with pytest.raises(InvalidArgument) as caught:
        await client.schedule_campaign(code, start_time=late, end_time=after(60))
    assert list(caught.value.violations) == ["end_time"]
    with pytest.raises(NotFound):
        await client.schedule_campaign("no-such-campaign")
    assert await listed(client, code) == []
    assert (await client.get_campaign(code)).version == 1


async def test_what_is_cancelled_is_never_carried_out(client: Client, service: Service) -> None:
    code = await create(client)
    response = await client.schedule_campaign(code, planned_changes=[at(after(1), PAUSE), at(after(1.5), RESUME)])
    pause, resume = response.planned_changes
    cancelled = await client.cancel_planned_change(pause.id, "not this year")
    assert (states_of([cancelled]), cancelled.note) == (["CANCELLED"], "not this year")
    assert await client.cancel_planned_change(pause.id, "again") == cancelled
    await until(become(client, code, "CANCELLED", "APPLIED"))
    with pytest.raises(NotAllowed, match="has been carried out"):
        await client.cancel_planned_change(resume.id)
    with pytest.raises(NotFound):
        await client.cancel_planned_change(10**15)
    assert [kind for kind, _, _ in await events_of(service, code)] == ["resumed"]


async def test_whoever_cancels_at_the_last_moment_has_either_cancelled_it_or_not(
    client: Client, service: Service
) -> None:
    campaigns = [await create(client) for _ in range(24)]
    due = after(2)
    plans = [PAUSE, update(["display_name"], display_name="Changed")]
    ids = [
        (await client.schedule_campaign(code, planned_changes=[at(due, plan)])).planned_changes[0].id
        for code, plan in zip(campaigns, plans * 12, strict=True)
    ]

    async def cancel(number: int) -> bool:
        # Around the moment at which they are due, spread over a third of a second.
        await asyncio.sleep((due - datetime.now(UTC)).total_seconds() + (number - 8) * 0.015)
        try:
            await client.cancel_planned_change(ids[number])
        except NotAllowed:
            return False
        return True

    cancelled = await asyncio.gather(*map(cancel, range(len(campaigns))))
    for number, code in enumerate(campaigns):
        await until(become(client, code, "CANCELLED" if cancelled[number] else "APPLIED"))
        campaign = await client.get_campaign(code)
        is_paused, is_changed = state_of(campaign) == "PAUSED", campaign.definition.display_name == "Changed"
        assert (is_paused or is_changed) is not cancelled[number]
        assert len(await events_of(service, code)) == (not cancelled[number] and number % 2 == 0)


async def test_a_change_that_cannot_be_carried_out_any_more_fails_and_the_rest_goes_on(client: Client) -> None:
    code = await create(client)
    end = after(3_600)
    await client.schedule_campaign(
        code,
        end_time=end,
        planned_changes=[
            at(after(1.5), update(["start_time"], start_time=end - timedelta(hours=2))),
            at(after(1.6), PAUSE),
        ],
    )
    # Behind which the planned start would come.
    change = CampaignDefinition()
    change.end_time.FromDatetime(end - timedelta(hours=3))
    await client.update_campaign(code, change, update_mask=["end_time"])
    await until(become(client, code, "FAILED", "APPLIED"))
    failed, _ = await listed(client, code)
    assert "end_time: must be after start_time" in failed.note


async def test_what_is_planned_goes_with_a_campaign_that_is_archived(client: Client, service: Service) -> None:
    code = await create(client)
    await client.schedule_campaign(code, planned_changes=[at(after(600), PAUSE), at(after(700), update(["labels"]))])
    await client.pause_campaign(code)
    await client.archive_campaign(code)
    await settle(service.settings)
    found = await listed(client, code)
    assert states_of(found) == ["CANCELLED", "CANCELLED"]
    assert {one.note for one in found} == {"the campaign was archived"}


async def test_a_listing_is_of_a_time_and_page_by_page(client: Client) -> None:
    codes = [await create(client), await create(client)]
    start = after(90_000)
    for code in codes:
        plans = [at(start + timedelta(hours=hours), PAUSE) for hours in range(5)]
        await client.schedule_campaign(code, planned_changes=plans)
    span = (start + timedelta(hours=1), start + timedelta(hours=3))
    found = [
        one
        async for one in client.list_planned_changes(from_time=span[0], to_time=span[1], page_size=3)
        if one.campaign_id in codes
    ]
    assert [(one.plan.time.ToDatetime(UTC), one.campaign_id) for one in found] == [
        (start + timedelta(hours=hours), code) for hours in (1, 2) for code in codes
    ]


# -- pauses that end by themselves -------------------------------------------------------------------------------------


async def test_a_pause_ends_by_itself(client: Client, service: Service) -> None:
    code = await create(client)
    end = after(2)
    paused = await client.pause_campaign(code, "lunch", resume_time=end)
    assert (state_of(paused), paused.resume_time.ToDatetime(UTC)) == ("PAUSED", end)
    assert await outcome(client, code) == "CAMPAIGN_PAUSED"
    await until(become(client, code, "APPLIED"))
    campaign = await client.get_campaign(code)
    assert (state_of(campaign), campaign.HasField("resume_time")) == ("ACTIVE", False)
    (_, (kind, resumed_at, change_id)) = await events_of(service, code)
    (planned,) = await listed(client, code)
    assert (kind, change_id, planned.of_pause) == ("resumed", planned.id, True)
    assert timedelta(0) <= resumed_at - end < timedelta(seconds=2)
    with pytest.raises(InvalidArgument) as caught:
        await client.pause_campaign(code, resume_time=after(-1))
    assert list(caught.value.violations) == ["resume_time"]


async def test_whoever_resumes_or_pauses_again_before_decides_how_it_ends(client: Client, service: Service) -> None:
    code = await create(client)
    await client.pause_campaign(code, resume_time=after(600))
    await client.resume_campaign(code)
    await client.pause_campaign(code, resume_time=after(700))
    # The same again changes nothing.
    again = after(800)
    for _ in range(2):
        await client.pause_campaign(code, "longer", resume_time=again)
    await settle(service.settings)
    found = await listed(client, code)
    assert states_of(found) == ["CANCELLED", "CANCELLED", "PLANNED"]
    assert [one.note for one in found] == ["resumed before", "paused again", ""]
    with pytest.raises(NotAllowed, match="end of a pause"):
        await client.cancel_planned_change(found[-1].id)
    # A schedule leaves the end of a pause alone, and a pause without end takes its place.
    await client.schedule_campaign(code)
    assert (await client.get_campaign(code)).resume_time.ToDatetime(UTC) == again
    endless = await client.pause_campaign(code, "for good")
    assert (endless.pause_reason, endless.HasField("resume_time")) == ("for good", False)
    await settle(service.settings)
    assert states_of(await listed(client, code)) == ["CANCELLED"] * 3
    assert [kind for kind, _, _ in await events_of(service, code)] == ["paused", "resumed", *["paused"] * 3]


async def test_a_pause_ends_by_itself_though_postgres_was_away(own_service: Service) -> None:
    async with own_service.client(timeout_s=30) as client:
        codes = [await create(client) for _ in range(3)]
        await settle(own_service.settings)
        own_service.stop_postgres()
        soon, later = after(1), after(600)
        await client.pause_campaign(codes[0], resume_time=soon)
        await client.pause_campaign(codes[1], resume_time=later)
        # Over before PostgreSQL has even heard of it.
        await client.pause_campaign(codes[2], resume_time=soon)
        await client.resume_campaign(codes[2])
        assert (await client.get_campaign(codes[1])).resume_time.ToDatetime(UTC) == later
        await asyncio.sleep(1)
        own_service.start_postgres()
        await settle(own_service.settings)
        for code, state in zip(codes, ("APPLIED", "PLANNED", "CANCELLED"), strict=True):
            await until(become(client, code, state))
        found = [state_of(await client.get_campaign(code)) for code in codes]
        assert found == ["ACTIVE", "PAUSED", "ACTIVE"]
        # What Valkey loses it is given back.
        await own_service.flush_valkey()
        await settle(own_service.settings)
        assert (await client.get_campaign(codes[1])).resume_time.ToDatetime(UTC) == later
        assert len(await events_of(own_service, codes[0])) == 2
