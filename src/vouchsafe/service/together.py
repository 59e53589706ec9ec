"""Requests to redeem, side by side.

What comes in one turn of the event loop takes each step together: the code of a step is met by all of them while it is
at hand, and none of them needs a task of its own. That is for requests with nothing unusual about them; the others,
and those of which the gate says that they are, go one by one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple

from vouchsafe.service.combined import Answer
from vouchsafe.service.guessing import Asker, Entry, Guessing, has_guessed
from vouchsafe.service.judge import RedeemRequest
from vouchsafe.service.redeem import Prepared, Redeem


class Ask(NamedTuple):
    """A request, and who asks."""

    asker: Asker
    request: RedeemRequest


class Together:
    """Redeems. Unlike `redeem` and `guessing` by themselves, it counts failed codes and keeps the answers."""

    def __init__(self, redeem: Redeem, guessing: Guessing) -> None:
        self._redeem = redeem
        self._guessing = guessing
        self._waiting: list[_Group] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def redeem(self, ask: Ask) -> Answer:
        """Takes the uses, or says why not. Raises what `Redeem.redeem` and `Guessing.ask` raise."""
        (answer,) = await self.redeem_each([ask])
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def redeem_each(self, asks: Sequence[Ask]) -> list[Answer | Exception]:
        """The same of each by itself, or what went wrong with it."""
        if not asks:
            return []
        loop = asyncio.get_running_loop()
        group = _Group(asks, loop.create_future())
        if not self._waiting:
            loop.call_soon(self._begin)
        self._waiting.append(group)
        try:
            await group.done
        finally:
            for task in group.alone:
                task.cancel()
        return group.answers

    def _begin(self) -> None:
        groups, self._waiting = self._waiting, []
        together = []
        for group in groups:
            if group.done.done():  # its caller has gone
                continue
            for place in range(len(group.asks)):
                begun = self._begun(group, place)
                if begun is None:
                    self._go_alone(group, place)
                else:
                    together.append(begun)
        if together:
            self._keep(self._decide(together))

    def _begun(self, group: _Group, place: int) -> _Begun | None:
        asker, request = group.asks[place]
        entry = self._guessing.let_in(asker, request)
        if entry is None:
            return None
        try:
            self._redeem.check()
            prepared = self._redeem.prepare(request)
        except Exception:  # noqa: BLE001  # whatever it is, it is told when it goes alone
            prepared = None
        if prepared is None:
            self._guessing.let_out(entry)
            return None
        return _Begun(group, place, entry, prepared)

    async def _decide(self, together: Sequence[_Begun]) -> None:
        answers: list[Answer | Exception | None]
        try:
            answers = await self._redeem.redeem_each([begun.prepared for begun in together])
        except Exception as error:  # noqa: BLE001  # whatever it is, nobody may be left waiting
            answers = [error] * len(together)
        for (group, place, entry, _), answer in zip(together, answers, strict=True):
            self._guessing.let_out(entry)
            if answer is None or (isinstance(answer, Answer) and has_guessed(answer)):
                self._go_alone(group, place)
            elif isinstance(answer, Exception) or self._redeem.is_kept_at_once:
                group.tell(place, answer)
            else:
                group.alone.append(self._keep(self._tell_when_kept(group, place, answer)))

    async def _tell_when_kept(self, group: _Group, place: int, answer: Answer) -> None:
        try:
            await self._redeem.keep(answer)
        except Exception as error:  # noqa: BLE001  # whatever it is, it belongs to this request
            group.tell(place, error)
        else:
            group.tell(place, answer)

    def _go_alone(self, group: _Group, place: int) -> None:
        asker, request = group.asks[place]

        async def ask() -> None:
            answer: Answer | Exception
            try:
                answer = await self._guessing.ask(asker, request, lambda: self._redeem.redeem(request))
            except Exception as error:  # noqa: BLE001  # whatever it is, it belongs to this request
                answer = error
            group.tell(place, answer)

        group.alone.append(self._keep(ask()))

    def _keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class _Group:
    """What one caller asks; `done` is set when all are answered."""

    __slots__ = ("alone", "answers", "asks", "done", "left")

    def __init__(self, asks: Sequence[Ask], done: asyncio.Future[None]) -> None:
        self.asks = asks
        self.done = done
        self.left = len(asks)
        self.answers: list[Any] = [None] * len(asks)
        self.alone: list[asyncio.Task[None]] = []

    def tell(self, place: int, answer: Answer | Exception) -> None:
        self.answers[place] = answer
        self.left -= 1
        if not self.left and not self.done.done():
            self.done.set_result(None)


class _Begun(NamedTuple):
    """A request that was let through, for the place that it has in its group."""

    group: _Group
    place: int
    entry: Entry
    prepared: Prepared
