"""Planned changes are carried out exactly once, whoever is killed while they are due, and however many mean to lead."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import psutil
import pytest

from tests.grpc.test_campaign_life import state_of
from tests.grpc.test_combined import create
from tests.grpc.test_planned_changes import PAUSE, RESUME, after, at, become, events_of, listed, states_of, update
from tests.service import Service, settle, until
from vouchsafe.client import AuditEventFilter, ChangePlan, Client
from vouchsafe.edge.masks import merged
from vouchsafe.gate.gate import Gate
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.service.planner import _Planner
from vouchsafe.service.recover import Recovery

CAMPAIGNS = 4
ROUNDS = 4
# One persister lives, finds the lock free within POLL_S, and a change of a campaign waits until whoever takes over the
# partition has moved the event of the one before. All of that takes a second; the rest is for a machine where three new
# processes start at the same time.
TAKEN_OVER = timedelta(seconds=6)


def plans(first: datetime) -> list[ChangePlan]:
    """A pause, a change and the end of the pause, a third of a second apart."""
    changed = update(["display_name"], display_name=f"changed at {first}")
    return [at(first + timedelta(seconds=number / 3), one) for number, one in enumerate((PAUSE, changed, RESUME))]


async def check_once(service: Service, client: Client, campaign_id: str, rounds: int, late: timedelta) -> None:
    """Every pause and resume has one event, in order, every change its version; none was early, and none too late."""
    changes = await listed(client, campaign_id)
    assert states_of(changes) == ["APPLIED"] * 3 * rounds
    by_step = [one for one in changes if one.plan.WhichOneof("change") != "update"]
    events = await events_of(service, campaign_id)
    assert [(kind, id_) for kind, _, id_ in events] == [
        ("paused" if one.plan.WhichOneof("change") == "pause" else "resumed", one.id) for one in by_step
    ]
    wanted = AuditEventFilter(target=f"campaign:{campaign_id}", principal="vouchsafe:planner")
    noted = [one.action async for one in client.list_audit_events(wanted)]
    assert Counter(noted) == dict.fromkeys(("campaign.pause", "campaign.update", "campaign.resume"), rounds)
    campaign = await client.get_campaign(campaign_id)
    # Each schedule is a version of its own.
    assert (state_of(campaign), campaign.version) == ("ACTIVE", 1 + 2 * rounds)
    happened = {one.id: one.end_time.ToDatetime(UTC) for one in changes} | {id_: time for _, time, id_ in events}
    for one in changes:
        assert timedelta(0) <= happened[one.id] - one.plan.time.ToDatetime(UTC) < late, one


@pytest.mark.timeout(300)  # it starts eleven processes, and waits for each
async def test_changes_are_carried_out_once_though_two_of_three_persisters_are_killed(own_service: Service) -> None:
    running = [own_service.first("persist"), *(own_service.start_another("persist") for _ in range(2))]
    async with own_service.client(timeout_s=30) as client:
        codes = [await create(client) for _ in range(CAMPAIGNS)]
        for number in range(ROUNDS):
            # Who has only just been started is nobody yet who could take over.
            await until(functools.partial(all_run, own_service, running), 60)
            first = after(1.5)
            for code in codes:
                await client.schedule_campaign(code, planned_changes=plans(first))
            victims = random.sample(running, 2)
            for victim in victims:
                moment = first + timedelta(seconds=random.uniform(-0.2, 1.0))
                await asyncio.sleep(max(0.0, (moment - datetime.now(UTC)).total_seconds()))
                kill(victim)
            running = [one for one in running if one not in victims]
            for code in codes:
                await until(become(client, code, *["APPLIED"] * 3 * (number + 1)), 30)
            running += [own_service.start_another("persist") for _ in victims]
        await settle(own_service.settings)
        for code in codes:
            await check_once(own_service, client, code, ROUNDS, TAKEN_OVER)


async def all_run(service: Service, supervisors: list[psutil.Process]) -> bool:
    """Whether the persister of each has said that it is ready."""
    lines = [json.loads(line) for line in service.said("persist").splitlines() if line.startswith("{")]
    children = {line["pid"]: line["child"] for line in lines if line.get("event") == "process started"}
    ready = {line["pid"] for line in lines if line.get("event") == "ready"}
    return all(children.get(one.pid) in ready for one in supervisors)


def kill(victim: psutil.Process) -> None:
    """With all that it has started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in (victim, *victim.children(recursive=True)):
            process.kill()


async def test_changes_are_carried_out_once_though_several_believe_to_lead(service: Service, client: Client) -> None:
    """As when a session has lost the lock and its process does not know yet."""
    codes = [await create(client) for _ in range(CAMPAIGNS)]
    async with contextlib.AsyncExitStack() as stack:
        planners = [await stack.enter_async_context(a_planner(service)) for _ in range(3)]
        first = after(1)
        for code in codes:
            await client.schedule_campaign(code, planned_changes=plans(first))

        async def lead(planner: _Planner) -> None:
            while datetime.now(UTC) < first + timedelta(seconds=3):
                await planner._carry_on_all()

        await asyncio.gather(*map(lead, planners))
    for code in codes:
        await until(become(client, code, *["APPLIED"] * 3))
    await settle(service.settings)
    for code in codes:
        await check_once(service, client, code, 1, TAKEN_OVER)


