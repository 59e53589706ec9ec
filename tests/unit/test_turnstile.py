"""Who guesses, in one worker: how many codes are looked up at the same time, and where calls come from."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from vouchsafe.domain.errors import Overloaded, Throttled
from vouchsafe.domain.guessing import Bucket, Debts, Kind, Rate, source_name
from vouchsafe.edge.peers import Strangers, address_of
from vouchsafe.service.turnstile import Turnstile

RATES = {Kind.CUSTOMER: Rate(3, 1_000), Kind.SOURCE: Rate(5, 1_000), Kind.PRINCIPAL: Rate(10, 100)}
CUSTOMER, SOURCE = Bucket(Kind.CUSTOMER, "c"), Bucket(Kind.SOURCE, "s")


class Watch:
    """A clock that stands still until it is set."""

    now_ms = 50_000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def turnstile(watch: Watch) -> Turnstile:
    return Turnstile(RATES, watch, max_waiting=100)


async def test_never_more_codes_at_once_than_there_are_tokens(turnstile: Turnstile) -> None:
    running = most = 0

    async def look_up() -> None:
        nonlocal running, most
        await turnstile.enter([CUSTOMER, SOURCE], 1)
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        turnstile.leave([CUSTOMER, SOURCE], 1)

    await asyncio.gather(*(look_up() for _ in range(100)))
    assert most == 3
    assert not turnstile._crowds


async def test_whoever_has_waited_is_sent_away_when_the_bucket_is_empty_meanwhile(
    turnstile: Turnstile, watch: Watch
) -> None:
    for _ in range(3):
        await turnstile.enter([CUSTOMER], 1)
    waiting = [asyncio.create_task(turnstile.enter([CUSTOMER], 1)) for _ in range(5)]
    await asyncio.sleep(0)
    # All three have failed: the bucket is empty, and one token comes back in a second.
    turnstile.note(CUSTOMER, watch.now_ms + 3_000)
    for _ in range(3):
        turnstile.leave([CUSTOMER], 1)
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Throttled] * 5
    with pytest.raises(Throttled) as caught:
        await turnstile.enter([CUSTOMER], 1)
    assert (caught.value.retry_ms, caught.value.by) == (1_000, "customer")
    watch.now_ms += 999
    with pytest.raises(Throttled):
        await turnstile.enter([CUSTOMER], 1)
    watch.now_ms += 1
    await turnstile.enter([CUSTOMER], 1)
    with pytest.raises(Throttled):
        await turnstile.enter([CUSTOMER], 2)
    turnstile.leave([CUSTOMER], 1)
    assert not turnstile._crowds


async def test_whoever_is_refused_by_one_bucket_holds_nothing_of_another(turnstile: Turnstile, watch: Watch) -> None:
    turnstile.note(SOURCE, watch.now_ms + 5_000)
    for _ in range(20):
        with pytest.raises(Throttled, match="source"):
            await turnstile.enter([CUSTOMER, SOURCE], 1)
    assert not turnstile._crowds


async def test_whoever_need_not_wait_is_let_in_at_once_and_nobody_else(turnstile: Turnstile, watch: Watch) -> None:
    turnstile.note(SOURCE, watch.now_ms + 4_000)  # one token is left
    assert turnstile.let_in([CUSTOMER, SOURCE], 1)
    # The other bucket has room, but nothing of it is kept.
    assert not turnstile.let_in([CUSTOMER, SOURCE], 1)
    assert turnstile.let_in([CUSTOMER], 2)
    assert not turnstile.let_in([CUSTOMER], 1)
    waiting = asyncio.create_task(turnstile.enter([CUSTOMER], 1))
    await asyncio.sleep(0)
    turnstile.leave([CUSTOMER], 2)
    # Who waits has come first, and has it now.
    await waiting
    assert turnstile.let_in([CUSTOMER], 1)
    turnstile.leave([CUSTOMER, SOURCE], 1)
    turnstile.leave([CUSTOMER], 2)
    assert not turnstile._crowds


async def test_a_token_that_comes_back_while_it_is_looked_for_confuses_nobody() -> None:
    class Ticking(Watch):
        def __call__(self) -> int:
            self.now_ms += 500
            return self.now_ms

    watch = Ticking()
    turnstile = Turnstile(RATES, watch, max_waiting=100)
    turnstile.note(CUSTOMER, watch.now_ms + 10_000)
    outcomes = []
    for _ in range(30):
        try:
            await turnstile.enter([CUSTOMER], 1)
        except Throttled:
            outcomes.append("throttled")
        else:
            outcomes.append("let in")
            turnstile.leave([CUSTOMER], 1)
    assert outcomes == sorted(outcomes, reverse=True)
    assert set(outcomes) == {"throttled", "let in"}
    assert not turnstile._crowds


async def test_callers_who_go_away_while_they_wait_take_no_place(turnstile: Turnstile) -> None:
    chance = random.Random(7)
    for _ in range(50):

        async def call() -> None:
            count = chance.randint(1, 3)
            await turnstile.enter([CUSTOMER, SOURCE], count)
            try:
                await asyncio.sleep(0)
            finally:
                turnstile.leave([CUSTOMER, SOURCE], count)

        calls = [asyncio.create_task(call()) for _ in range(30)]
        for _ in range(20):
            await asyncio.sleep(0)
            chance.choice(calls).cancel()
        await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
        assert not turnstile._crowds
        assert turnstile._waiting == 0


async def test_only_so_many_wait(watch: Watch) -> None:
    turnstile = Turnstile(RATES, watch, max_waiting=2)
    await turnstile.enter([CUSTOMER], 3)
    waiting = [asyncio.create_task(turnstile.enter([CUSTOMER], 1)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await turnstile.enter([CUSTOMER], 1)
    turnstile.leave([CUSTOMER], 3)
    await asyncio.gather(*waiting)


def test_only_so_much_is_remembered() -> None:
    debts = Debts[int](1_000)
    for number in range(10_000):
        debts.note(number, number)
    assert len(debts._full_ms) == 1_000
    assert (debts.full_ms(9_999), debts.full_ms(1)) == (9_999, 0)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:0db8:0001:0002::9", "2001:db8:1:2::/64"),
        ("device-4711", "device-4711"),
        ("", ""),
    ],
)
def test_a_source_counts_as_what_one_household_has(text: str, name: str) -> None:
    assert source_name(text) == name


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.1:4711", "192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:4711", "2001:db8::1"),
        ("ipv6:[fe80::1%25eth0]:4711", "fe80::1"),
        ("unix:", "unix"),
    ],
)
def test_an_address_is_read_of_a_peer(peer: str, address: str) -> None:
    assert address_of(peer) == address


def test_wrong_credentials_are_counted_by_address(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = 10**12
    monkeypatch.setattr(time, "monotonic_ns", lambda: now_ns)
    strangers = Strangers()

    def note(count: int, host: str) -> int:
        """How many of so many calls from other ports of one address are throttled."""
        throttled = 0
        for port in range(count):
            try:
                strangers.note(f"ipv4:{host}:{port}")
            except Throttled:
                throttled += 1
        return throttled

    assert note(1_000, "192.0.2.1") == 500
    assert note(1, "192.0.2.2") == 0
    now_ns += 10**9
    assert note(100, "192.0.2.1") == 90
