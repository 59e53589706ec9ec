"""Requests that go together: each is answered as if it had come alone, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import msgspec
import pytest

from tests.opened import enter, open_all
from tests.service import a_backlog
from tests.valkeys import on_every_node
from tests.values import AN_ORDER, a_definition
from vouchsafe.domain.access import Principal, Role
from vouchsafe.domain.campaign import Campaign, CodeEntry
from vouchsafe.domain.combine import Combining
from vouchsafe.domain.errors import InvalidRequest, RequestIdReused, Unavailable, Violation
from vouchsafe.domain.limits import Limits
from vouchsafe.domain.order import Customer
from vouchsafe.domain.reasons import Reason, Refusal
from vouchsafe.domain.redemption import Claim, Redemption
from vouchsafe.gate.checkout import Checkout
from vouchsafe.gate.gate import Gate
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.service.combined import Answer
from vouchsafe.service.committed import Committed
from vouchsafe.service.guessing import Asker, Guessing
from vouchsafe.service.judge import RedeemRequest
from vouchsafe.service.redeem import Redeem
from vouchsafe.service.together import FULL, MOST, MOST_AT_GATE, Ask, Together
from vouchsafe.settings import Settings

CAP = 500
LIMITS = Limits(total=CAP)
ASKER = Asker(Principal("shop", frozenset([Role.CHECKOUT])), "")


def ask(number: int, code: str = "SALE", fingerprint: int | None = None) -> Ask:
    order = msgspec.structs.replace(AN_ORDER, id=f"order-{number}")
    digits = f"{number if fingerprint is None else fingerprint:032x}"
    return Ask(
        ASKER,
        RedeemRequest(f"request-{number}", digits, (code,), Customer(id=f"customer-{number}"), order, Combining()),
    )


@dataclass
class World:
    """A campaign of so many uses, and those who want them."""

    gate: Gate
    together: Together

    async def publish(self, version: int) -> None:
        await self.gate.publish(Campaign("sale", version, a_definition("Sale", limits=LIMITS), 0))

    def redeem(self, number: int) -> asyncio.Task[Answer]:
        return asyncio.create_task(self.together.redeem(lambda: ask(number)))

    async def used(self) -> int:
        (status,) = await self.gate.describe(["sale"])
        assert status is not None
        return status.redeemed_count

    async def calls(self) -> int:
        stats = b"".join(await on_every_node(self.gate, ("INFO", "commandstats"))).decode()
        lines = [line for line in stats.splitlines() if line.startswith("cmdstat_fcall:")]
        return sum(int(line.partition("calls=")[2].partition(",")[0]) for line in lines)


@pytest.fixture
async def world(settings: Settings) -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        gate = await Gate.connect(settings, 16)
        stack.push_async_callback(gate.close)
        await open_all(gate)
        checkout = Checkout(gate, settings)
        stack.push_async_callback(checkout.close)
        ledger = await Ledger.connect(settings.postgres_url, pool_size=1, timeout_ms=5_000)
        stack.push_async_callback(ledger.close)
        backlog, committed = a_backlog(gate, settings), Committed(ledger, settings)
        redeem = Redeem(checkout, ledger, backlog, committed, hold_ms=5_000, secret="")
        world = World(gate, Together(redeem, Guessing(checkout, redeem.validate, settings)))
        await world.publish(1)
        await enter(gate, CodeEntry("SALE", "sale", None))
        # From now on code and campaign are at hand.
        await world.together.redeem(lambda: ask(0))
        yield world


@pytest.mark.one_node("a claim takes a call of its own on a cluster")
async def test_what_comes_while_others_are_at_the_gate_goes_in_one_call(world: World) -> None:
    before = await world.calls()
    first = world.redeem(1)
    for _ in range(3):
        await asyncio.sleep(0)  # it is at the gate, of which nothing can have come back yet
    others = [world.redeem(number) for number in range(2, FULL)]
    answers = [await one for one in (first, *others)]
    assert [answer.outcome.claim.request_id for answer in answers if isinstance(answer.outcome, Redemption)] == [
        f"request-{number}" for number in range(1, FULL)
    ]
    assert await world.calls() - before == 2
    assert await world.used() == FULL


async def test_who_has_gone_before_its_turn_is_not_redeemed(world: World) -> None:
    first = world.redeem(1)
    for _ in range(3):
        await asyncio.sleep(0)
    gone = [world.redeem(number) for number in range(2, 20)]
    await asyncio.sleep(0)
    for task in gone:
        task.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    await first
    assert isinstance((await world.redeem(20)).outcome, Redemption)
    if world.together._redeem._checkout.is_one_node:
        assert await world.used() == 3
    assert not world.together._guessing._turnstile._crowds


@pytest.mark.one_node("on a cluster all go alone, and the lanes drop who has gone")
async def test_who_goes_while_the_gate_stands_still_is_not_redeemed_but_for_a_bounded_few(world: World) -> None:
    await on_every_node(world.gate, ("CLIENT", "PAUSE", 500, "WRITE"))
    gone: list[asyncio.Task[Answer]] = []
    for _ in range(20):
        gone += [world.redeem(len(gone) + number) for number in range(1, 51)]
        for _ in range(5):
            await asyncio.sleep(0)
    for task in gone:
        task.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    assert isinstance((await world.redeem(2_000)).outcome, Redemption)
    assert 2 < await world.used() <= 2 + MOST_AT_GATE * MOST
    assert not world.together._guessing._turnstile._crowds


async def test_each_is_answered_by_itself(world: World) -> None:
    def unreadable() -> Ask:
        raise InvalidRequest(Violation("order.id", "is missing"))

    reads = [
        lambda: ask(1),
        unreadable,
        lambda: ask(2, code="NOBODYS"),
        lambda: ask(0, fingerprint=99),  # the id of a request that there was
        lambda: ask(1),  # the same again
        lambda: ask(3),
    ]
    good, unread, unknown, reused, again, last = await world.together.redeem_each(reads)
    assert isinstance(good, Answer)
    assert isinstance(good.outcome, Redemption)
    assert isinstance(unread, InvalidRequest)
    assert isinstance(unknown, Answer)
    assert isinstance(unknown.outcome, Refusal)
    assert unknown.outcome.reason is Reason.CODE_UNKNOWN
    assert isinstance(reused, RequestIdReused)
    assert again == good
    assert isinstance(last, Answer)
    assert isinstance(last.outcome, Redemption)
    assert await world.used() == 3


async def test_a_group_takes_what_is_left_and_no_more(world: World) -> None:
    groups = await asyncio.gather(
        *(world.together.redeem_each([_reading(at * 60 + place) for place in range(60)]) for at in range(1, 11))
    )
    outcomes = [answer.outcome for group in groups for answer in group if isinstance(answer, Answer)]
    assert len(outcomes) == 600
    assert sum(isinstance(outcome, Redemption) for outcome in outcomes) == CAP - 1
    reasons = {outcome.reason for outcome in outcomes if isinstance(outcome, Refusal)}
    assert reasons == {Reason.CAMPAIGN_LIMIT_REACHED}
    assert await world.used() == CAP


async def test_a_definition_that_has_changed_is_read_again_for_all(world: World) -> None:
    await world.publish(2)
    answers = await world.together.redeem_each([_reading(number) for number in range(1, 100)])
    claims = [
        answer.outcome.claim
        for answer in answers
        if isinstance(answer, Answer) and isinstance(answer.outcome, Redemption)
    ]
    assert [claim.campaign_version for claim in claims if isinstance(claim, Claim)] == [2] * 99
    assert await world.used() == 100


async def test_a_gate_that_breaks_off_is_told_to_all_and_the_next_goes_on(world: World) -> None:
    await on_every_node(world.gate, ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))
    answers = await world.together.redeem_each([_reading(number) for number in range(1, 40)])
    assert {type(answer) for answer in answers} <= {Unavailable, Answer}
    assert any(isinstance(answer, Unavailable) for answer in answers)
    answers = await world.together.redeem_each([_reading(number) for number in range(1, 40)])
    assert all(isinstance(answer, Answer) and isinstance(answer.outcome, Redemption) for answer in answers)
    assert await world.used() == 40
    assert not world.together._guessing._turnstile._crowds


def _reading(number: int) -> Callable[[], Ask]:
    return lambda: ask(number)
