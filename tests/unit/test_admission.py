"""Who is taken on, by a clock that the test moves."""

from __future__ import annotations

import pytest

from vouchsafe.domain.errors import Overloaded
from vouchsafe.edge.admission import Admission

MAX_WAIT_MS = 100
SHORT_S, LONG_S, TOO_LONG_S = 0.04, 0.08, 0.2


class Clock:
    """Seconds."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def refused(admission: Admission, calls: int) -> list[int]:
    """Which of so many calls, one after the other, are not taken on."""
    found = []
    for number in range(calls):
        try:
            admission.leave(admission.enter())
        except Overloaded:
            found.append(number)
    return found


def round_of(admission: Admission, clock: Clock, items: int, took_s: float) -> int:
    """So many items that come together and take so long; how many of them are taken on."""
    entered = []
    for _ in range(items):
        try:
            entered.append(admission.enter())
        except Overloaded:
            break
    clock.now_s += took_s
    for entered_s in entered:
        admission.leave(entered_s)
    return len(entered)


def test_no_more_are_under_way_than_may_be(clock: Clock) -> None:
    admission = Admission(10, MAX_WAIT_MS, clock)
    entered = [admission.enter() for _ in range(10)]
    with pytest.raises(Overloaded, match="10 requests are under way") as caught:
        admission.enter()
    assert caught.value.retry_ms == 250
    admission.leave(entered.pop())
    entered.append(admission.enter())
    with pytest.raises(Overloaded):
        admission.enter()
    assert (admission.under_way, admission.admitted, admission.refused) == (10, 11, 2)


def test_of_many_that_come_together_as_many_as_there_is_room_for(clock: Clock) -> None:
    admission = Admission(10, MAX_WAIT_MS, clock)
    entered_s, taken = admission.enter_some(64)
    assert (taken, admission.under_way, admission.refused) == (10, 10, 54)
    assert admission.enter_some(64) == (0.0, 0)
    assert "10 requests are under way" in str(admission.refusal())
    clock.now_s += SHORT_S
    admission.leave(entered_s, taken)
    assert admission.enter_some(7)[1] == 7
    assert (admission.under_way, admission.admitted, admission.refused) == (7, 17, 118)


def test_many_that_come_together_are_turned_away_as_one_by_one(clock: Clock) -> None:
    together, alone = (Admission(1_000, MAX_WAIT_MS, clock) for _ in range(2))
    for wait_s in (None, TOO_LONG_S, None, SHORT_S, TOO_LONG_S, TOO_LONG_S):
        for admission in (together, alone):
            admission.note_wait(wait_s)
        _, taken = together.enter_some(50)
        together.leave(0.0, taken)
        assert taken == 50 - len(refused(alone, 50))
    assert 0 < together.refused == alone.refused


def test_a_burst_that_passes_is_no_overload(clock: Clock) -> None:
    admission = Admission(10, MAX_WAIT_MS, clock)
    for wait_s in (TOO_LONG_S, LONG_S, TOO_LONG_S, SHORT_S):
        admission.note_wait(wait_s)
        assert refused(admission, 10) == []


def test_while_calls_wait_too_long_every_other_is_refused_until_the_wait_is_half_as_long(clock: Clock) -> None:
    admission = Admission(10, MAX_WAIT_MS, clock)
    admission.note_wait(TOO_LONG_S)
    admission.note_wait(TOO_LONG_S)
    assert refused(admission, 10) == [0, 2, 4, 6, 8]
    admission.note_wait(LONG_S)
    assert refused(admission, 10) == [0, 2, 4, 6, 8]
    admission.note_wait(SHORT_S)
    assert refused(admission, 10) == []


def test_who_is_refused_is_told_to_come_back_after_twice_the_wait(clock: Clock) -> None:
    admission = Admission(10, MAX_WAIT_MS, clock)
    for wait_s, retry_ms in ((0.11, 250), (TOO_LONG_S, 400), (5.0, 1_000)):
        admission.note_wait(wait_s)
        admission.note_wait(wait_s)
        with pytest.raises(Overloaded) as caught:
            [admission.enter() for _ in range(2)]
        assert caught.value.retry_ms == retry_ms


def test_the_more_are_dropped_the_fewer_are_refused(clock: Clock) -> None:
    admission = Admission(10, MAX_WAIT_MS, clock)
    admission.note_wait(None)
    assert len(refused(admission, 24)) == 6
    for _ in range(20):
        admission.note_wait(None)
    assert len(refused(admission, 24)) == 3
    for _ in range(24):
        admission.note_wait(LONG_S)
    assert len(refused(admission, 24)) == 12


def test_fewer_are_taken_on_while_they_take_too_long_and_more_when_they_do_not(clock: Clock) -> None:
    admission = Admission(10_000, MAX_WAIT_MS, clock)
    assert round_of(admission, clock, 1_000, TOO_LONG_S) == 1_000
    taken = [round_of(admission, clock, 1_000, TOO_LONG_S) for _ in range(20)]
    assert taken[:2] == [800, 640]
    assert taken == sorted(taken, reverse=True)
    assert taken[-1] == 128
    taken = [round_of(admission, clock, 1_000, SHORT_S) for _ in range(100)]
    assert taken == sorted(taken)
    assert taken[-1] == 1_000


def test_who_brings_little_is_not_limited_by_a_slow_moment(clock: Clock) -> None:
    admission = Admission(10_000, MAX_WAIT_MS, clock)
    round_of(admission, clock, 3, 10 * TOO_LONG_S)
    assert admission.limit == 128