async def test_a_leader_that_dies_between_the_stores_is_finished_by_the_next(own_service: Service) -> None:
    """The gate has taken the turn and the ledger does not know: whoever resumes by hand meanwhile is not overruled."""
    async with own_service.client(timeout_s=30) as client, a_planner(own_service) as planner:
        code, due = await create(client), after(4)
        await client.schedule_campaign(code, planned_changes=[at(due, PAUSE), at(due, update(["labels"]))])
        await settle(own_service.settings)
        with own_service.frozen("persist"):
            await begin(planner, client, code, due)
            await client.resume_campaign(code)
            # The next leader asks again, and the gate has done it.
            assert await planner._carry_on_all()
            assert state_of(await client.get_campaign(code)) == "ACTIVE"
            assert states_of(await listed(client, code)) == ["APPLYING", "PLANNED"]
        await until(become(client, code, "APPLIED", "APPLIED"))
        await settle(own_service.settings)
        assert [kind for kind, _, _ in await events_of(own_service, code)] == ["paused", "resumed"]
        assert state_of(await client.get_campaign(code)) == "ACTIVE"


async def test_a_pause_that_follows_is_not_ended_by_the_one_before(own_service: Service) -> None:
    """The ledger has not heard yet that somebody has paused again, for longer."""
    async with own_service.client(timeout_s=30) as client, a_planner(own_service) as planner:
        code, other, due = await create(client), await create(client), after(5)
        for one in (code, other):
            await client.pause_campaign(one, resume_time=due)
        await settle(own_service.settings)
        with own_service.frozen("persist"):
            await client.resume_campaign(code)
            await client.pause_campaign(code, "for good")
            await asyncio.sleep((due - datetime.now(UTC)).total_seconds() + 0.1)
            assert await planner._carry_on_all()
            assert [state_of(await client.get_campaign(one)) for one in (code, other)] == ["PAUSED", "ACTIVE"]
        await until(become(client, other, "APPLIED"))
        await until(become(client, code, "CANCELLED"))
        await settle(own_service.settings)
        assert [kind for kind, _, _ in await events_of(own_service, code)] == ["paused", "resumed", "paused"]
        assert state_of(await client.get_campaign(code)) == "PAUSED"


async def test_what_waits_for_a_closed_partition_can_be_cancelled_and_holds_up_no_other(own_service: Service) -> None:
    async with own_service.client(timeout_s=30) as client, a_planner(own_service) as planner:
        code, other, due = await create(client), await create(client), after(4)
        partition = planner._gate.partition_of(code)
        while planner._gate.partition_of(other) == partition:
            other = await create(client)
        for one in (code, other):
            await client.schedule_campaign(one, planned_changes=[at(due, PAUSE)])
        await settle(own_service.settings)
        with own_service.frozen("persist"):
            planner._gate.close_partition(partition)
            await begin(planner, client, other, due)
            (waiting,) = await listed(client, code)
            assert states_of([waiting]) == ["PLANNED"]
            assert states_of([await client.cancel_planned_change(waiting.id)]) == ["CANCELLED"]
        await until(become(client, other, "APPLIED"))
        assert state_of(await client.get_campaign(code)) == "ACTIVE"


async def test_a_turn_that_valkey_has_lost_is_taken_again_and_one_that_it_keeps_is_not(own_service: Service) -> None:
    async with own_service.client(timeout_s=30) as client, a_planner(own_service) as planner:
        code, due = await create(client), after(4)
        await client.schedule_campaign(code, planned_changes=[at(due, PAUSE)])
        await settle(own_service.settings)
        with own_service.frozen("persist"):
            await begin(planner, client, code, due)
            await own_service.flush_valkey()
        await until(become(client, code, "APPLIED"))
        await settle(own_service.settings)
        # Now the ledger has it, and what is rebuilt knows the turn: the next ones are above it.
        await own_service.flush_valkey()
        await settle(own_service.settings)
        assert state_of(await client.get_campaign(code)) == "PAUSED"
        await client.schedule_campaign(code, planned_changes=[at(after(1), RESUME), at(after(1.1), PAUSE)])
        await until(become(client, code, *["APPLIED"] * 3))
        await settle(own_service.settings)
        # The second plan has taken over the pause of the first, to end it.
        kinds = [kind for kind, _, _ in await events_of(own_service, code)]
        assert kinds == ["paused", "paused", "resumed", "paused"]


@contextlib.asynccontextmanager
async def a_planner(service: Service) -> AsyncIterator[_Planner]:
    """What a persister has that leads, without asking for the lock."""
    ledger = await Ledger.connect(service.settings.postgres_url, pool_size=4, timeout_ms=5_000)
    installation = await ledger.installation()
    assert installation is not None
    gate = await Gate.connect(service.settings, len(installation.partitions))
    try:
        await Recovery(gate, ledger, installation).look()
        yield _Planner(gate, ledger, merged)
    finally:
        await gate.close()
        await ledger.close()


async def begin(planner: _Planner, client: Client, code: str, due: datetime) -> None:
    """The pause that is due is taken by the gate, and the ledger does not hear of it."""
    await asyncio.sleep((due - datetime.now(UTC)).total_seconds() + 0.1)
    assert await planner._carry_on_all()
    assert state_of(await client.get_campaign(code)) == "PAUSED"
    assert states_of(await listed(client, code))[0] == "APPLYING"
