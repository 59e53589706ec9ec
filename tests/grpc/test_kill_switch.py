"""The kill switch, and pausing by label, through real gRPC: what it stops, and what it leaves alone."""

from __future__ import annotations

import uuid

import pytest

from tests.grpc.test_combined import create, reason
from tests.service import Service, an_order, settle, until
from vouchsafe.client import (
    CampaignState,
    Client,
    Customer,
    KillSwitchScope,
    KillSwitchState,
    NotFound,
    Redemption,
    Refusal,
    Rollback,
)

SHOPPER = Customer(id="c-1")
STOPPED = "KILL_SWITCH_ENGAGED"
ENGAGED, RELEASED = KillSwitchState.KILL_SWITCH_STATE_ENGAGED, KillSwitchState.KILL_SWITCH_STATE_RELEASED


async def outcome(client: Client, code: str) -> str:
    """ "redeemed", or why it was not."""
    found = await client.redeem(code, SHOPPER, an_order(f"{code}-{uuid.uuid4()}"))
    return "redeemed" if isinstance(found, Redemption) else reason(found)


def a_label() -> str:
    return f"l-{uuid.uuid4()}"


async def test_a_code_is_stopped_and_no_other(client: Client) -> None:
    stopped, other = await create(client), await create(client)
    scope = KillSwitchScope(code=stopped.lower())
    switch = await client.engage_kill_switch(scope, "it leaked")
    assert (switch.scope.code, switch.state, switch.reason) == (stopped.upper(), ENGAGED, "it leaked")
    assert switch.HasField("engage_time")
    assert await outcome(client, stopped) == STOPPED
    assert await outcome(client, other) == "redeemed"
    validated = await client.validate(stopped, SHOPPER, an_order("x"))
    assert isinstance(validated, Refusal)
    assert reason(validated) == STOPPED
    # Again changes nothing, not even the time.
    assert (await client.engage_kill_switch(scope, "twice")) == switch
    released = await client.release_kill_switch(scope)
    assert released.state == RELEASED
    assert await client.release_kill_switch(scope) == released
    assert await outcome(client, stopped) == "redeemed"


async def test_a_label_stops_its_campaigns_also_those_to_come(client: Client) -> None:
    label = a_label()
    before, other = await create(client, labels=[label, "and-another"]), await create(client, labels=["and-another"])
    scope = KillSwitchScope(label=label)
    await client.engage_kill_switch(scope, "")
    try:
        after = await create(client, labels=[label])
        assert [await outcome(client, code) for code in (before, other, after)] == [STOPPED, "redeemed", STOPPED]
        # Two codes together are as good as their worse one.
        response = await client.redeem_codes([other, before], SHOPPER, an_order(f"{before}-both"))
        assert reason(response.refusal) == STOPPED
        # A campaign that loses the label is stopped no more.
        campaign = await client.get_campaign(before)
        campaign.definition.ClearField("labels")
        await client.update_campaign(before, campaign.definition)
        assert await outcome(client, before) == "redeemed"
    finally:
        await client.release_kill_switch(scope)
    assert await outcome(client, after) == "redeemed"


async def test_everything_is_stopped_and_what_is_held_waits(own_service: Service) -> None:
    async with own_service.client(timeout_s=30) as client:
        codes = [await create(client) for _ in range(4)]
        held = (await client.reserve(codes[:1], SHOPPER, an_order(f"{codes[0]}-held"), ttl_s=600)).reservation
        redeemed = await client.redeem(codes[1], SHOPPER, an_order(f"{codes[1]}-before"))
        assert isinstance(redeemed, Redemption)
        assert (await client.get_kill_switch()).state == RELEASED
        await client.engage_kill_switch(KillSwitchScope(everything=True), "stop")
        found = await client.get_kill_switch()
        assert found.state == ENGAGED
        assert [one.reason for one in found.kill_switches] == ["stop"]
        assert (found.unreachable_partitions, found.partitions) == (0, own_service.settings.partitions)
        assert [await outcome(client, code) for code in codes] == [STOPPED] * 4
        reserved = await client.reserve(codes[:1], SHOPPER, an_order(f"{codes[0]}-x"), ttl_s=600)
        assert reason(reserved.refusal) == STOPPED
        confirmed = await client.confirm(held.id)
        assert isinstance(confirmed, Refusal)
        assert reason(confirmed) == STOPPED
        # What takes nothing goes on: giving back, and the pause of a campaign.
        assert isinstance(await client.roll_back(redeemed.id), Rollback)
        await client.pause_campaign(codes[3])
        await client.release_kill_switch(KillSwitchScope(everything=True))
        assert isinstance(await client.confirm(held.id), Redemption)
        assert [await outcome(client, code) for code in codes[:3]] == ["redeemed"] * 3
        assert await outcome(client, codes[3]) == "CAMPAIGN_PAUSED"


async def test_it_stays_engaged_whatever_valkey_loses(own_service: Service) -> None:
    async with own_service.client(timeout_s=30) as client:
        code, other = await create(client, labels=["sale"]), await create(client)
        await client.engage_kill_switch(KillSwitchScope(label="sale"), "stop")
        for harm in ("restart", "flush"):
            if harm == "restart":
                own_service.kill("valkey")
            else:
                await settle(own_service.settings)
                await own_service.flush_valkey()
            assert await outcome(client, code) == STOPPED
            assert await outcome(client, other) == "redeemed"

            async def is_engaged() -> bool:
                """By whichever worker: one may still have to see that the partitions are open again."""
                found = (await client.get_kill_switch()).kill_switches
                return [(one.reason, one.state) for one in found] == [("stop", ENGAGED)]

            await until(is_engaged)
        await client.release_kill_switch(KillSwitchScope(label="sale"))
        own_service.kill("valkey")
        assert await outcome(client, code) == "redeemed"


async def test_campaigns_are_paused_and_resumed_by_label(client: Client) -> None:
    label = a_label()
    codes = sorted([await create(client, labels=["x", label]) for _ in range(5)])
    other = await create(client, labels=[f"{label}x"])
    paused = await client.pause_campaigns(label, "enough")
    assert [one.id for one in paused] == codes
    assert {(one.state, one.pause_reason) for one in paused} == {(CampaignState.CAMPAIGN_STATE_PAUSED, "enough")}
    assert [await outcome(client, code) for code in codes] == ["CAMPAIGN_PAUSED"] * 5
    assert await outcome(client, other) == "redeemed"
    assert {one.state for one in await client.resume_campaigns(label)} == {CampaignState.CAMPAIGN_STATE_ACTIVE}
    assert [await outcome(client, code) for code in codes] == ["redeemed"] * 5
    with pytest.raises(NotFound, match="no campaign has the label"):
        await client.pause_campaigns(a_label())
