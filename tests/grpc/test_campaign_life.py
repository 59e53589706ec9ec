"""The life of campaigns through real gRPC: every step from every state, as docs/campaign-life.md has it."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.grpc.test_combined import reason
from tests.grpc.test_kill_switch import a_label, outcome
from tests.service import Service, an_order, rows_once_settled, settle, until
from vouchsafe.client import (
    AlreadyExists,
    Campaign,
    CampaignDefinition,
    CampaignState,
    Client,
    CodeFilter,
    Customer,
    NotAllowed,
    NotFound,
    Redemption,
    Refusal,
    Rollback,
)

DOCS = Path(__file__).parents[2] / "docs/campaign-life.md"
SHOPPER = Customer(id="c-1")
# How far from now a campaign's times are, in seconds.
TIMES: dict[str, tuple[int | None, int | None]] = {
    "SCHEDULED": (3_600, None),
    "ACTIVE": (None, 3_600),
    "ENDED": (-7_200, -3_600),
}


async def unchanged(client: Client, id_: str) -> Campaign:
    return await client.update_campaign(id_, (await client.get_campaign(id_)).definition)


async def reschedule(client: Client, id_: str) -> Campaign:
    """With the times that it has."""
    definition = (await client.get_campaign(id_)).definition
    start, end = (
        getattr(definition, name).ToDatetime() if definition.HasField(name) else None
        for name in ("start_time", "end_time")
    )
    return (await client.schedule_campaign(id_, start_time=start, end_time=end)).campaign


STEPS: dict[str, Callable[[Client, str], Awaitable[Campaign]]] = {
    "PauseCampaign": lambda client, id_: client.pause_campaign(id_, "because"),
    "ResumeCampaign": lambda client, id_: client.resume_campaign(id_),
    "UpdateCampaign": unchanged,
    "ScheduleCampaign": reschedule,
    "ArchiveCampaign": lambda client, id_: client.archive_campaign(id_, "over"),
}


def documented() -> dict[tuple[str, str], str]:
    """What each step makes of each state by the table in the docs; '' where it is refused."""
    (table,) = re.findall(r"^\| from .*?\n\n", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    heading, _, *rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in table.strip().splitlines()]
    return {(row[0], step): to for row in rows for step, to in zip(heading[1:], row[1:], strict=True)}


def state_of(campaign: Campaign) -> str:
    return CampaignState.Name(campaign.state).removeprefix("CAMPAIGN_STATE_")


async def campaign_in(client: Client, state: str, by_times: str, *labels: str) -> str:
    """A campaign in a state, which would be in another by its times; its id is its only code."""
    id_ = f"c-{uuid.uuid4()}"
    definition = CampaignDefinition(display_name=id_, labels=labels)
    definition.effects.add().percent_off.basis_points = 1_000
    for field, off_s in zip(("start_time", "end_time"), TIMES[by_times], strict=True):
        if off_s is not None:
            getattr(definition, field).FromSeconds(int(time.time()) + off_s)
    await client.create_campaign(id_, definition, shared_codes=[id_], draft=state == "DRAFT")
    if state in ("PAUSED", "ARCHIVED"):
        await client.pause_campaign(id_)
    if state == "ARCHIVED":
        await client.archive_campaign(id_)
    assert state_of(await client.get_campaign(id_)) == state
    return id_


ALL = [(state, times) for state in ("DRAFT", "PAUSED", "ARCHIVED") for times in TIMES]
ALL += [(times, times) for times in TIMES]


@pytest.mark.parametrize(("state", "times"), ALL)
async def test_every_step_from_every_state_leads_where_the_docs_say(client: Client, state: str, times: str) -> None:
    table = documented()
    assert {step for _, step in table} == set(STEPS)
    for step, take in STEPS.items():
        id_ = await campaign_in(client, state, times)
        expected = table[state, step]
        if expected:
            campaign = await take(client, id_)
            assert state_of(campaign) == (times if expected == "by its times" else expected), step
            assert campaign.pause_reason == ("because" if step == "PauseCampaign" and state != "PAUSED" else "")
            # Again it is the same.
            assert state_of(await client.get_campaign(id_)) == state_of(campaign)
        else:
            with pytest.raises(NotAllowed, match=id_):
                await take(client, id_)
            assert state_of(await client.get_campaign(id_)) == state


async def test_what_is_no_campaign_cannot_be_archived(client: Client) -> None:
    with pytest.raises(NotFound):
        await client.archive_campaign("no-such-campaign")


async def test_a_clone_is_a_draft_without_times_codes_or_uses(client: Client) -> None:
    label = a_label()
    id_ = await campaign_in(client, "ACTIVE", "ACTIVE", label)
    await client.redeem(id_, SHOPPER, an_order(id_))
    await client.pause_campaign(id_)
    await client.archive_campaign(id_)
    clone = await client.clone_campaign(id_, f"{id_}-2")
    definition = (await client.get_campaign(id_)).definition
    assert definition.HasField("end_time")
    definition.ClearField("end_time")
    assert (clone.id, clone.definition) == (f"{id_}-2", definition)
    assert (state_of(clone), clone.version, clone.redeemed_count) == ("DRAFT", 1, 0)
    assert [code async for code in client.list_codes(CodeFilter(campaign_id=clone.id))] == []
    named = await client.clone_campaign(id_, f"{id_}-3", display_name="Again")
    assert named.definition.display_name == "Again"
    with pytest.raises(AlreadyExists):
        await client.clone_campaign(id_, clone.id)
    with pytest.raises(NotFound):
        await client.clone_campaign("no-such-campaign", f"{id_}-4")


async def test_a_refusal_says_what_to_do_first(client: Client) -> None:
    active, draft = await campaign_in(client, "ACTIVE", "ACTIVE"), await campaign_in(client, "DRAFT", "ACTIVE")
    with pytest.raises(NotAllowed, match="pause it first"):
        await client.archive_campaign(active)
    with pytest.raises(NotAllowed, match="ScheduleCampaign"):
        await client.resume_campaign(draft)


async def test_codes_are_refused_as_before_the_start_and_after_the_end(client: Client) -> None:
    draft = await campaign_in(client, "DRAFT", "ACTIVE")
    assert await outcome(client, draft) == "CAMPAIGN_NOT_STARTED"
    validated = await client.validate(draft, SHOPPER, an_order("x"))
    assert isinstance(validated, Refusal)
    assert reason(validated) == "CAMPAIGN_NOT_STARTED"
    archived = await campaign_in(client, "ARCHIVED", "ACTIVE")
    assert await outcome(client, archived) == "CAMPAIGN_ENDED"
    response = await client.redeem_codes([draft, archived], SHOPPER, an_order(f"{draft}-both"))
    assert reason(response.refusal) == "CAMPAIGN_NOT_STARTED"


async def test_what_an_archived_campaign_has_given_comes_back_and_what_is_held_does_not_go(client: Client) -> None:
    id_ = await campaign_in(client, "ACTIVE", "ACTIVE")
    redeemed = await client.redeem(id_, SHOPPER, an_order(f"{id_}-1"))
    held = (await client.reserve([id_], SHOPPER, an_order(f"{id_}-2"), ttl_s=600)).reservation
    assert isinstance(redeemed, Redemption)
    await client.pause_campaign(id_)
    await client.archive_campaign(id_)
    confirmed = await client.confirm(held.id)
    assert isinstance(confirmed, Refusal)
    assert reason(confirmed) == "CAMPAIGN_ENDED"
    stats = await client.get_campaign_stats(id_)
    assert (stats.gate.redeemed_count, stats.gate.held_count) == (1, 1)
    assert isinstance(await client.roll_back(redeemed.id), Rollback)
    assert (await client.get_campaign_stats(id_)).gate.redeemed_count == 0


async def test_a_listing_shows_what_is_asked_for(client: Client, service: Service) -> None:
    label = a_label()
    made = {state: await campaign_in(client, state, times, label) for state, times in ALL}
    await campaign_in(client, "ACTIVE", "ACTIVE")
    # The listing goes by PostgreSQL, which hears of steps a moment later.
    await settle(service.settings)

    async def listed(state: str = "UNSPECIFIED", *, archived: bool = False) -> set[str]:
        wanted = CampaignState.Value(f"CAMPAIGN_STATE_{state}")
        found = client.list_campaigns(label=label, state=wanted, show_archived=archived, page_size=2)
        return {state_of(campaign) async for campaign in found}

    assert await listed() == set(made) - {"ARCHIVED"}
    assert await listed(archived=True) == set(made)
    for state in made:
        assert await listed(state) == {state}


async def test_steps_by_label_leave_out_drafts_and_what_is_archived(client: Client) -> None:
    label = a_label()
    made = {state: await campaign_in(client, state, "ACTIVE", label) for state in ("DRAFT", "ACTIVE", "ARCHIVED")}
    assert [one.id for one in await client.pause_campaigns(label)] == [made["ACTIVE"]]
    assert [one.id for one in await client.resume_campaigns(label)] == [made["ACTIVE"]]
    for state, id_ in made.items():
        assert state_of(await client.get_campaign(id_)) == state


async def test_every_state_outlives_what_valkey_loses(own_service: Service) -> None:
    async with own_service.client(timeout_s=30) as client:
        made = [(state, await campaign_in(client, state, times)) for state, times in ALL]
        await settle(own_service.settings)
        await own_service.flush_valkey()

        async def all_are_as_before() -> bool:
            found = [state_of(await client.get_campaign(id_)) for _, id_ in made]
            return found == [state for state, _ in made]

        await until(all_are_as_before)


async def test_a_campaign_is_archived_while_postgres_is_away(own_service: Service) -> None:
    async with own_service.client(timeout_s=30) as client:
        id_ = await campaign_in(client, "PAUSED", "ACTIVE")
        await settle(own_service.settings)
        own_service.stop_postgres()
        assert state_of(await client.archive_campaign(id_, "over")) == "ARCHIVED"
        assert await outcome(client, id_) == "CAMPAIGN_ENDED"
        own_service.start_postgres()
        await settle(own_service.settings)
        listed = [one.id async for one in client.list_campaigns(state=CampaignState.CAMPAIGN_STATE_ARCHIVED)]
        assert listed == [id_]


async def test_nothing_is_redeemed_behind_the_end(client: Client, service: Service) -> None:
    """Archived the moment it is over, in the middle of a crowd, part of which redeems two codes at once."""
    id_, other = await campaign_in(client, "ACTIVE", "ACTIVE"), await campaign_in(client, "ACTIVE", "ACTIVE")
    counted = 0

    async def shop(number: int) -> None:
        nonlocal counted
        for turn in range(10):
            found = await client.redeem(id_, SHOPPER, an_order(f"{id_}-{number}-{turn}"))
            counted += isinstance(found, Redemption)

    async def end() -> None:
        await asyncio.sleep(0.05)
        await client.pause_campaign(id_)
        await client.archive_campaign(id_)

    await asyncio.gather(end(), *(shop(number) for number in range(20)))
    assert await outcome(client, other) == "redeemed"
    assert len(await rows_once_settled(service, id_)) == counted
    assert await service.taken_while_paused(id_) == 0
