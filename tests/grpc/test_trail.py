"""What operators did, through real gRPC: whatever changes something is noted with who, what, before, after and why."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import pytest

from tests.grpc.test_combined import create
from tests.service import Service, settle
from vouchsafe import app
from vouchsafe.client import (
    AuditEvent,
    AuditEventFilter,
    CampaignDefinition,
    ChangePlan,
    Client,
    CodeFilter,
    InvalidArgument,
    KillSwitchScope,
    PermissionDenied,
    PlannedPause,
)
from vouchsafe.domain.access import Role
from vouchsafe.domain.trail import Action
from vouchsafe.v1.audit_service_pb2 import ListAuditEventsRequest


@pytest.fixture
async def ops(service: Service) -> AsyncIterator[tuple[Client, str]]:
    """A client of an operator that nobody else is, and its principal."""
    name = f"ops-{uuid.uuid4()}"
    key = await app.create_key(service.settings, name, [Role.OPERATOR], None)
    async with Client(service.target, api_key=key, timeout_s=30) as client:
        async with asyncio.timeout(20):
            while True:  # until every worker knows the key
                try:
                    await asyncio.gather(*(client.get_kill_switch() for _ in range(20)))
                    break
                except Exception:  # noqa: BLE001
                    await asyncio.sleep(0.1)
        yield client, f"key:{name}"


async def noted(
    service: Service, client: Client, *, principal: str = "", action: str = "", target: str = ""
) -> list[AuditEvent]:
    """Oldest first, once everything has arrived."""
    await settle(service.settings)
    wanted = AuditEventFilter(principal=principal, action=action, target=target)
    return [event async for event in client.list_audit_events(wanted)][::-1]


def told(event: AuditEvent) -> tuple[str, str, str]:
    return event.action, event.target, event.reason


async def test_everything_that_an_operator_does_is_noted(
    service: Service, client: Client, ops: tuple[Client, str]
) -> None:
    operator, principal = ops
    id_, label = f"c-{uuid.uuid4()}", f"l-{uuid.uuid4()}"
    shared, single = f"{id_}-S".upper(), f"{id_}-1".upper()
    definition = CampaignDefinition(display_name="Sale", labels=[label])
    definition.effects.add().percent_off.basis_points = 1_000
    began_ms = time.time_ns() // 1_000_000

    await operator.create_campaign(id_, definition, shared_codes=[shared], single_use_codes=[single], reason="spring")
    definition.effects[0].percent_off.basis_points = 500
    await operator.update_campaign(id_, definition, reason="too dear")
    await operator.pause_campaign(id_, "stock")
    await operator.pause_campaign(id_, "again changes nothing")
    await operator.resume_campaign(id_, "more stock")
    await operator.pause_campaigns(label, "all of them")
    await operator.resume_campaigns(label)
    scope = KillSwitchScope(code=shared.lower())
    await operator.engage_kill_switch(scope, "it leaked")
    await operator.release_kill_switch(scope, "it did not")
    operation = await operator.generate_codes(id_, 3, reason="a letter")
    [one async for one in operator.follow_operation(operation.id)]
    await operator.import_codes(id_, _pieces(f"code\n{id_}-i\n"), reason="print shop")
    async with aclosing(operator.export_codes(CodeFilter(campaign_id=id_), "for the print shop")) as pieces:
        exported = b"".join([piece async for piece in pieces])
    await operator.assign_code(single, "alice", reason="she asked")
    gift = await operator.gift_code(id_, "bob", reason="sorry")
    await operator.disable_code(single, "lost")
    await operator.enable_code(single, "found")
    later = datetime.now(UTC) + timedelta(hours=1)
    plan = ChangePlan(pause=PlannedPause())
    plan.time.FromDatetime(later)
    planned = await operator.schedule_campaign(id_, end_time=later, planned_changes=[plan], reason="the night")
    await operator.cancel_planned_change(planned.planned_changes[0].id, "no night")
    await operator.pause_campaign(id_, "over")
    await operator.archive_campaign(id_, "for good")

    found = await noted(service, client, principal=principal)
    campaign, code, switch = f"campaign:{id_}", f"code:{single}", f"kill_switch:code:{shared}"
    assert sorted(map(told, found)) == sorted(
        [
            ("campaign.create", campaign, "spring"),
            ("campaign.update", campaign, "too dear"),
            ("campaign.pause", campaign, "stock"),
            ("campaign.resume", campaign, "more stock"),
            ("campaign.pause", campaign, "all of them"),
            ("campaign.resume", campaign, ""),
            ("kill_switch.engage", switch, "it leaked"),
            ("kill_switch.release", switch, "it did not"),
            ("codes.generate", campaign, "a letter"),
            ("codes.import", campaign, "print shop"),
            ("codes.export", campaign, "for the print shop"),
            ("codes.assign", code, "she asked"),
            ("codes.gift", f"code:{gift.code}", "sorry"),
            ("code.disable", code, "lost"),
            ("code.enable", code, "found"),
            ("campaign.schedule", campaign, "the night"),
            ("campaign.cancel_change", campaign, "no night"),
            ("campaign.pause", campaign, "over"),
            ("campaign.archive", campaign, "for good"),
        ]
    )
    # Keys are not an operator's to make.
    assert {one.action for one in found} == set(Action) - {Action.KEY_CREATE, Action.KEY_REVOKE}
    for one in found:
        assert began_ms - 1_000 < one.action_time.ToMilliseconds() < time.time_ns() // 1_000_000 + 1_000
        assert len(one.hash) == 64
    by_action = {one.action: one for one in found}
    plan_path = f"planned_changes[{planned.planned_changes[0].id}].change"
    assert json.loads(by_action["campaign.schedule"].after_json)[plan_path] == "pause"
    assert json.loads(by_action["campaign.cancel_change"].before_json)[plan_path] == "pause"
    update = by_action["campaign.update"]
    path = "effects[0].kind.basis_points"
    assert json.loads(update.before_json) == {path: 1_000, "version": 1}
    assert json.loads(update.after_json) == {path: 500, "version": 2}
    imported = json.loads(by_action["codes.import"].after_json)
    assert (imported["state"], imported["imported"], imported["bad_lines"]) == ("ended", 1, 0)
    assert json.loads(by_action["codes.assign"].after_json) == {"campaign": id_, "customer_id": "alice"}
    # No list of codes: what was generated stands nowhere.
    generated = [
        line.split(",")[0] for line in exported.decode().splitlines()[1:] if id_.upper() not in line.upper()[:40]
    ]
    assert len(generated) == 3
    assert not any(name in str(one) for one in found for name in generated)


async def test_an_import_in_many_pieces_is_told_at_both_ends(service: Service, client: Client) -> None:
    id_ = await create(client)
    lines = "".join(f"{id_[:20]}-{number}\n" for number in range(5_000))
    await client.import_codes(id_, _pieces("code\n" + lines + "!\n"))
    found = await noted(service, client, action="codes.import", target=f"campaign:{id_}")
    begun, ended = (json.loads(one.after_json) for one in found)
    assert begun == {"import": ended["import"], "state": "begun"}
    assert ended.items() >= {"state": "ended", "imported": 5_000, "bad_lines": 1}.items()


async def test_an_import_of_all_or_nothing_is_noted_only_when_it_is_all(service: Service, client: Client) -> None:
    id_ = await create(client)
    await client.import_codes(id_, _pieces(f"code\n{id_}-1\n!\n"), all_or_nothing=True)
    await client.import_codes(id_, _pieces(f"code\n{id_}-1\n"), all_or_nothing=True)
    (one,) = await noted(service, client, action="codes.import", target=f"campaign:{id_}")
    assert json.loads(one.after_json)["imported"] == 1


async def _pieces(text: str) -> AsyncIterator[bytes]:
    yield text.encode()


async def test_pages_come_newest_first_and_each_action_once(service: Service, client: Client) -> None:
    id_ = await create(client)
    for number in range(6):
        await (client.pause_campaign if number % 2 == 0 else client.resume_campaign)(id_, f"{number}")
    await settle(service.settings)
    wanted = AuditEventFilter(target=f"campaign:{id_}")
    found = [one async for one in client.list_audit_events(wanted, page_size=2)]
    assert [one.reason for one in found] == ["5", "4", "3", "2", "1", "0", ""]
    numbers = [one.number for one in found]
    assert numbers == sorted(numbers, reverse=True)
    wanted.action = "campaign.pause"
    assert [one.reason async for one in client.list_audit_events(wanted, page_size=2)] == ["4", "2", "0"]
    wanted.start_time.CopyFrom(found[3].action_time)
    wanted.end_time.CopyFrom(found[1].action_time)
    assert [one.reason async for one in client.list_audit_events(wanted)] == ["2"]


@pytest.mark.parametrize(
    ("wanted", "token", "field", "words"),
    [
        (AuditEventFilter(action="campaign.stop"), "", "filter.action", "campaign.create, campaign.update"),
        (AuditEventFilter(target="summer"), "", "filter.target", ""),
        (AuditEventFilter(), "WzFd", "page_token", "next_page_token"),
        (AuditEventFilter(), "LTE=", "page_token", "next_page_token"),
    ],
)
async def test_a_slip_is_told(client: Client, wanted: AuditEventFilter, token: str, field: str, words: str) -> None:
    request = ListAuditEventsRequest(filter=wanted, page_token=token)
    with pytest.raises(InvalidArgument) as raised:
        await client._call(lambda: next(client._audits).ListAuditEvents, request)
    assert words in raised.value.violations[field]


async def test_a_viewer_does_not_see_it(service: Service) -> None:
    key = await app.create_key(service.settings, f"v-{uuid.uuid4()}", [Role.VIEWER, Role.SUPPORT], None)
    async with Client(service.target, api_key=key, timeout_s=30) as client:
        async with asyncio.timeout(20):
            while True:
                with pytest.raises(Exception) as raised:  # noqa: PT011
                    await anext(client.list_audit_events())
                if isinstance(raised.value, PermissionDenied):
                    break
                await asyncio.sleep(0.1)
    assert "operator, admin" in str(raised.value)
