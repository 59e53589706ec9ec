"""Requests to redeem, side by side.

While some are at the gate, what comes waits and then takes each step together: the code of a step is met by all of them
while it is at hand, one exchange carries them, and none of them needs a task of its own. Who comes alone does not wait.

That is for requests with nothing unusual about them; the others, and those of which the gate says that they are, go one
by one, and hold up nobody.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

from vouchsafe.service.combined import Answer
from vouchsafe.service.guessing import Asker, Entry, Guessing, has_guessed
from vouchsafe.service.judge import RedeemRequest
from vouchsafe.service.redeem import Prepared, Redeem

# So many begin while others are at the gate, too: they fill an exchange.
FULL = 64
# One exchange is made ready while the gate answers another. Whoever comes meanwhile waits here, and may still go.
MOST_AT_GATE = 2
# No more begin at once, so that nobody else waits long for the loop. (One caller's own are never parted.)
MOST = 128


class Ask(NamedTuple):
    """A request, and who asks."""

    asker: Asker
    request: RedeemRequest


# Makes a request of what has come, when its turn comes; raises what is wrong with it.
Read = Callable[[], Ask]


class Together:
    """Redeems, as `redeem` and `guessing` would one by one."""

    def __init__(self, redeem: Redeem, guessing: Guessing) -> None:
        self._redeem = redeem
        self._guessing = guessing
        self._waiting: deque[_Group] = deque()
        self._count = 0
        self._at_gate = 0
        self._is_due = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def redeem(self, read: Read) -> Answer:
        """Takes the uses, or says why not. Raises what `read`, `Redeem.redeem` and `Guessing.ask` raise."""
        (answer,) = await self.redeem_each([read])
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def redeem_each(self, reads: Sequence[Read]) -> list[Answer | Exception]:
        """The same of each by itself, or what went wrong with it."""
        if not reads:
            return []
        group = _Group(reads)
        self._waiting.append(group)
        self._count += len(reads)
        self._begin_soon()
        try:
            await group.done
        finally:
            for task in group.alone:
                task.cancel()
        return group.answers

    def _begin_soon(self) -> None:
        if not self._waiting or self._is_due:
            return
        if not self._at_gate or (self._count >= FULL and self._at_gate < MOST_AT_GATE):
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        self._is_due = False
        asked: list[tuple[_Group, int, Ask]] = []
        begun = 0
        while self._waiting and begun < MOST:
            group = self._waiting.popleft()
            self._count -= len(group.reads)
            if group.done.done():  # its caller has gone
                continue
            begun += len(group.reads)
            for place, read in enumerate(group.reads):
                try:
                    asked.append((group, place, read()))
                except Exception as error:  # noqa: BLE001  # whatever it is, it belongs to this request
                    group.tell(place, error)
        together = []
        for group, place, ask in asked:
            ready = self._begun(group, place, ask)
            if ready is None:
                self._go_alone(group, place, ask)
            else:
                together.append(ready)
        if together:
            self._at_gate += 1
            self._keep(self._decide(together))
        self._begin_soon()

    def _begun(self, group: _Group, place: int, ask: Ask) -> _Begun | None:
        """None when it has to go alone."""
        entry = None
        try:
            entry = self._guessing.let_in(*ask)
            if entry is not None and (prepared := self._redeem.prepare(ask.request)) is not None:
                # Last: who is let through may be the one that finds out whether the ledger confirms again.
                self._redeem.check()
                return _Begun(group, place, ask, entry, prepared)
        except Exception:  # noqa: BLE001, S110  # whatever it is, it is told when it goes alone
            pass
        if entry is not None:
            self._guessing.let_out(entry)
        return None

    async def _decide(self, together: Sequence[_Begun]) -> None:
        answers: list[Answer | Exception | None]
        try:
            answers = await self._redeem.redeem_each([begun.prepared for begun in together])
        except Exception as error:  # noqa: BLE001  # whatever it is, nobody may be left waiting
            answers = [error] * len(together)
        self._at_gate -= 1
        for (group, place, ask, entry, _), answer in zip(together, answers, strict=True):
            self._guessing.let_out(entry)
            if group.done.done():  # its caller has gone: nobody is to wait for it
                continue
            if answer is None or (isinstance(answer, Answer) and has_guessed(answer)):
                self._go_alone(group, place, ask)
            elif isinstance(answer, Exception) or self._redeem.is_kept_at_once:
                group.tell(place, answer)
            else:
                group.alone.append(self._keep(self._tell_when_kept(group, place, answer)))
        self._begin_soon()

    async def _tell_when_kept(self, group: _Group, place: int, answer: Answer) -> None:
        try:
            await self._redeem.keep(answer)
        except Exception as error:  # noqa: BLE001  # whatever it is, it belongs to this request
            group.tell(place, error)
        else:
            group.tell(place, answer)

    def _go_alone(self, group: _Group, place: int, ask: Ask) -> None:
        asker, request = ask

        async def answered() -> None:
            answer: Answer | Exception
            try:
                answer = await self._guessing.ask(asker, request, lambda: self._redeem.redeem(request))
            except Exception as error:  # noqa: BLE001  # whatever it is, it belongs to this request
                answer = error
            group.tell(place, answer)

        group.alone.append(self._keep(answered(), group.context))

    def _keep(self, work: Coroutine[Any, Any, None], context: contextvars.Context | None = None) -> asyncio.Task[None]:
        task = asyncio.create_task(work, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class _Group:
    """What one caller asks; `done` is set when all is answered."""

    __slots__ = ("alone", "answers", "context", "done", "left", "reads")

    def __init__(self, reads: Sequence[Read]) -> None:
        self.reads = reads
        self.left = len(reads)
        self.answers: list[Any] = [None] * len(reads)
        self.alone: list[asyncio.Task[None]] = []
        self.context = contextvars.copy_context()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def tell(self, place: int, answer: Answer | Exception) -> None:
        self.answers[place] = answer
        self.left -= 1
        if not self.left and not self.done.done():
            self.done.set_result(None)


class _Begun(NamedTuple):
    """A request that was let through, for the place that it has in its group."""

    group: _Group
    place: int
    ask: Ask
    entry: Entry
    prepared: Prepared
