"""When a campaign is open: weekly windows and recurrences, minus blackouts, on the wall clock of a time zone.

Moments are milliseconds since 1970 UTC, spans are half-open: [start, end). Campaigns live in the years 2000 to 2200.

Every bound is a wall-clock time. A window opens at the first moment at which the clock shows its start or later, and it
closes when the clock shows earlier than its end for the last time. In Europe/Berlin, 18:00 stays 18:00 all year;
02:00-03:00 never comes on the day in spring on which that hour is skipped, and lasts two hours on the day in autumn on
which it is repeated. A bound in an hour that is skipped is the moment right after the gap.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from calendar import isleap, monthrange
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import cache
from importlib import resources
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import msgspec

from vouchsafe.domain.errors import Violation

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEARS = range(2000, 2201)
_DAY_MS = 86_400_000
_YEAR_MS = 366 * _DAY_MS
_MIN_MS, _SEARCH_MS, _MAX_MS = (
    (datetime(year, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1) for year in (2000, 2026, _YEARS.stop)
)
_MIN_DURATION_MS, _MAX_DURATION_MS = 60_000, 366 * _DAY_MS
_CHUNK_MS, _MAX_CHUNKS = 400 * _DAY_MS, 4
_UNBOUNDED_MS = 2**53
_DATE, _TIME = "YYYY-MM-DD", "YYYY-MM-DDTHH:MM"


class Weekday(StrEnum):
    """Days of the week, in the order of `date.weekday()`. The first two letters are the names of RFC 5545."""

    MONDAY = "MONDAY"
    TUESDAY = "TUESDAY"
    WEDNESDAY = "WEDNESDAY"
    THURSDAY = "THURSDAY"
    FRIDAY = "FRIDAY"
    SATURDAY = "SATURDAY"
    SUNDAY = "SUNDAY"


class WeeklyWindow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From `start_time` ("HH:MM", 00:00 to 23:59) to `end_time` (00:01 to 24:00) on these weekdays; none: on every day.

    An end that is not after the start is on the next day: 22:00 to 02:00 on FRIDAY ends on Saturday. Equal times make
    24 hours.
    """

    weekdays: tuple[Weekday, ...] = ()
    start_time: str
    end_time: str


class Recurrence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Windows of `duration_ms` on the wall clock, which start as an RFC 5545 recurrence rule says (section 3.3.10).

    `rrule` is a rule of days: FREQ, INTERVAL, BYDAY, BYMONTHDAY, BYMONTH, BYSETPOS, COUNT, UNTIL (a local date,
    inclusive) and WKST. `first_start` (local, _TIME) is its DTSTART and the time of day of every start; a
    first start that does not match the rule is none.
    """

    rrule: str
    first_start: str
    duration_ms: int


class Blackout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Local days ("YYYY-MM-DD", both inclusive) on which the campaign is closed."""

    first_date: str
    last_date: str


