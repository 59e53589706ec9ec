"""Buckets of failed codes in the gate, held against a plain model of a bucket of tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from fractions import Fraction
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gate.stage import Stage
from tests.opened import open_all
from tests.valkeys import client_of
from vouchsafe.domain.guessing import Rate
from vouchsafe.gate.checkout import Checkout
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.guesses import Taken, Taking
from vouchsafe.gate.keys import Keys, partition_of
from vouchsafe.settings import Settings

# By Valkey's own clock, which no test moves, nothing of this time has expired.
BEGIN_MS = 4_102_444_800_000

rates = st.builds(Rate, st.integers(1, 50), st.integers(1, 20_000))
steps = st.lists(st.tuples(st.one_of(st.just(0), st.integers(0, 100_000)), st.integers(1, 12)), max_size=40)
names = (f"bucket-{number}" for number in count())


class Model:
    """Tokens that trickle in, as fractions of one."""

    def __init__(self, rate: Rate, now_ms: int) -> None:
        self._rate = rate
        self._tokens = Fraction(rate.burst)
        self._now_ms = now_ms

    def take(self, now_ms: int, wanted: int) -> Taken:
        trickled = Fraction(now_ms - self._now_ms, self._rate.interval_ms)
        self._tokens, self._now_ms = min(self._tokens + trickled, Fraction(self._rate.burst)), now_ms
        taken = min(wanted, int(self._tokens))
        self._tokens -= taken
        full_ms = now_ms + (self._rate.burst - self._tokens) * self._rate.interval_ms
        assert full_ms.denominator == 1
        return Taken(taken, int(full_ms))


@pytest.mark.usefixtures("moved_clock")
def test_a_bucket_is_what_the_model_says(valkey_url: str) -> None:
    with asyncio.Runner() as runner:
        stage = runner.run(Stage.connect(Settings(valkey_url=valkey_url, gate_timeout_ms=60_000)))
        runner.run(stage.clear(BEGIN_MS))
        now_ms = BEGIN_MS

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        @given(rates, steps)
        def check(rate: Rate, steps: list[tuple[int, int]]) -> None:
            nonlocal now_ms
            name, model = next(names), Model(rate, now_ms)
            for wait_ms, wanted in steps:
                now_ms += wait_ms
                runner.run(stage.move_to(now_ms))
                taken = runner.run(stage.checkout.guesses.take(Taking(name, rate, wanted)))
                assert taken == model.take(now_ms, wanted)
                # What a worker makes of the answer is the same, later, too.
                for later_ms in (0, 1, rate.interval_ms - 1, rate.interval_ms, 7 * rate.interval_ms + 3):
                    at_ms = now_ms + later_ms
                    left = rate.left(taken.full_ms, at_ms)
                    assert left == rate.burst - max(0, -(-(taken.full_ms - at_ms) // rate.interval_ms))
                    for wanted_then in range(1, rate.burst + 1):
                        wait = rate.wait_ms(taken.full_ms, at_ms, wanted_then)
                        assert (wait == 0) == (left >= wanted_then)
                        assert rate.left(taken.full_ms, at_ms + wait) >= wanted_then
                        assert not wait or rate.left(taken.full_ms, at_ms + wait - 1) < wanted_then

        try:
            check()
        finally:
            runner.run(stage.close())


@pytest.fixture
async def gate(settings: Settings) -> AsyncIterator[Gate]:
    gate = await Gate.connect(settings, 3)
    try:
        await open_all(gate)
        yield gate
    finally:
        await gate.close()


@pytest.fixture
async def checkout(gate: Gate, settings: Settings) -> AsyncIterator[Checkout]:
    checkout = Checkout(gate, settings)
    yield checkout
    await checkout.close()


async def test_of_a_thousand_at_once_as_many_take_a_token_as_there_are(checkout: Checkout) -> None:
    rate = Rate(37, 3_600_000)
    others = (checkout.guesses.take(Taking(f"other-{number}", rate, 1)) for number in range(100))
    answers = await asyncio.gather(*(checkout.guesses.take(Taking("one", rate, 1)) for _ in range(1_000)), *others)
    assert sum(taken.count for taken in answers[:1_000]) == 37
    assert all(taken.count == 1 for taken in answers[1_000:])


async def test_a_bucket_is_gone_when_it_is_full_again(checkout: Checkout, settings: Settings) -> None:
    key = Keys(partition_of("short", 3)).bucket("short")
    await checkout.guesses.take(Taking("short", Rate(100, 50), 4))
    with client_of(settings.valkey_url, key) as valkey:
        assert 0 < valkey.pttl(key) <= 200
        await asyncio.sleep(0.25)
        assert not valkey.exists(key)


async def test_a_clock_that_is_set_back_makes_no_bucket_emptier_than_empty(
    checkout: Checkout, gate: Gate, settings: Settings
) -> None:
    key = Keys(partition_of("ahead", 3)).bucket("ahead")
    with client_of(settings.valkey_url, key) as valkey:
        valkey.set(key, gate.clock.now_ms() + 10**9)
    rate = Rate(10, 1_000)
    taken = await checkout.guesses.take(Taking("ahead", rate, 1))
    assert taken.count == 0
    assert 0 < rate.wait_ms(taken.full_ms, gate.clock.now_ms(), 1) <= 1_000
