"""Who is let through to a look-up: never more codes of a bucket at the same time than it has tokens, so that what comes
of them is counted before the next.

This is what one worker knows: what the store has told it of buckets, and what is under way here. It costs no round
trip.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from vouchsafe.domain.errors import Overloaded, Throttled
from vouchsafe.domain.guessing import Bucket, Debts, Kind, Rate

KNOWN_BUCKETS = 20_000


class Turnstile:
    """`now_ms` is the gate's clock; `max_waiting` bounds how many calls wait here."""

    def __init__(self, rates: Mapping[Kind, Rate], now_ms: Callable[[], int], max_waiting: int) -> None:
        self._rates = rates
        self._now_ms = now_ms
        self._max_waiting = max_waiting
        self._waiting = 0
        self._debts = Debts[Bucket](KNOWN_BUCKETS)
        self._crowds: dict[Bucket, _Crowd] = {}

    async def enter(self, buckets: Sequence[Bucket], count: int) -> None:
        """Returns when `count` codes may be looked up; `leave` has to follow. Raises Throttled when one of the buckets
        has not as many tokens, Overloaded when too many calls wait."""
        for place, bucket in enumerate(buckets):
            try:
                await self._enter(bucket, count)
            except BaseException:
                self.leave(buckets[:place], count)
                raise

    def let_in(self, buckets: Sequence[Bucket], count: int) -> bool:
        """As `enter`, for those who need not wait: False when they do, or have not as many tokens."""
        for place, bucket in enumerate(buckets):
            if not self._let_in(bucket, count, self._left(bucket)):
                self.leave(buckets[:place], count)
                return False
        return True

    def leave(self, buckets: Sequence[Bucket], count: int) -> None:
        """What came of the codes is known, and noted."""
        for bucket in buckets:
            crowd = self._crowds[bucket]
            crowd.running -= count
            self._admit(bucket, crowd)
            if not crowd.running and not crowd.waiting:
                del self._crowds[bucket]

    def note(self, bucket: Bucket, full_ms: int) -> None:
        """The store has said when the bucket is full again."""
        self._debts.note(bucket, full_ms)

    def throttled(self, bucket: Bucket, count: int) -> Throttled:
        """What to raise while the bucket has not as many tokens."""
        wait_ms = self._rates[bucket.kind].wait_ms(self._debts.full_ms(bucket), self._now_ms(), count)
        return Throttled("codes", max(1, wait_ms), bucket.kind)

    async def _enter(self, bucket: Bucket, count: int) -> None:
        left = self._left(bucket)
        if self._let_in(bucket, count, left):
            return
        if left < count:
            raise self.throttled(bucket, count)
        crowd = self._crowds[bucket]  # somebody is ahead
        if self._waiting >= self._max_waiting:
            raise Overloaded(f"{self._waiting} calls wait for others of the same shopper already")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        crowd.waiting.append((count, future))
        self._waiting += 1
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.leave([bucket], count)  # let in, and gone at the same moment
            raise
        finally:
            self._waiting -= 1

    def _let_in(self, bucket: Bucket, count: int, left: int) -> bool:
        crowd = self._crowds.get(bucket)
        running = 0 if crowd is None else crowd.running
        if running + count > left or (crowd is not None and crowd.waiting):
            return False
        if crowd is None:
            crowd = self._crowds[bucket] = _Crowd()
        crowd.running += count
        return True

    def _admit(self, bucket: Bucket, crowd: _Crowd) -> None:
        """Lets in who waits, in the order in which they came; who has not enough tokens any more is sent away."""
        left = self._left(bucket)
        while crowd.waiting:
            count, future = crowd.waiting[0]
            if not future.done():
                if left < count:
                    future.set_exception(self.throttled(bucket, count))
                elif crowd.running + count > left:
                    return
                else:
                    crowd.running += count
                    future.set_result(None)
            crowd.waiting.popleft()

    def _left(self, bucket: Bucket) -> int:
        return self._rates[bucket.kind].left(self._debts.full_ms(bucket), self._now_ms())


class _Crowd:
    """The codes of a bucket that are being looked up, and the calls that wait until fewer are."""

    __slots__ = ("running", "waiting")

    def __init__(self) -> None:
        self.running = 0
        self.waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