class Schedule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Open in any window of either kind, always when there is none of both, and never during a blackout.

    `time_zone` is a name of the IANA time zone database.
    """

    time_zone: str = "UTC"
    weekly: tuple[WeeklyWindow, ...] = ()
    recurrences: tuple[Recurrence, ...] = ()
    blackouts: tuple[Blackout, ...] = ()


class Span(NamedTuple):
    """Whether a campaign is open, the span [from_ms, until_ms) in which this holds at least, and, when it is closed,
    when it opens next. None for `next_open_ms`: never, or not within five years.
    """

    open: bool
    from_ms: int
    until_ms: int
    next_open_ms: int | None


_ALWAYS = Span(True, 0, _UNBOUNDED_MS, None)


def check(schedule: Schedule) -> list[Violation]:
    """Everything that is wrong with a schedule, with paths of fields relative to it. What else this module offers is
    for schedules with which nothing is wrong, and may raise ValueError on others."""
    violations = []
    if schedule.time_zone not in _zone_names():
        text = "is no time zone; give a name of the IANA database, such as Europe/Berlin or UTC"
        violations.append(Violation("time_zone", text))
    lists: tuple[tuple[str, tuple[Any, ...], int, Callable[[Any], Iterator[tuple[str, str]]]], ...] = (
        ("weekly", schedule.weekly, 50, _check_window),
        ("recurrences", schedule.recurrences, 20, _check_recurrence),
        ("blackouts", schedule.blackouts, 200, _check_blackout),
    )
    for name, values, most, check_one in lists:
        if len(values) > most:
            violations.append(Violation(name, f"has {len(values)} entries; at most {most} are accepted"))
        for i, value in enumerate(values[:most]):
            violations += [Violation(f"{name}[{i}].{field}", text) for field, text in check_one(value)]
    return violations


@cache
def _zone_names() -> frozenset[str]:
    # ZoneInfo would open whatever file a name leads to, and "right/..." counts leap seconds; this is the list of IANA.
    return frozenset(resources.files("tzdata").joinpath("zones").read_text("ascii").split())


def _check_window(window: WeeklyWindow) -> Iterator[tuple[str, str]]:
    if len(set(window.weekdays)) < len(window.weekdays):
        yield "weekdays", "names a day twice; give each day once, or none for every day"
    if not re.fullmatch("([01][0-9]|2[0-3]):[0-5][0-9]", window.start_time):
        yield "start_time", "is no time of day; give HH:MM from 00:00 to 23:59"
    if not re.fullmatch("(?!00:00)([01][0-9]|2[0-3]):[0-5][0-9]|24:00", window.end_time):
        yield "end_time", "is no end of a window; give HH:MM from 00:01 to 24:00"


def _check_recurrence(recurrence: Recurrence) -> Iterator[tuple[str, str]]:
    try:
        _parts(recurrence.rrule)
    except ValueError as error:
        yield "rrule", str(error)
    try:
        _local(recurrence.first_start, _TIME)
    except ValueError as error:
        yield "first_start", str(error)
    # None where a message lacks it.
    if recurrence.duration_ms is None or not _MIN_DURATION_MS <= recurrence.duration_ms <= _MAX_DURATION_MS:
        yield "duration", "is out of bounds; give a minute to 366 days"


def _check_blackout(blackout: Blackout) -> Iterator[tuple[str, str]]:
    days = []
    for field, text in ("first_date", blackout.first_date), ("last_date", blackout.last_date):
        try:
            days.append(_local(text, _DATE))
        except ValueError as error:
            yield field, str(error)
    if len(days) == 2 and days[1] < days[0]:
        yield "last_date", "is before first_date; give the same day or a later one"


def _local(text: str, form: str) -> datetime:
    """Reads a day or a time of a day written like "YYYY-MM-DDTHH:MM". Raises ValueError."""
    if re.fullmatch(re.sub("[YMDH]", "[0-9]", form), text) and int(text[:4]) in _YEARS:
        with suppress(ValueError):
            return datetime.fromisoformat(text)
    raise ValueError(f"{text[:20]!r} does not exist; give {form}, local, in the years 2000 to 2200")


# Each part of a rule that is accepted: how an item of it is written, and the same for people.
_DAY = "(MO|TU|WE|TH|FR|SA|SU)"
_PARTS: Mapping[str, tuple[str, str]] = {
    "FREQ": ("DAILY|WEEKLY|MONTHLY|YEARLY", "DAILY, WEEKLY, MONTHLY or YEARLY"),
    "INTERVAL": ("[1-9][0-9]{0,2}|1000", "1 to 1000"),
    "BYDAY": (f"([+-]?(0?[1-9]|[1-4][0-9]|5[0-3]))?{_DAY}", "MO to SU, with MONTHLY or YEARLY also as 1MO or -1FR"),
    "BYMONTHDAY": ("[+-]?(0?[1-9]|[12][0-9]|3[01])", "1 to 31 or -31 to -1, not with WEEKLY"),
    "BYMONTH": ("0?[1-9]|1[0-2]", "1 to 12"),
    "BYSETPOS": ("[+-]?([1-9][0-9]?|[12][0-9]{2}|3[0-5][0-9]|36[0-6])", "1 to 366 or -366 to -1, with another BY part"),
    "COUNT": ("[1-9][0-9]{0,3}|10000", "1 to 10000"),
    "UNTIL": ("[0-9]{8}", "a local date YYYYMMDD, not with COUNT"),
    "WKST": (_DAY, "MO to SU"),
}
_LETTERS = [weekday[:2] for weekday in Weekday]
_DAYS, _MONTHS = {"DAILY": 1, "WEEKLY": 7}, {"MONTHLY": 1, "YEARLY": 12}
_LISTS = frozenset({"BYDAY", "BYMONTHDAY", "BYMONTH", "BYSETPOS"})


def _parts(rrule: str) -> dict[str, list[str]]:
    """The items of each part of a rule. Raises ValueError."""
    if len(rrule) > 1000:
        raise ValueError("is too long; at most 1000 characters are accepted")
    parts: dict[str, list[str]] = {}
    for part in rrule.split(";"):
        name, _, value = part.partition("=")
        if name not in _PARTS or name in parts:
            known = ", ".join(f"{name} ({accepted})" for name, (_, accepted) in _PARTS.items())
            raise ValueError(f"takes NAME=VALUE separated by semicolons, each name once, of these: {known}")
        parts[name] = value.split(",") if name in _LISTS else [value]
        if not all(re.fullmatch(_PARTS[name][0], item) for item in parts[name]):
            raise ValueError(f"{name} takes {_PARTS[name][1]}")
    if "FREQ" not in parts:
        raise ValueError(f"needs FREQ: {_PARTS['FREQ'][1]}")
    by_days_only = parts["FREQ"][0] in ("DAILY", "WEEKLY")
    for name, refused in (
        ("BYDAY", by_days_only and any(len(day) > 2 for day in parts.get("BYDAY", ()))),
        ("BYMONTHDAY", parts["FREQ"] == ["WEEKLY"]),
        ("BYSETPOS", parts.keys().isdisjoint(_LISTS - {"BYSETPOS"})),
        ("UNTIL", "COUNT" in parts),
    ):
        if name in parts and refused:
            raise ValueError(f"{name} takes {_PARTS[name][1]}")
    _local(parts.get("UNTIL", ["22001231"])[0], "YYYYMMDD")
    return parts


class _Rule:
    """A recurrence rule and its first day. `by_day` holds (ordinal or 0, weekday)."""

    def __init__(self, rrule: str, first: date) -> None:
        parts = _parts(rrule)
        self.first, self.freq = first, parts["FREQ"][0]
        if parts.keys().isdisjoint({"BYDAY", "BYMONTHDAY"}):
            if self.freq == "WEEKLY":
                parts["BYDAY"] = [_LETTERS[first.weekday()]]
            elif self.freq != "DAILY":
                parts["BYMONTHDAY"] = [str(first.day)]
            if self.freq == "YEARLY":
                parts.setdefault("BYMONTH", [str(first.month)])
        self.by_day = {(int(day[:-2] or 0), _LETTERS.index(day[-2:])) for day in parts.get("BYDAY", ())}
        self.by_month_day, self.by_month, self.by_set_pos = (
            {int(item) for item in parts.get(name, ())} for name in ("BYMONTHDAY", "BYMONTH", "BYSETPOS")
        )
        self.interval, self.count = (int(parts.get(name, ["1"])[0]) for name in ("INTERVAL", "COUNT"))
        self.counts = "COUNT" in parts
        self.until = _local(parts.get("UNTIL", ["22001231"])[0], "YYYYMMDD").date()
        self.week_start = _LETTERS.index(parts.get("WKST", ["MO"])[0])

    def starts(self, low: date, high: date) -> Iterator[date]:
        """The days from low to high on which the rule starts something, in order."""
        low, high = max(low, self.first), min(high, self.until)
        if not self.counts:
            return self._days(low, high)
        return (day for day in islice(self._days(self.first, high), self.count) if day >= low)

    def _days(self, low: date, high: date) -> Iterator[date]:
        wanted = self._period(low)
        aligned = wanted + (self._period(self.first) - wanted) % self.interval
        for period in range(aligned, self._period(high) + 1, self.interval):
            ordinals = range(self._begin(period), self._begin(period + 1))
            days = [day for day in map(date.fromordinal, ordinals) if self._matches(day)]
            if self.by_set_pos:
                days = sorted({days[pos - (pos > 0)] for pos in self.by_set_pos if abs(pos) <= len(days)})
            yield from (day for day in days if low <= day <= high)

    def _period(self, day: date) -> int:
        """The number of the day, week, month or year that a day is in: in each kind one more than the one before."""
        if self.freq in _MONTHS:
            return (day.year * 12 + day.month - 1) // _MONTHS[self.freq]
        return (day.toordinal() - 1 - self.week_start) // _DAYS[self.freq]

    def _begin(self, period: int) -> int:
        """The ordinal of the first day of a period."""
        if self.freq in _MONTHS:
            year, month = divmod(period * _MONTHS[self.freq], 12)
            return date(year, month + 1, 1).toordinal()
        return period * _DAYS[self.freq] + 1 + self.week_start

    def _matches(self, day: date) -> bool:
        if self.by_month and day.month not in self.by_month:
            return False
        index, length = day.day - 1, monthrange(day.year, day.month)[1]
        if self.by_month_day and self.by_month_day.isdisjoint((index + 1, index - length)):
            return False
        if self.freq == "YEARLY" and not self.by_month:
            index, length = day.timetuple().tm_yday - 1, 365 + isleap(day.year)
        ordinals = (0, index // 7 + 1, (index - length) // 7)
        return not self.by_day or any((ordinal, day.weekday()) in self.by_day for ordinal in ordinals)


_Point = TypeVar("_Point", int, datetime)


def _union(spans: Iterable[tuple[_Point, _Point]]) -> list[tuple[_Point, _Point]]:
    """The same points as sorted spans that neither overlap nor touch; spans without a point are dropped."""
    merged: list[tuple[_Point, _Point]] = []
    for start, end in sorted(span for span in spans if span[0] < span[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _gaps(spans: Iterable[tuple[int, int]], from_ms: int, to_ms: int) -> list[tuple[int, int]]:
    """What any spans leave of [from_ms, to_ms)."""
    inside = _union((max(start, from_ms), min(end, to_ms)) for start, end in spans)
    edges = [from_ms, *chain.from_iterable(inside), to_ms]
    return [(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if start < end]


def _wall(zone: ZoneInfo, at_ms: int) -> datetime:
    return (_EPOCH + timedelta(milliseconds=at_ms)).astimezone(zone).replace(tzinfo=None)


def _moment(zone: ZoneInfo, wall: datetime, *, last: bool) -> int:
    """When the clock reaches a wall time, for the first or for the last time."""
    before, after = ((wall.replace(tzinfo=zone, fold=fold) - _EPOCH) // timedelta(milliseconds=1) for fold in (0, 1))
    if before > after:  # the time is skipped: PEP 495 puts the gap's end between the two
        return after + bisect_left(range(after, before), True, key=lambda at_ms: _wall(zone, at_ms) >= wall)
    # A clock that is set back to exactly this time does not get to it from below.
    return after if last and _wall(zone, after - 1) < wall else before


def _weekly_walls(schedule: Schedule, low: date, high: date) -> Iterator[tuple[datetime, datetime]]:
    by_weekday = [
        _union(_minutes(window) for window in schedule.weekly if not window.weekdays or weekday in window.weekdays)
        for weekday in Weekday
    ]
    for day in map(date.fromordinal, range(low.toordinal(), high.toordinal() + 1)):
        midnight = datetime.combine(day, time())
        for start, end in by_weekday[day.weekday()]:
            yield midnight + timedelta(minutes=start), midnight + timedelta(minutes=end)


def _minutes(window: WeeklyWindow) -> tuple[int, int]:
    start, end = (int(text[:2]) * 60 + int(text[3:]) for text in (window.start_time, window.end_time))
    return start, end if end > start else end + 24 * 60


def _recurrence_walls(recurrence: Recurrence, low: date, high: date) -> Iterator[tuple[datetime, datetime]]:
    first = _local(recurrence.first_start, _TIME)
    length = timedelta(milliseconds=recurrence.duration_ms)
    for day in _Rule(recurrence.rrule, first.date()).starts(low - length, high):
        start = datetime.combine(day, first.time())
        yield start, start + length


def intervals(schedule: Schedule, from_ms: int, to_ms: int) -> list[tuple[int, int]]:
    """When the schedule is open within [from_ms, to_ms): sorted spans that neither overlap nor touch.

    Nothing is open outside of the years 2000 to 2200.
    """
    from_ms, to_ms = max(from_ms, _MIN_MS), min(to_ms, _MAX_MS)
    if from_ms >= to_ms:
        return []
    zone = ZoneInfo(schedule.time_zone)
    # A window on a day before reaches into the span, and a change of the zone moves the clock by up to a day.
    margin = timedelta(days=2)
    low, high = _wall(zone, from_ms).date() - margin, _wall(zone, to_ms).date() + margin
    walls = chain(_weekly_walls(schedule, low, high), *(_recurrence_walls(r, low, high) for r in schedule.recurrences))
    closed = []
    if schedule.weekly or schedule.recurrences:
        opened = ((_moment(zone, start, last=False), _moment(zone, end, last=True)) for start, end in _union(walls))
        closed = _gaps(opened, from_ms, to_ms)
    for blackout in schedule.blackouts:
        first, after = _local(blackout.first_date, _DATE), _local(blackout.last_date, _DATE) + timedelta(days=1)
        closed.append((_moment(zone, first, last=False), _moment(zone, after, last=True)))
    return _gaps(closed, from_ms, to_ms)


def _first_open(schedule: Schedule, from_ms: int, to_ms: int) -> int | None:
    """The first open moment of [from_ms, to_ms). Most are near, so the steps grow."""
    step_ms = 30 * _DAY_MS
    while from_ms < to_ms:
        found = intervals(schedule, from_ms, min(from_ms + step_ms, to_ms))
        if found:
            return found[0][0]
        from_ms += step_ms
        step_ms *= 8
    return None


def never_opens(schedule: Schedule, start_ms: int | None, end_ms: int | None) -> bool:
    """Whether no moment of a campaign in [start_ms, end_ms) is open; None is no bound.

    Only its first ten years are searched, from 2026 on when it has no start (the ten before its end if that is over
    then): a schedule that opens later than that is as good as one that never does.
    """
    if start_ms is None:
        start_ms = _SEARCH_MS if end_ms is None or end_ms > _SEARCH_MS else end_ms - 10 * _YEAR_MS
    limit_ms = start_ms + 10 * _YEAR_MS
    return _first_open(schedule, start_ms, limit_ms if end_ms is None else min(limit_ms, end_ms)) is None


class Calendar:
    """A campaign's schedule, worked out in chunks of 400 days, so that most answers take no more than a bisect.

    `start_ms` and `end_ms` are the campaign's own bounds (None: no bound): outside of them it counts as closed, except
    that without a schedule it is always open and the bounds are for the caller to judge.
    """

    def __init__(self, schedule: Schedule | None, start_ms: int | None, end_ms: int | None) -> None:
        self._schedule = schedule
        self._start_ms = _MIN_MS if start_ms is None else start_ms
        self._end_ms = _MAX_MS if end_ms is None else end_ms
        self._chunks: dict[int, tuple[list[int], int | None]] = {}

    def span(self, now_ms: int) -> Span:
        """Whether it is open at this moment, for how long around it, and when it opens next."""
        if self._schedule is None:
            return _ALWAYS
        number = now_ms // _CHUNK_MS
        edges, next_open_ms = self._chunks.get(number) or self._load(self._schedule, number)
        i = bisect_right(edges, now_ms)
        if i % 2 == 0:
            return Span(True, edges[i - 1], edges[i], None)
        return Span(False, edges[i - 1], edges[i], edges[i] if i < len(edges) - 1 else next_open_ms)

    def _load(self, schedule: Schedule, number: int) -> tuple[list[int], int | None]:
        """Works out a chunk: its start, every start and end of an interval, its end; and the first opening after it."""
        from_ms, to_ms = number * _CHUNK_MS, (number + 1) * _CHUNK_MS
        opened = intervals(schedule, max(from_ms, self._start_ms), min(to_ms, self._end_ms))
        search_ms = max(to_ms, self._start_ms)
        next_open_ms = _first_open(schedule, search_ms, min(search_ms + 5 * _YEAR_MS, self._end_ms))
        while len(self._chunks) >= _MAX_CHUNKS:
            del self._chunks[next(iter(self._chunks))]
        chunk = self._chunks[number] = ([from_ms, *chain.from_iterable(opened), to_ms], next_open_ms)
        return chunk
