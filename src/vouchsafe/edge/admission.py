"""Who is taken on while more come than can be answered: the rest is asked to come back, before it costs anything.

Two bounds, each by what the worker does and not by a guess of what it could:

- Requests under way. Their number may grow while they take no longer than `max_wait_ms` on the average of a tenth of a
  second, and shrinks by a fifth while they do (additive increase, multiplicative decrease). It never falls below what
  one exchange with the gate carries, so that a slow gate still gets full batches.
- The wait for the worker, which a probe tells (`edge.probe`). When it is too long twice in a row, so that it is no
  burst that passes, every other call is refused until the wait is half as long. Not more: in Python a refusal costs a
  quarter of a redemption, so a worker that refused all that it cannot do would do little else. Where that is not
  enough, gRPC drops calls before Python takes them over (`edge.server`). That costs something, too, so the more probes
  are dropped, the fewer calls are refused here: down to one of eight.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from vouchsafe.domain.errors import Overloaded

# Of how many calls one is refused; twice as many with each probe that is dropped, and one less for so many
# that arrive.
FEWEST, MOST = 2, 8
ARRIVED_PROBES = 4
LEAST_ITEMS = 128
STEP_ITEMS = 32
LESS = 0.8
WINDOW_S = 0.1
# What a caller is asked to wait: twice as long as the queue is, but neither no time nor forever.
SHORTEST_RETRY_MS, LONGEST_RETRY_MS = 250, 1_000
WARNING_INTERVAL_S = 60.0

log = structlog.get_logger()


class Admission:
    """Counts what is under way in this worker. An item is one request to redeem, to reserve or to validate, whichever
    call brought it; `max_items` is the most that are taken on at once, however fast they are answered."""

    def __init__(self, max_items: int, max_wait_ms: int, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._max_items = max_items
        self._least_items = min(LEAST_ITEMS, max_items)
        self._max_wait_s = max_wait_ms / 1_000
        self._clock_s = clock_s
        self.limit = float(max_items)
        self.under_way = 0
        self.admitted = 0
        self.refused = 0
        self.wait_s = 0.0
        self.is_overloaded = False
        self._too_long = 0  # probes in a row
        self._one_of = float(FEWEST)
        self._turn = 0
        self._most = 0
        self._sum_s = 0.0
        self._done = 0
        self._window_end = clock_s() + WINDOW_S
        self._warn_at = clock_s()

    def enter(self) -> float:
        """Takes one on and answers when, for `leave`. Raises Overloaded; nothing is to be left then."""
        entered_s, taken = self.enter_some(1)
        if not taken:
            raise self.refusal()
        return entered_s

    def enter_some(self, count: int) -> tuple[float, int]:
        """Takes on as many of so many as may be; answers when, for `leave`, and how many. The others are to be told the
        `refusal`."""
        taken = min(count, max(0, int(self.limit) - self.under_way))
        if self.is_overloaded:
            taken -= sum([self._is_turned_away() for _ in range(taken)])
        self.under_way += taken
        self._most = max(self._most, self.under_way)
        self.admitted += taken
        self.refused += count - taken
        return self._clock_s(), taken

    def refusal(self) -> Overloaded:
        """What to tell those who are not taken on."""
        if self.under_way + 1 > self.limit:
            why = f"{self.under_way} requests are under way already"
        else:
            why = f"calls have waited {self.wait_s * 1_000:.0f} ms for it"
        retry_ms = min(LONGEST_RETRY_MS, max(SHORTEST_RETRY_MS, round(self.wait_s * 20) * 100))
        return Overloaded(f"the server has too much to do: {why}; come back in {retry_ms} ms", retry_ms)

    def leave(self, entered_s: float, count: int = 1) -> None:
        """So many are answered, or their caller has gone. `entered_s` is what `enter` answered."""
        self.under_way -= count
        now_s = self._clock_s()
        self._sum_s += (now_s - entered_s) * count
        self._done += count
        if now_s >= self._window_end:
            self._adapt()
            self._window_end = now_s + WINDOW_S

    def note_wait(self, wait_s: float | None) -> None:
        """What a probe has found; None when it was dropped on its way, so that there is no room to wait."""
        if wait_s is None:
            self.wait_s = max(self.wait_s, self._max_wait_s)
            self._one_of = min(MOST, self._one_of * 2)
            self._begin()
            return
        self.wait_s = wait_s
        self._one_of = max(FEWEST, self._one_of - 1 / ARRIVED_PROBES)
        self._too_long = self._too_long + 1 if wait_s > self._max_wait_s else 0
        if self._too_long > 1:
            self._begin()
        elif wait_s <= self._max_wait_s / 2:
            self.is_overloaded = False

    def _begin(self) -> None:
        self.is_overloaded = True
        now_s = self._clock_s()
        if now_s >= self._warn_at:
            self._warn_at = now_s + WARNING_INTERVAL_S
            log.warning("more come than can be answered: some are refused", wait_ms=round(self.wait_s * 1_000))

    def _adapt(self) -> None:
        if self._sum_s / self._done > self._max_wait_s:
            # From what there was: a limit that was never reached bounds nothing.
            self.limit = max(self._least_items, min(self.limit, self._most) * LESS)
        elif self._most * 2 > self.limit:
            self.limit = min(self._max_items, self.limit + STEP_ITEMS)
        self._sum_s, self._done, self._most = 0.0, 0, self.under_way

    def _is_turned_away(self) -> bool:
        self._turn = (self._turn + 1) % round(self._one_of)
        return self._turn == 1
