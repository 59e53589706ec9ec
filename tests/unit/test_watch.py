"""Who watches a campaign shares the looks at it; nothing is left when the last one goes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

import pytest

from tests.values import a_definition
from vouchsafe.domain.campaign import Campaign, CampaignStatus
from vouchsafe.domain.errors import NotFound, Overloaded, Unavailable
from vouchsafe.service import watch
from vouchsafe.service.campaigns import CampaignStats
from vouchsafe.service.watch import Watch

INTERVAL_S = 0.05


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "INTERVAL_S", INTERVAL_S)


class Looks:
    """Counts the looks. `redeemed` says what each sees, by its number; the clock is another each time."""

    def __init__(self, redeemed: Callable[[int], int] = lambda number: number) -> None:
        self._redeemed = redeemed
        self.count = 0
        self.error: Exception | None = None

    async def __call__(self, campaign_id: str) -> CampaignStats:
        number, self.count = self.count, self.count + 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        status = CampaignStatus(
            campaign=Campaign(campaign_id, 1, a_definition("Sale"), 0),
            pause_reason="",
            resume_time_ms=None,
            redeemed_count=self._redeemed(number),
            discount_minor=0,
            held_count=0,
            held_minor=0,
            customer_count=None,
            now_ms=number,
        )
        return CampaignStats(status, None)

    async def reach(self, count: int) -> None:
        while self.count < count:  # noqa: ASYNC110  # the looks count, nobody signals
            await asyncio.sleep(INTERVAL_S / 10)


def others() -> set[asyncio.Task[object]]:
    """What runs beside the test."""
    return asyncio.all_tasks() - {asyncio.current_task()}


async def counts(stream: Watch, campaign_id: str, wanted: int) -> list[int]:
    """The uses that the first states show."""
    shown: list[int] = []
    async with aclosing(stream.follow(campaign_id)) as states:
        async for stats in states:
            shown.append(stats.status.redeemed_count)
            if len(shown) == wanted:
                break
    return shown


async def test_a_hundred_watchers_cost_as_many_looks_as_one() -> None:
    looks = Looks()
    following = Watch(looks, max_watchers=100)
    seen = await asyncio.gather(*(counts(following, "sale", 5) for _ in range(100)))
    assert all(shown == sorted(set(shown)) for shown in seen)
    assert looks.count <= 20
    await asyncio.sleep(0)
    assert not others()


async def test_campaigns_are_looked_at_for_as_long_as_they_are_watched() -> None:
    looks = Looks()
    following = Watch(looks, max_watchers=2)
    async with aclosing(following.follow("a")) as first, aclosing(following.follow("b")) as second:
        assert (await anext(first)).status.campaign.id == "a"
        assert (await anext(second)).status.campaign.id == "b"
        assert len(others()) == 2
        await second.aclose()
        await asyncio.sleep(0)
        assert len(others()) == 1
        assert (await anext(first)).status.campaign.id == "a"
    await asyncio.sleep(0)
    assert not others()


async def test_a_slow_reader_gets_the_newest_and_what_came_back_is_no_change() -> None:
    looks = Looks()
    async with aclosing(Watch(looks, max_watchers=1).follow("sale")) as states:
        await anext(states)
        await looks.reach(6)
        assert (await anext(states)).status.redeemed_count >= 4
    looks = Looks(lambda number: 7 if number in (1, 2, 3) else 0)
    async with aclosing(Watch(looks, max_watchers=1).follow("sale")) as states:
        await anext(states)
        await looks.reach(6)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(states), 4 * INTERVAL_S)


async def test_one_who_joins_late_has_the_time_of_the_last_look() -> None:
    looks = Looks(lambda _: 0)
    following = Watch(looks, max_watchers=2)
    async with aclosing(following.follow("sale")) as first, aclosing(following.follow("sale")) as late:
        await anext(first)
        await looks.reach(5)
        assert (await anext(late)).status.now_ms >= 3


async def test_an_error_reaches_everyone_and_the_next_one_begins_anew() -> None:
    looks = Looks(lambda _: 0)
    following = Watch(looks, max_watchers=10)
    waiting = [asyncio.create_task(counts(following, "sale", 2)) for _ in range(10)]
    await looks.reach(2)
    looks.error = NotFound("it is gone")
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert answers == [looks.error] * 10
    looks.error = None
    assert await asyncio.gather(*(counts(following, "sale", 1) for _ in range(10))) == [[0]] * 10


async def test_more_than_may_watch_are_refused() -> None:
    following = Watch(Looks(lambda _: 0), max_watchers=3)
    waiting = [asyncio.create_task(counts(following, f"sale-{number}", 2)) for number in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="3 callers are watching"):
        await counts(following, "sale-0", 1)
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    assert await counts(following, "sale-9", 1) == [0]
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)


async def test_closing_ends_everyone_at_once_wherever_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "INTERVAL_S", 3_600)
    following = Watch(Looks(), max_watchers=3)
    async with aclosing(following.follow("slow")) as unread, aclosing(following.follow("slow")) as between:
        await asyncio.gather(anext(unread), anext(between))
        waiting = asyncio.ensure_future(anext(between))
        first = asyncio.ensure_future(anext(following.follow("first")))
        await asyncio.sleep(0)
        following.close()
        async with asyncio.timeout(1):
            for late in (waiting, first, anext(unread), anext(following.follow("new"))):
                with pytest.raises(Unavailable, match="connect again"):
                    await late
