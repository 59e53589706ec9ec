"""Following campaigns: all who watch the same campaign in this process share one look at it a second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager

from vouchsafe.domain.errors import Overloaded, Unavailable
from vouchsafe.service.campaigns import CampaignStats

INTERVAL_S = 1.0


class Watch:
    """Gives everyone who watches the newest state; there is no queue that a slow reader could let grow."""

    def __init__(self, look: Callable[[str], Awaitable[CampaignStats]], *, max_watchers: int) -> None:
        self._look = look
        self._max_watchers = max_watchers
        self._watchers = 0
        self._watched: dict[str, _Watched] = {}
        self._closed = False

    async def follow(self, campaign_id: str) -> AsyncGenerator[CampaignStats, None]:
        """A campaign's stats as of the last look, and again when something but the clock has changed, at most once a
        second. Ends only by an error: what `look` raises, Overloaded when too many watch, Unavailable after `close`."""
        with self._joined(campaign_id) as watched:
            seen = None
            while True:
                seen = await watched.other_than(seen)
                yield seen
                # Not a sleep, which would go on when there is nothing to wait for any more.
                await asyncio.wait([watched.ended], timeout=INTERVAL_S)

    def close(self) -> None:
        """Ends all that is followed."""
        self._closed = True
        for watched in self._watched.values():
            watched.end(_closing())

    @contextmanager
    def _joined(self, campaign_id: str) -> Iterator[_Watched]:
        """The campaign's looks, which go on for as long as somebody has joined."""
        if self._closed:
            raise _closing()
        if self._watchers >= self._max_watchers:
            raise Overloaded(f"{self._watchers} callers are watching campaigns already")
        watched = self._watched.get(campaign_id)
        if watched is None or watched.ended.done():
            watched = self._watched[campaign_id] = _Watched(lambda: self._look(campaign_id))
        self._watchers += 1
        watched.watchers += 1
        try:
            yield watched
        finally:
            self._watchers -= 1
            watched.watchers -= 1
            if not watched.watchers:
                watched.stop()
                # After an error another may have taken its place.
                if self._watched.get(campaign_id) is watched:
                    del self._watched[campaign_id]


class _Watched:
    """One campaign, looked at until it is stopped or a look fails."""

    def __init__(self, look: Callable[[], Awaitable[CampaignStats]]) -> None:
        self.watchers = 0
        # Fails with what the watchers are to be told.
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._newest: CampaignStats | None = None
        self._changed = asyncio.Event()
        self._looking = asyncio.create_task(self._keep_looking(look))

    async def other_than(self, seen: CampaignStats | None) -> CampaignStats:
        """The newest state, as soon as it shows something else than `seen`. Raises what ended the looks."""
        while True:
            if self.ended.done():
                self.ended.result()
            if self._newest is not None and _differ(self._newest, seen):
                return self._newest
            await self._changed.wait()

    def end(self, error: Exception) -> None:
        """Tells the watchers why no state comes any more."""
        if self.ended.done():
            return
        self.ended.set_exception(error)
        self.ended.exception()  # the last watcher may be leaving: nobody has to ask
        self._changed.set()

    def stop(self) -> None:
        """No look comes any more."""
        self._looking.cancel()

    async def _keep_looking(self, look: Callable[[], Awaitable[CampaignStats]]) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            try:
                stats = await look()
            except Exception as error:  # noqa: BLE001  # whatever it is, it is the watchers' to hear
                self.end(error)
                return
            before, self._newest = self._newest, stats
            if _differ(stats, before):
                self._changed.set()
                self._changed = asyncio.Event()
            # A look that costs the stores much comes less often: never more than a tenth of the time.
            await asyncio.sleep(max(INTERVAL_S, 9 * (clock() - began)))


def _differ(stats: CampaignStats, other: CampaignStats | None) -> bool:
    """Whether they show anything else but the time."""
    return other is None or _shown(stats) != _shown(other)


def _shown(stats: CampaignStats) -> tuple[object, ...]:
    status = stats.status
    redeemed = (status.redeemed_count, status.discount_minor, status.customer_count)
    return status.state, redeemed, status.held_count, status.held_minor, stats.ledger


def _closing() -> Unavailable:
    return Unavailable("the server is shutting down; connect again")
