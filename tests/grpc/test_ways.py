"""The three ways to redeem have one meaning: whatever is asked, the answers are the same but for ids and times."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import ParseDict
from google.rpc.code_pb2 import Code

from tests.grpc.test_bad_input import BAD_REQUESTS
from tests.grpc.test_bad_input import a_request as a_good_request
from tests.guarded import a_key, fresh
from tests.service import Service, until
from tests.valkeys import client_of
from tests.ways import WAYS, Answer, Told, Way, a_request, by_batch, by_calls, by_stream, told
from vouchsafe.client import CampaignDefinition, Client, Combining, Coverage, KillSwitchScope
from vouchsafe.domain.access import Role
from vouchsafe.edge.message_rules import TOLD_VIOLATIONS
from vouchsafe.gate.keys import Keys, partition_of
from vouchsafe.v1 import redemption_service_pb2 as pb

Shown = str | Told


class World:
    """A caller who uses one of the ways, with codes and ids that no other has."""

    def __init__(self, way: Way, channel: grpc.aio.Channel, admin: Client, key: str) -> None:
        self.admin = admin
        self.name = fresh("w").upper()
        self.shown: list[Shown] = []
        self._way, self._channel = way, channel
        self._metadata = (("authorization", f"Bearer {key}"),)

    async def code(self, label: str = "", *, active: bool = True, **changes: Any) -> str:
        """A code of a campaign of its own that takes off a tenth, but for the changes."""
        code = f"{self.name}{label}"
        plain = {
            "display_name": "x",
            "effects": [{"percent_off": {"basis_points": 1_000}}],
            "stacking": {"mode": "COMBINE_MODE_JOINT"},
        }
        definition = ParseDict(plain | changes, CampaignDefinition())
        await self.admin.create_campaign(code.lower(), definition, shared_codes=[code], draft=not active)
        return code

    async def ask(self, *codes: str, id_: str = "1", change: Callable[[Any], object] = lambda _: None) -> None:
        request = a_request(*codes, id_=f"{self.name}-{id_}", source=self.name)
        change(request)
        await self.send(request)

    async def send(self, *requests: pb.ValidateAndRedeemRequest) -> None:
        answers = await self._way(self._channel, self._metadata, requests)
        self.shown += [self._show(answer) for answer in answers]

    def _show(self, answer: Answer) -> Shown:
        if not isinstance(answer, pb.ValidateAndRedeemResponse):
            told_ = told(answer)
            return Told(**{**_fields(told_), "message": re.sub(r"\d+", "N", told_.message.replace(self.name, "NAME"))})
        shown = pb.ValidateAndRedeemResponse()
        shown.CopyFrom(answer)
        if shown.HasField("redemption"):
            assert shown.redemption.id
            shown.redemption.id = ""
            shown.redemption.ClearField("redeem_time")
        return str(shown).replace(self.name, "NAME").replace(self.name.lower(), "name")


def _fields(one: Told) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__slots__}


async def success(world: World) -> None:
    await world.ask(await world.code())


async def the_same_again(world: World) -> None:
    code = await world.code()
    for _ in range(2):
        await world.ask(code)


async def a_request_id_for_another_order(world: World) -> None:
    code = await world.code()
    await world.ask(code)
    await world.ask(code, change=lambda request: setattr(request.order, "shipping_minor", 1))


async def an_order_under_another_request_id(world: World) -> None:
    code = await world.code()
    await world.ask(code)
    await world.ask(code, change=lambda request: setattr(request, "request_id", f"{world.name}-2"))


async def an_unknown_code(world: World) -> None:
    await world.ask(f"{world.name}-UNKNOWN")


async def a_paused_campaign(world: World) -> None:
    code = await world.code()
    await world.admin.pause_campaign(code.lower())
    await world.ask(code)


async def a_kill_switch(world: World) -> None:
    code = await world.code()
    await world.admin.engage_kill_switch(KillSwitchScope(code=code))
    await world.ask(code)


async def a_disabled_code(world: World) -> None:
    code = await world.code()
    await world.admin.disable_code(code, "leaked")
    await world.ask(code)


async def a_campaign_that_waits(world: World) -> None:
    await world.ask(await world.code(start_time="2090-01-01T00:00:00Z"))


async def a_campaign_that_is_over(world: World) -> None:
    await world.ask(await world.code(end_time="2020-01-01T00:00:00Z"))


async def a_draft(world: World) -> None:
    await world.ask(await world.code(active=False))


async def sold_out(world: World) -> None:
    code = await world.code(limits={"total": 1})
    for number in "12":
        await world.ask(code, id_=number)


async def a_customer_who_had_theirs(world: World) -> None:
    code = await world.code(limits={"per_customer": 1})
    for number in "12":
        await world.ask(code, id_=number, change=lambda request: setattr(request.customer, "id", world.name))


async def another_country(world: World) -> None:
    await world.ask(await world.code(conditions=[{"countries": {"any": ["IS"]}}]))


async def too_little(world: World) -> None:
    await world.ask(await world.code(conditions=[{"amount": {"min_minor": 1_000_000}}], currency_code="EUR"))


async def several_codes(world: World) -> None:
    await world.ask(await world.code("-A"), await world.code("-B"))


async def several_codes_of_which_one_is_wrong(world: World) -> None:
    code = await world.code()
    await world.ask(code, f"{world.name}-UNKNOWN")
    part = Combining(coverage=Coverage.COVERAGE_APPLICABLE_PART)
    await world.ask(code, f"{world.name}-UNKNOWN", id_="2", change=lambda request: request.combining.CopyFrom(part))


async def codes_that_do_not_combine(world: World) -> None:
    code, alone = await world.code(), await world.code("-B", stacking={})
    part = Combining(coverage=Coverage.COVERAGE_APPLICABLE_PART)
    await world.ask(code, alone, change=lambda request: request.combining.CopyFrom(part))


async def a_code_given_twice(world: World) -> None:
    await world.ask(f"{world.name}-A", f"{world.name}-a")


async def more_wrong_than_is_told(world: World) -> None:
    def spoil(request: pb.ValidateAndRedeemRequest) -> None:
        request.customer.segments.extend([""] * (TOLD_VIOLATIONS + 5))

    await world.ask(world.name, change=spoil)


async def a_large_request_that_is_wrong(world: World) -> None:
    def spoil(request: pb.ValidateAndRedeemRequest) -> None:
        request.customer.segments.extend(["", *["s" * 64] * 80])

    await world.ask(world.name, change=spoil)


async def nothing_at_all(world: World) -> None:
    await world.send(pb.ValidateAndRedeemRequest())


SCENARIOS = (
    success,
    the_same_again,
    a_request_id_for_another_order,
    an_order_under_another_request_id,
    an_unknown_code,
    a_paused_campaign,
    a_kill_switch,
    a_disabled_code,
    a_campaign_that_waits,
    a_campaign_that_is_over,
    a_draft,
    sold_out,
    a_customer_who_had_theirs,
    another_country,
    too_little,
    several_codes,
    several_codes_of_which_one_is_wrong,
    codes_that_do_not_combine,
    a_code_given_twice,
    more_wrong_than_is_told,
    a_large_request_that_is_wrong,
    nothing_at_all,
)


async def shown_by_all(
    service: Service, scenario: Callable[[World], Awaitable[None]], role: Role | None = None
) -> list[Shown]:
    """What is answered, by whichever way."""
    shown: dict[str, list[Shown]] = {}
    async with service.client(timeout_s=30) as admin, grpc.aio.insecure_channel(service.target) as channel:
        for name, way in WAYS.items():
            key = service.api_key if role is None else await a_key(service, role)
            await _known(channel, key)
            world = World(way, channel, admin, key)
            await scenario(world)
            shown[name] = world.shown
    assert shown["stream"] == shown["calls"]
    assert shown["batch"] == shown["calls"]
    return shown["calls"]


async def _known(channel: grpc.aio.Channel, key: str) -> None:
    metadata = (("authorization", f"Bearer {key}"),)

    async def is_known() -> bool:
        (answer,) = await by_calls(channel, metadata, [pb.ValidateAndRedeemRequest()])
        return not isinstance(answer, pb.ValidateAndRedeemResponse) and answer.code == Code.INVALID_ARGUMENT

    await until(is_known)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_a_checkout_is_answered_the_same(guarded: Service, scenario: Callable[[World], Awaitable[None]]) -> None:
    assert await shown_by_all(guarded, scenario)


@pytest.mark.parametrize(
    "scenario", [success, an_unknown_code, a_paused_campaign, several_codes_of_which_one_is_wrong, nothing_at_all]
)
async def test_a_storefront_is_answered_the_same(
    guarded: Service, scenario: Callable[[World], Awaitable[None]]
) -> None:
    shown = await shown_by_all(guarded, scenario, Role.STOREFRONT)
    assert "CODE_UNKNOWN" not in str(shown)
    assert "CAMPAIGN_PAUSED" not in str(shown)


@pytest.mark.parametrize("change", [change for change, _ in BAD_REQUESTS.values()], ids=BAD_REQUESTS)
async def test_what_is_wrong_with_a_request_is_told_the_same(service: Service, change: Callable[[Any], object]) -> None:
    request = a_good_request()
    change(request)

    async def scenario(world: World) -> None:
        await world.send(request)

    (shown,) = await shown_by_all(service, scenario)
    assert isinstance(shown, Told)
    assert (shown.code, shown.reason) == (Code.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert shown.violations


async def test_who_guesses_is_slowed_the_same(guarded: Service) -> None:
    async def scenario(world: World) -> None:
        name = fresh("c")
        for number in range(30):
            await world.ask(f"{world.name}-GUESS", id_=str(number), change=lambda r: setattr(r.customer, "id", name))
        # Both workers may have let some through; what counts is which answers there are.
        kinds = sorted({str(shown) for shown in world.shown})
        world.shown[:] = [*kinds]

    shown = await shown_by_all(guarded, scenario)
    assert len(shown) == 2
    assert "THROTTLED" in str(shown)


async def test_a_customers_guesses_in_one_batch_or_stream_count_one_by_one(guarded: Service) -> None:
    """All of them together, and none gets further than the customer may."""
    burst = guarded.settings.guess_customer_burst
    async with grpc.aio.insecure_channel(guarded.target) as channel:
        for way in (by_stream, by_batch):
            key, name = await a_key(guarded, Role.CHECKOUT), fresh("c")
            await _known(channel, key)
            began = time.monotonic()
            requests = [a_request("GUESS-NONE", id_=f"{name}-{number}", customer=name) for number in range(300)]
            answers = await way(channel, (("authorization", f"Bearer {key}"),), requests)
            refused = [answer for answer in answers if isinstance(answer, pb.ValidateAndRedeemResponse)]
            more = int((time.monotonic() - began) * 1000) // guarded.settings.guess_customer_interval_ms + 1
            assert burst <= len(refused) <= burst + more
            assert {told(one).reason for one in answers if not isinstance(one, pb.ValidateAndRedeemResponse)} == {
                "THROTTLED"
            }


async def test_one_that_is_wrong_fails_alone(service: Service) -> None:
    async with service.client(timeout_s=30) as admin, grpc.aio.insecure_channel(service.target) as channel:
        for way in WAYS.values():
            world = World(way, channel, admin, service.api_key)
            code = await world.code()
            requests = [a_request(code, id_=f"{world.name}-{number}") for number in range(100)]
            for place in range(0, 100, 10):
                requests[place].order.lines[0].quantity = 0
            answers = await way(channel, service.metadata, requests)
            for place, answer in enumerate(answers):
                if place % 10:
                    assert isinstance(answer, pb.ValidateAndRedeemResponse)
                    assert answer.redemption.request_id == requests[place].request_id
                else:
                    assert not isinstance(answer, pb.ValidateAndRedeemResponse)
                    assert [field for field, _ in told(answer).violations] == ["order.lines[0].quantity"]


async def test_a_partition_that_is_closed_is_unavailable_the_same(own_service: Service) -> None:
    codes: list[str] = []

    async def scenario(world: World) -> None:
        if not codes:
            # One for all ways: a worker that nobody asks may see later than the others that the partition is open.
            while partition_of(world.name.lower(), own_service.settings.partitions) != 1:
                world.name = fresh("W").upper()
            codes.append(await world.code())
        (code,) = codes
        with own_service.frozen("persist"):
            with client_of(own_service.settings.valkey_url, Keys(1).meta) as one:
                one.delete(Keys(1).meta)

            async def is_closed() -> bool:
                await world.ask(code)
                return isinstance(world.shown[-1], Told)

            await until(is_closed)
            world.shown[:] = world.shown[-1:]
            await world.ask(code)
        await until(lambda: _is_open(world, code))
        world.shown[2:] = []

    shown = await shown_by_all(own_service, scenario)
    assert isinstance(shown[0], Told)
    assert (shown[0].code, shown[0].is_repeatable) == (Code.UNAVAILABLE, True)


async def _is_open(world: World, code: str) -> bool:
    await world.ask(code, id_="later")
    return isinstance(world.shown[-1], str)
