"""Streams without a server: how many requests are under way, and what is left behind."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

import pytest

from vouchsafe.domain.errors import Overloaded, Unauthenticated, Unavailable
from vouchsafe.edge import many
from vouchsafe.edge.many import MAX_UNDER_WAY, Streams, answer_batch


class Source:
    """Requests 0, 1, 2, … as fast as they are read."""

    def __init__(self, end: int | None = None, error: Exception | None = None) -> None:
        self.read = 0
        self._end = end
        self._error = error

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        await asyncio.sleep(0)
        if self.read == self._end:
            if self._error is not None:
                raise self._error
            raise StopAsyncIteration
        self.read += 1
        return self.read - 1


async def echo(number: int) -> int:
    await asyncio.sleep(0)
    return number


async def settled() -> None:
    """Returns when everything has had its turn that needs no more than turns."""
    for _ in range(4 * MAX_UNDER_WAY):
        await asyncio.sleep(0)


async def all_of(answers: AsyncGenerator[int, None]) -> list[int]:
    return [one async for one in answers]


async def take(answers: AsyncGenerator[int, None], into: list[int]) -> None:
    async for one in answers:
        into.append(one)  # noqa: PERF401  # what comes before an error counts


async def test_every_request_is_answered_once() -> None:
    assert sorted(await all_of(Streams().answers(Source(5_000), echo))) == list(range(5_000))


async def test_who_does_not_take_answers_is_read_no_further_than_a_thousand_and_holds_up_nobody() -> None:
    streams, slow = Streams(), Source()
    async with aclosing(streams.answers(slow, echo)) as answers:
        await anext(answers)
        await settled()
        assert slow.read == MAX_UNDER_WAY
        # One is taken when the next is asked for, and makes room for one.
        await anext(answers)
        await settled()
        assert slow.read == MAX_UNDER_WAY + 1
        assert len(await all_of(streams.answers(Source(3_000), echo))) == 3_000
        assert slow.read == MAX_UNDER_WAY + 1


async def test_what_is_not_answered_counts_as_well() -> None:
    source, never = Source(), asyncio.Event()
    taking = asyncio.create_task(all_of(Streams().answers(source, lambda _: _wait(never))))
    await settled()
    assert source.read == MAX_UNDER_WAY
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)


async def _wait(event: asyncio.Event) -> int:
    await event.wait()
    return 0


async def test_100_streams_that_are_cut_off_leave_nothing() -> None:
    streams, chance = Streams(), random.Random(3)
    before = asyncio.all_tasks()

    async def slowly(number: int) -> int:
        await asyncio.sleep(chance.random() * 0.01)
        return number

    async def take_slowly() -> None:
        async with aclosing(streams.answers(Source(), slowly)) as answers:
            async for _ in answers:
                await asyncio.sleep(0)

    tasks = [asyncio.create_task(take_slowly()) for _ in range(100)]
    for task in tasks:
        asyncio.get_running_loop().call_later(chance.random() * 0.2, task.cancel)
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in ended)
    assert asyncio.all_tasks() == before
    assert not streams._open


async def test_closing_answers_what_is_under_way_and_reads_no_more() -> None:
    streams, source, go_on = Streams(), Source(10), asyncio.Event()
    never_ends = _then_silent(source)
    answers: list[int] = []

    taking = asyncio.create_task(take(streams.answers(never_ends, lambda _: _wait(go_on)), answers))
    await settled()
    streams.close()
    await settled()
    assert not taking.done()
    go_on.set()
    with pytest.raises(Unavailable, match="open another stream"):
        await taking
    assert len(answers) == 10
    with pytest.raises(Unavailable):
        await all_of(streams.answers(Source(1), echo))


async def _then_silent(source: Source) -> AsyncIterator[int]:
    async for one in source:
        yield one
    await asyncio.Event().wait()


async def test_what_ends_the_requests_is_raised_behind_the_last_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[int] = []
    with pytest.raises(Unauthenticated):
        await take(Streams().answers(Source(10, Unauthenticated("over")), echo), answers)
    assert sorted(answers) == list(range(10))
    # Not behind one that does not come.
    monkeypatch.setattr(many, "LAST_ANSWERS_S", 0.01)
    before = asyncio.all_tasks()
    with pytest.raises(Unauthenticated):
        await all_of(Streams().answers(Source(10, Unauthenticated("over")), lambda _: _wait(asyncio.Event())))
    assert asyncio.all_tasks() == before


async def test_there_is_a_bound_of_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "MAX_STREAMS", 1)
    streams = Streams()
    async with aclosing(streams.answers(Source(), echo)) as answers:
        await anext(answers)
        with pytest.raises(Overloaded, match="1 streams are open already"):
            await all_of(streams.answers(Source(1), echo))
    assert await all_of(streams.answers(Source(1), echo)) == [0]


async def test_a_batch_is_answered_in_order_and_leaves_nothing_when_it_is_cut_off() -> None:
    async def late(numbers: Sequence[int]) -> Sequence[int]:
        await asyncio.sleep(0.01 if numbers[0] % 128 else 0)
        return numbers

    async def never(numbers: Sequence[int]) -> Sequence[int]:
        await asyncio.Event().wait()
        return numbers

    assert await answer_batch(range(500), late) == list(range(500))
    before = asyncio.all_tasks()
    for turns in (1, 3, 20):
        task = asyncio.create_task(answer_batch(range(500), never))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert asyncio.all_tasks() == before
