"""Waiting until PostgreSQL has committed what was decided: the contract `ledger`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

from vouchsafe.domain.errors import Overloaded, Unavailable
from vouchsafe.domain.reasons import Refusal
from vouchsafe.domain.redemption import STREAM_START, Position, StreamId
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.service.persist import Outages
from vouchsafe.settings import Settings

# How often PostgreSQL is asked while somebody waits, and while it is away or confirms nothing.
POLL_S = 0.003
RETRY_S = 0.1


class Decided(Protocol):
    """What was decided by an event."""

    @property
    def position(self) -> Position:
        """Where its event lies."""


class Committed:
    """One question to PostgreSQL answers all who wait; while nobody does, none is asked. `is_asked_for`: this is the
    contract."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger = ledger
        self.is_asked_for = settings.acknowledge == "ledger"
        self._timeout_s = settings.ledger_timeout_ms / 1000
        self._max_waiting = settings.max_waiting
        self._waiting: dict[asyncio.Future[None], frozenset[Position]] = {}
        # How far the ledger had come in each partition, by epoch: what it held then it holds for ever.
        self._seen: dict[int, tuple[int, StreamId]] = {}
        # Whether nothing at all is confirmed; when to try that again and when something was, by the loop's clock.
        self._is_stalled = False
        self._next_try = 0.0
        self._last_success = 0.0
        self._polling: asyncio.Task[None] | None = None
        self._outages = Outages("acknowledgements")

    def check(self) -> None:
        """To be asked before anything is decided that would then wait: what nobody would be told of is better not
        taken. While PostgreSQL confirms nothing, one now and then finds out whether it does again. Raises Unavailable
        for the others, and Overloaded when too many wait."""
        if self._is_stalled:
            now = asyncio.get_running_loop().time()
            if now < self._next_try:
                raise Unavailable("PostgreSQL confirms nothing at the moment; repeat with the same request id")
            self._next_try = now + RETRY_S
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded(f"{len(self._waiting)} calls are waiting for PostgreSQL already")

    async def wait(self, outcome: Decided | Refusal) -> None:
        """Returns once the ledger holds the event of an outcome; at once for a refusal, which has none, and under
        another contract. Raises Unavailable when that takes too long; what was decided stands."""
        if not isinstance(outcome, Refusal):
            await self.wait_for([outcome.position])

    async def wait_for(self, positions: Iterable[Position]) -> None:
        """As `wait`, for events at several places."""
        asked = frozenset(positions)
        if not self.is_asked_for or all(map(self._is_known, asked)):
            return
        loop = asyncio.get_running_loop()
        began = loop.time()
        committed: asyncio.Future[None] = loop.create_future()
        self._waiting[committed] = asked
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll(), name="committed")
        try:
            async with asyncio.timeout(self._timeout_s):
                await committed
            self._is_stalled, self._last_success = False, loop.time()
        except TimeoutError:
            # It may be this partition alone, which is nobody else's fault.
            self._is_stalled |= self._last_success < began
            raise Unavailable(
                "PostgreSQL has not confirmed in time; the outcome is recorded: repeat with the same request id"
            ) from None
        finally:
            del self._waiting[committed]

    async def _poll(self) -> None:
        while self._waiting:
            try:
                held = await self._held(frozenset().union(*self._waiting.values()))
            except Unavailable as error:
                # Those who wait are told when their time is over.
                self._is_stalled = True
                self._outages.begin("offsets", error)
                await asyncio.sleep(RETRY_S)
                continue
            self._outages.end("offsets")
            for committed, positions in self._waiting.items():
                if positions <= held and not committed.done():
                    committed.set_result(None)
            await asyncio.sleep(POLL_S)

    def _is_known(self, position: Position) -> bool:
        epoch, offset = self._seen.get(position.partition, (0, STREAM_START))
        return position.epoch == epoch and position.stream_id <= offset

    async def _held(self, positions: Iterable[Position]) -> set[Position]:
        """Which of them the ledger holds."""
        installation = await self._ledger.installation()
        assert installation is not None  # this process has bootstrapped it
        self._seen = {one.partition: (one.epoch, one.offset) for one in installation.partitions}
        held: set[Position] = set()
        earlier: list[Position] = []
        for position in positions:
            state = installation.partitions[position.partition]
            if position.epoch < state.epoch:
                # Something of it may be lost: how far the ledger has come says nothing of it.
                earlier.append(position)
            elif position.epoch == state.epoch and position.stream_id <= state.offset:
                held.add(position)
        return held | (await self._ledger.which_events(earlier) if earlier else set())
