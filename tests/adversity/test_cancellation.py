"""Callers that go away: nothing is left unread, and nobody gets another's answer."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator

import pytest

from tests.opened import open_all
from tests.valkeys import nodes_of, on_every_node
from tests.values import a_definition, a_discount, attempt_of
from vouchsafe.domain.campaign import Campaign
from vouchsafe.domain.errors import Overloaded, Unavailable
from vouchsafe.domain.limits import Limits
from vouchsafe.domain.redemption import Claim, Redemption
from vouchsafe.embedded import EmbeddedValkey
from vouchsafe.gate.attempts import Attempt
from vouchsafe.gate.checkout import Checkout
from vouchsafe.gate.gate import Gate
from vouchsafe.settings import Settings

CALLS = 2_000
CLAIMED_BEFORE = "on a cluster the request id is claimed by a call of its own before"


def attempt(number: int) -> Attempt:
    claim = Claim(
        request_id=f"request-{number}",
        fingerprint=f"{number:032x}",
        campaign_id="sale",
        campaign_version=1,
        code="SALE",
        customer_id=f"customer-{number}",
        order_id=f"order-{number}",
        currency_code="EUR",
        order_amount_minor=1_000,
        # Each its own, so that an answer tells whose it is.
        discount=a_discount(number + 1),
    )
    return attempt_of(claim, limits=Limits(total=CALLS))


@pytest.fixture
async def gate(settings: Settings) -> AsyncIterator[Gate]:
    gate = await Gate.connect(settings, 2)
    await open_all(gate)
    await gate.publish(Campaign("sale", 1, a_definition("Sale", limits=Limits(total=CALLS)), 0))
    yield gate
    await gate.close()


@pytest.fixture
async def checkout(gate: Gate, settings: Settings) -> AsyncIterator[Checkout]:
    checkout = Checkout(gate, settings)
    yield checkout
    await checkout.close()


async def used(gate: Gate) -> int:
    (status,) = await gate.describe(["sale"])
    assert status is not None
    return status.redeemed_count


async def test_a_third_of_the_callers_go_away_at_any_moment(gate: Gate, checkout: Checkout) -> None:
    chance = random.Random(11)
    tasks = []
    for number in range(CALLS):
        task = asyncio.create_task(checkout.redeem(attempt(number)))
        tasks.append(task)
        if chance.random() < 0.3:
            asyncio.get_running_loop().call_later(chance.random() * 0.2, task.cancel)
        if number % 50 == 0:
            await asyncio.sleep(chance.random() * 0.01)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    cancelled = [number for number, answer in enumerate(answers) if isinstance(answer, asyncio.CancelledError)]
    assert cancelled
    for number, answer in enumerate(answers):
        if isinstance(answer, asyncio.CancelledError):
            continue
        assert isinstance(answer, Redemption)
        assert (answer.claim.request_id, answer.discount_minor) == (f"request-{number}", number + 1)
    # Those who went away may or may not have been decided; asking again settles it, once each.
    before = await used(gate)
    assert CALLS - len(cancelled) <= before <= CALLS
    again = await asyncio.gather(*(checkout.redeem(attempt(number)) for number in cancelled))
    assert all(isinstance(answer, Redemption) for answer in again)
    assert await used(gate) == CALLS


async def test_a_caller_that_goes_before_its_turn_is_not_decided(gate: Gate, checkout: Checkout) -> None:
    task = asyncio.create_task(checkout.redeem(attempt(1)))
    await asyncio.sleep(0)  # it waits in the lane now; the lane has not been given its turn
    task.cancel()
    assert isinstance(await checkout.redeem(attempt(2)), Redemption)
    assert await used(gate) == 1


@pytest.mark.one_node(CLAIMED_BEFORE)
async def test_calls_that_arrive_together_go_together(gate: Gate, checkout: Checkout, settings: Settings) -> None:
    async def calls() -> int:
        stats = b"".join(await on_every_node(gate, ("INFO", "commandstats"))).decode()
        lines = [line for line in stats.splitlines() if line.startswith("cmdstat_fcall:")]
        return sum(int(line.partition("calls=")[2].partition(",")[0]) for line in lines)

    before = await calls()
    answers = await asyncio.gather(*(checkout.redeem(attempt(number)) for number in range(1_000)))
    assert all(isinstance(answer, Redemption) for answer in answers)
    assert await calls() - before == -(-1_000 // settings.batch_size)


@pytest.mark.one_node(CLAIMED_BEFORE)
async def test_more_than_may_wait_are_refused_and_the_others_served(gate: Gate, settings: Settings) -> None:
    small = Checkout(gate, settings.model_copy(update={"max_waiting": 10}))
    try:
        answers = await asyncio.gather(*(small.redeem(attempt(number)) for number in range(25)), return_exceptions=True)
    finally:
        await small.close()
    assert [type(answer) for answer in answers] == [Redemption] * 10 + [Overloaded] * 15
    assert await used(gate) == 10


@pytest.mark.one_node(CLAIMED_BEFORE)
async def test_closing_answers_what_waits(gate: Gate, settings: Settings) -> None:
    checkout = Checkout(gate, settings)
    tasks = [asyncio.create_task(checkout.redeem(attempt(number))) for number in range(300)]
    await asyncio.sleep(0)
    await checkout.close()
    assert all(task.done() and isinstance(task.result(), Redemption) for task in tasks)
    with pytest.raises(Unavailable, match="shutting down"):
        await checkout.redeem(attempt(301))


async def test_a_connection_that_breaks_is_unavailable_once(gate: Gate, checkout: Checkout) -> None:
    assert isinstance(await checkout.redeem(attempt(1)), Redemption)
    await on_every_node(gate, ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))
    with pytest.raises(Unavailable, match="out of reach"):
        await checkout.redeem(attempt(2))
    assert isinstance(await checkout.redeem(attempt(2)), Redemption)


async def test_functions_that_were_removed_are_loaded_again_and_decide_once_they_are_opened(
    gate: Gate, checkout: Checkout
) -> None:
    assert isinstance(await checkout.redeem(attempt(1)), Redemption)
    await on_every_node(gate, ("FUNCTION", "FLUSH"))
    with pytest.raises(Unavailable):
        await checkout.redeem(attempt(2))
    await open_all(gate)
    answers = await asyncio.gather(*(checkout.redeem(attempt(number)) for number in range(2, 200)))
    assert all(isinstance(answer, Redemption) for answer in answers)


async def test_a_valkey_that_hangs_is_unavailable_in_time(own_valkey: EmbeddedValkey) -> None:
    settings = Settings(valkey_url=own_valkey.url, gate_timeout_ms=300)
    gate = await Gate.connect(settings, 1)
    checkout = Checkout(gate, settings)
    loop = asyncio.get_running_loop()
    try:
        await open_all(gate)
        await gate.publish(Campaign("sale", 1, a_definition("Sale"), 0))
        for node in nodes_of(own_valkey):
            os.kill(node.pid, signal.SIGSTOP)
        started = loop.time()
        with pytest.raises(Unavailable):
            await checkout.redeem(attempt(1))
        assert loop.time() - started < 1
        for node in nodes_of(own_valkey):
            os.kill(node.pid, signal.SIGCONT)
        outcome = await checkout.redeem(attempt(1))
        assert isinstance(outcome, Redemption)
        assert await used(gate) == 1
    finally:
        await checkout.close()
        await gate.close()
