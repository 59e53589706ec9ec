"""When a campaign is open: on the wall clock of its zone, whatever that clock does."""

from __future__ import annotations

import itertools
import time
from bisect import bisect_left
from datetime import date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import msgspec
import pytest
from dateutil import rrule
from hypothesis import given, settings
from hypothesis import strategies as st

from vouchsafe.domain.schedule import (
    Blackout,
    Calendar,
    Recurrence,
    Schedule,
    Span,
    Weekday,
    WeeklyWindow,
    check,
    intervals,
    never_opens,
)

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS


def ms(text: str, zone: str = "UTC", *, fold: int = 0) -> int:
    local = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold)
    return int(local.timestamp()) * 1000


def window(start: str, end: str, *weekdays: Weekday) -> WeeklyWindow:
    return WeeklyWindow(weekdays=weekdays, start_time=start, end_time=end)


def daily(start: str, end: str, zone: str = "UTC", *blackouts: Blackout) -> Schedule:
    return Schedule(time_zone=zone, weekly=(window(start, end),), blackouts=blackouts)


def recurring(text: str, first_start: str, duration_ms: int = HOUR_MS, zone: str = "UTC") -> Schedule:
    recurrence = Recurrence(rrule=text, first_start=first_start, duration_ms=duration_ms)
    return Schedule(time_zone=zone, recurrences=(recurrence,))


def blackout(first: str, last: str | None = None) -> Blackout:
    return Blackout(first_date=first, last_date=last or first)


def local(schedule: Schedule, first: str, last: str) -> list[tuple[str, str]]:
    """The open spans between two local times, as local times with their offsets."""
    zone = ZoneInfo(schedule.time_zone)
    found = intervals(schedule, ms(first, schedule.time_zone), ms(last, schedule.time_zone))
    return [tuple(f"{datetime.fromtimestamp(at // 1000, zone):%m-%d %H:%M%z}" for at in span) for span in found]  # type: ignore[misc]


def day_length(schedule: Schedule, day: str) -> float:
    """Hours for which it is open on a local day."""
    start = ms(day, schedule.time_zone)
    end = ms(str(date.fromisoformat(day) + timedelta(days=1)), schedule.time_zone)
    return sum(until - since for since, until in intervals(schedule, start, end)) / HOUR_MS


# --- the clock changes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "day", "start", "end", "hours"),
    [
        ("Europe/Berlin", "2027-03-28", "02:00", "03:00", 0),  # 02:00 becomes 03:00
        ("Europe/Berlin", "2027-03-28", "02:30", "03:30", 0.5),
        ("Europe/Berlin", "2027-03-28", "01:30", "02:30", 0.5),
        ("Europe/Berlin", "2027-03-28", "02:15", "02:45", 0),
        ("Europe/Berlin", "2027-10-31", "02:00", "03:00", 2),  # 03:00 becomes 02:00
        ("Europe/Berlin", "2027-10-31", "02:30", "02:45", 1.25),
        ("Europe/Berlin", "2027-10-31", "01:00", "02:00", 1),  # set back to its end, it does not get there again
        ("Europe/Berlin", "2027-10-31", "03:00", "04:00", 1),
        ("America/New_York", "2027-03-14", "02:00", "03:00", 0),  # 02:00 becomes 03:00
        ("America/New_York", "2027-11-07", "02:00", "03:00", 1),  # 02:00 becomes 01:00
        ("America/New_York", "2027-11-07", "01:00", "02:00", 2),
        ("America/New_York", "2027-11-07", "00:00", "01:00", 1),
        ("Australia/Lord_Howe", "2027-10-03", "02:00", "03:00", 0.5),  # 02:00 becomes 02:30
        ("Australia/Lord_Howe", "2027-04-04", "01:30", "02:00", 1),  # 02:00 becomes 01:30
        ("America/Havana", "2027-11-07", "00:00", "24:00", 25),  # 01:00 becomes 00:00
        ("America/Havana", "2027-11-06", "00:00", "24:00", 24),
        ("America/Sao_Paulo", "2018-11-04", "00:00", "01:00", 0),  # 00:00 becomes 01:00
        ("America/Sao_Paulo", "2018-02-17", "23:00", "24:00", 2),  # 24:00 becomes 23:00
    ],
)
def test_a_window_in_the_hour_that_is_skipped_or_repeated(
    zone: str, day: str, start: str, end: str, hours: float
) -> None:
    weekday = list(Weekday)[date.fromisoformat(day).weekday()]
    schedule = Schedule(time_zone=zone, weekly=(window(start, end, weekday),))
    assert day_length(schedule, day) == hours


@pytest.mark.parametrize(
    "schedule",
    [
        daily("18:00", "20:00", "Europe/Berlin"),
        recurring("FREQ=DAILY", "2020-01-01T18:00", 2 * HOUR_MS, "Europe/Berlin"),
        recurring("FREQ=WEEKLY;BYDAY=MO,TU,WE,TH,FR,SA,SU", "2027-01-01T18:00", 2 * HOUR_MS, "Europe/Berlin"),
    ],
)
def test_eighteen_hours_stays_eighteen_hours_all_year(schedule: Schedule) -> None:
    found = local(schedule, "2027-01-01", "2028-01-01")
    assert len(found) == 365
    assert {(start[6:11], end[6:11]) for start, end in found} == {("18:00", "20:00")}
    assert {start[11:] for start, _ in found} == {"+0100", "+0200"}


def test_a_duration_is_measured_on_the_wall_clock() -> None:
    schedule = recurring("FREQ=DAILY;COUNT=1", "2027-03-27T12:00", DAY_MS, "Europe/Berlin")
    assert local(schedule, "2027-03-01", "2027-04-01") == [("03-27 12:00+0100", "03-28 12:00+0200")]


def test_a_day_that_a_zone_skipped_is_never_open() -> None:
    schedule = Schedule(
        time_zone="Pacific/Apia", weekly=(window("09:00", "17:00", Weekday.FRIDAY), window("20:00", "02:00"))
    )
    assert local(schedule, "2011-12-29T12:00", "2012-01-01") == [  # there was no Friday 30
        ("12-29 20:00-1000", "12-31 02:00+1400"),
        ("12-31 20:00+1400", "01-01 00:00+1400"),
    ]


# --- windows, rules, blackouts ---------------------------------------------------------------------------------------


def test_without_windows_it_is_always_open() -> None:
    assert intervals(Schedule(), 1_800_000_000_000, 1_800_000_000_001) == [(1_800_000_000_000, 1_800_000_000_001)]
    assert intervals(Schedule(), 1_800_000_000_000, 1_800_000_000_000) == []
    assert intervals(Schedule(), -(2**60), 2**60) == [(ms("2000-01-01"), ms("2201-01-01"))]


def test_a_window_over_midnight_belongs_to_the_day_it_starts_on() -> None:
    schedule = Schedule(weekly=(window("22:00", "02:00", Weekday.FRIDAY),))
    assert local(schedule, "2027-06-01", "2027-06-08") == [("06-04 22:00+0000", "06-05 02:00+0000")]
    assert local(schedule, "2027-06-05", "2027-06-08") == [("06-05 00:00+0000", "06-05 02:00+0000")]


def test_equal_times_make_a_whole_day() -> None:
    schedule = Schedule(weekly=(window("10:00", "10:00", Weekday.MONDAY), window("00:00", "24:00", Weekday.FRIDAY)))
    assert local(schedule, "2027-06-07", "2027-06-14") == [
        ("06-07 10:00+0000", "06-08 10:00+0000"),
        ("06-11 00:00+0000", "06-12 00:00+0000"),
    ]


def test_windows_that_overlap_or_touch_are_one() -> None:
    schedule = Schedule(
        weekly=(window("08:00", "12:00"), window("12:00", "13:00"), window("10:00", "11:00")),
        recurrences=(Recurrence(rrule="FREQ=DAILY", first_start="2027-06-02T07:00", duration_ms=HOUR_MS),),
    )
    assert local(schedule, "2027-06-01", "2027-06-03") == [
        ("06-01 08:00+0000", "06-01 13:00+0000"),
        ("06-02 07:00+0000", "06-02 13:00+0000"),
    ]
    around_the_gap = Schedule(time_zone="Europe/Berlin", weekly=(window("01:00", "02:00"), window("03:00", "04:00")))
    assert local(around_the_gap, "2027-03-28", "2027-03-29") == [("03-28 01:00+0100", "03-28 04:00+0200")]


@pytest.mark.parametrize(("day", "hours"), [("2027-10-31", 25), ("2027-03-28", 23), ("2027-06-01", 24)])
def test_a_blackout_covers_its_days_exactly_however_long_they_are(day: str, hours: int) -> None:
    schedule = Schedule(time_zone="Europe/Berlin", blackouts=(blackout(day),))
    start, end = ms(day, "Europe/Berlin"), ms(day, "Europe/Berlin") + hours * HOUR_MS
    assert intervals(schedule, start - DAY_MS, end + DAY_MS) == [(start - DAY_MS, start), (end, end + DAY_MS)]


def test_a_blackout_cuts_windows_and_spans_days() -> None:
    schedule = daily("22:00", "02:00", "UTC", blackout("2027-06-02", "2027-06-03"), blackout("2027-06-03"))
    assert local(schedule, "2027-06-01T12:00", "2027-06-04T12:00") == [
        ("06-01 22:00+0000", "06-02 00:00+0000"),
        ("06-04 00:00+0000", "06-04 02:00+0000"),
    ]


@pytest.mark.parametrize(
    ("text", "first", "expected"),
    [
        ("FREQ=DAILY;COUNT=3", "2027-05-31T09:00", ["06-01", "06-02"]),  # counted from the first start on
        ("FREQ=DAILY;UNTIL=20270602", "2027-05-31T23:30", ["06-01", "06-02"]),  # the last day is included
        ("FREQ=MONTHLY;BYDAY=-1FR", "2027-01-01T09:00", ["06-25"]),
        ("FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1", "2027-01-01T09:00", ["06-30"]),
        ("FREQ=MONTHLY;BYDAY=FR;BYMONTHDAY=13", "2020-01-01T09:00", []),
        ("FREQ=YEARLY", "2020-06-05T09:00", ["06-05"]),
        ("FREQ=YEARLY;BYMONTH=6;BYDAY=2SU", "2020-01-01T09:00", ["06-13"]),
        ("FREQ=MONTHLY;BYMONTHDAY=31", "2020-01-31T09:00", []),
        (
            "FREQ=WEEKLY;INTERVAL=2;BYDAY=TU,SU;WKST=MO",
            "2027-05-18T09:00",
            ["06-01", "06-06", "06-15", "06-20", "06-29"],
        ),
        (
            "FREQ=WEEKLY;INTERVAL=2;BYDAY=TU,SU;WKST=SU",
            "2027-05-18T09:00",
            ["06-01", "06-13", "06-15", "06-27", "06-29"],
        ),
    ],
)
def test_a_rule_starts_windows_on_its_days(text: str, first: str, expected: list[str]) -> None:
    schedule = recurring(text, first)
    assert check(schedule) == []
    assert [start[:5] for start, _ in local(schedule, "2027-06-01T02:00", "2027-06-30T23:00")] == expected


@st.composite
def rules(draw: st.DrawFn) -> str:
    freq = draw(st.sampled_from(["DAILY", "WEEKLY", "MONTHLY", "YEARLY"]))
    # The reference takes a weekday with an ordinal beside one without as a condition, not as one more.
    with_ordinals = freq in ("MONTHLY", "YEARLY") and draw(st.booleans())
    ordinals = st.sampled_from(["1", "-1", "2", "-5"] if with_ordinals else [""])
    parts = [f"FREQ={freq}", f"INTERVAL={draw(st.sampled_from([1, 1, 2, 3, 7]))}"]

    def some(name: str, items: st.SearchStrategy[str]) -> bool:
        chosen = draw(st.lists(items, max_size=3, unique=True))
        if chosen:
            parts.append(f"{name}={','.join(chosen)}")
        return bool(chosen)

    weekdays = st.sampled_from(["MO", "TU", "WE", "TH", "FR", "SA", "SU"])
    by = some("BYDAY", st.builds(str.__add__, ordinals, weekdays))
    by |= freq != "WEEKLY" and some("BYMONTHDAY", st.sampled_from(["1", "13", "29", "31", "-1", "-31"]))
    by |= some("BYMONTH", st.integers(1, 12).map(str))
    if by and freq != "WEEKLY":  # the reference counts positions of the first week from its first start
        some("BYSETPOS", st.sampled_from(["1", "2", "-1", "-3"]))
    parts.append(f"WKST={draw(weekdays)}")
    end = draw(st.sampled_from(["", "COUNT=1", "COUNT=7", "COUNT=300", "UNTIL=20280115"]))
    return ";".join([*parts, end] if end else parts)


@settings(max_examples=150, deadline=None)
@given(text=rules(), first=st.dates(date(2024, 1, 1), date(2027, 1, 1)), from_day=st.dates(date(2027, 1, 1)).map(str))
def test_rules_mean_what_another_implementation_says(text: str, first: date, from_day: str) -> None:
    schedule = recurring(text, f"{first}T12:00")
    assert check(schedule) == []
    low = datetime.fromisoformat(min(from_day, "2031-01-01"))
    high = low + timedelta(days=500)
    noon = datetime.combine(first, datetime.min.time()).replace(hour=12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datetime.MAXYEAR", 2035)  # how far the reference looks for what never comes
        # To the reference a day without a time is its first moment; to us the last day is included.
        rule = rrule.rrulestr(text.replace("UNTIL=20280115", "UNTIL=20280115T235959"), dtstart=noon)
        expected = [ms(str(at)) for at in rule.between(low, high)]
    assert [start for start, _ in intervals(schedule, ms(str(low)), ms(str(high)))] == expected


# --- a reference that looks at every minute --------------------------------------------------------------------------

# Each base is a few days before a change of the zone's clock.
TRANSITIONS = [
    ("Europe/Berlin", "2027-03-25"),
    ("Europe/Berlin", "2027-10-28"),
    ("America/New_York", "2027-11-04"),
    ("Australia/Lord_Howe", "2027-04-01"),
    ("Australia/Lord_Howe", "2027-09-30"),
    ("America/Sao_Paulo", "2018-02-14"),
    ("America/Sao_Paulo", "2018-11-01"),
    ("America/St_Johns", "2006-10-26"),
    ("America/Havana", "2027-11-04"),
    ("Pacific/Apia", "2011-12-27"),
    ("Asia/Kathmandu", "2027-03-25"),
]
LOCAL_DAYS = 8


@cache
def minutes_of(zone: str, base: str) -> tuple[int, list[datetime], list[datetime]]:
    """For each minute from two days before the base: the latest time that the clock has shown until then, and the
    earliest that it shows from then on."""
    origin = ms(base) - 2 * DAY_MS
    shown = [
        datetime.fromtimestamp(origin // 1000 + minute * 60, ZoneInfo(zone)).replace(tzinfo=None)
        for minute in range((LOCAL_DAYS + 6) * 24 * 60)
    ]
    latest = list(itertools.accumulate(shown, max))
    earliest = list(itertools.accumulate(reversed(shown), min))[::-1]
    return origin, latest, earliest


def reference(schedule: Schedule, base: str) -> list[tuple[int, int]]:
    origin, latest, earliest = minutes_of(schedule.time_zone, base)
    midnight = datetime.fromisoformat(base)

    def minutes(start: datetime, end: datetime) -> range:
        # From the first minute that shows the start or more to the last that shows less than the end.
        return range(bisect_left(latest, start), bisect_left(earliest, end))

    opened: set[int] = set() if schedule.weekly else set(range(len(latest)))
    for day in (midnight + timedelta(days=n) for n in range(-2, LOCAL_DAYS + 3)):
        for each in schedule.weekly:
            if not each.weekdays or f"{day:%A}".upper() in each.weekdays:
                bounds = [
                    day + timedelta(hours=int(text[:2]), minutes=int(text[3:]))
                    for text in (each.start_time, each.end_time)
                ]
                if bounds[1] <= bounds[0]:
                    bounds[1] += timedelta(days=1)
                opened.update(minutes(*bounds))
    for each_blackout in schedule.blackouts:
        last = datetime.fromisoformat(each_blackout.last_date) + timedelta(days=1)
        opened.difference_update(minutes(datetime.fromisoformat(each_blackout.first_date), last))
    low = (ms(base) - origin) // MINUTE_MS
    spans: list[tuple[int, int]] = []
    for minute in sorted(opened & set(range(low, low + LOCAL_DAYS * 24 * 60))):
        at = origin + minute * MINUTE_MS
        if spans and spans[-1][1] == at:
            spans[-1] = (spans[-1][0], at + MINUTE_MS)
        else:
            spans.append((at, at + MINUTE_MS))
    return spans


# Mostly times near which clocks change.
TIMES = st.one_of(
    st.sampled_from(
        ["00:00", "00:30", "01:00", "01:30", "01:45", "02:00", "02:15", "02:30", "03:00", "23:00", "23:30"]
    ),
    st.builds("{:02}:{:02}".format, st.integers(0, 23), st.integers(0, 59)),
)
WINDOWS = st.builds(
    WeeklyWindow,
    weekdays=st.lists(st.sampled_from(Weekday), unique=True, max_size=3).map(tuple),
    start_time=TIMES,
    end_time=TIMES.map(lambda text: "24:00" if text == "00:00" else text),
)


@st.composite
def schedules_and_bases(draw: st.DrawFn) -> tuple[Schedule, str]:
    zone, base = draw(st.sampled_from(TRANSITIONS))
    days = [str(date.fromisoformat(base) + timedelta(days=n)) for n in range(LOCAL_DAYS)]
    blackouts = draw(st.lists(st.lists(st.sampled_from(days), min_size=2, max_size=2).map(sorted), max_size=2))
    schedule = Schedule(
        time_zone=zone,
        weekly=tuple(draw(st.lists(WINDOWS, max_size=4))),
        blackouts=tuple(blackout(*pair) for pair in blackouts),
    )
    return schedule, base


@settings(max_examples=200, deadline=None)
@given(schedules_and_bases())
def test_every_minute_is_as_the_clock_says(case: tuple[Schedule, str]) -> None:
    schedule, base = case
    assert check(schedule) == []
    assert intervals(schedule, ms(base), ms(base) + LOCAL_DAYS * DAY_MS) == reference(schedule, base)


# --- the calendar ----------------------------------------------------------------------------------------------------


def agrees(calendar: Calendar, opened: list[tuple[int, int]], at: int, low: int, high: int) -> None:
    span = calendar.span(at)
    assert span.from_ms <= at < span.until_ms
    assert span.open == any(start <= at < end for start, end in opened)
    if span.open:
        assert any(start <= span.from_ms and span.until_ms <= end for start, end in opened)
        assert span.next_open_ms is None
    else:
        assert not any(start < min(span.until_ms, high) and max(span.from_ms, low) < end for start, end in opened), (
            "opens within"
        )
        assert span.next_open_ms == next((start for start, _ in opened if start > at), None)


@settings(max_examples=60, deadline=None)
@given(
    schedules_and_bases(),
    st.integers(-5, 900),
    st.integers(1, 900 * 24 * 60),
    st.lists(st.integers(0, 1000 * DAY_MS), min_size=1, max_size=8),
)
def test_a_span_agrees_with_the_intervals(
    case: tuple[Schedule, str], start_day: int, length_minutes: int, moments: list[int]
) -> None:
    schedule, base = case
    start = ms(base) + start_day * DAY_MS
    end = start + length_minutes * MINUTE_MS
    opened = intervals(schedule, start, end)
    calendar = Calendar(schedule, start, end)
    edges = [at + shift for span in [*opened[:4], *opened[-4:]] for at in span for shift in (-1, 0, 1)]
    for at in [*(ms(base) + moment for moment in moments), *edges, start - 1, start, end - 1, end]:
        agrees(calendar, opened, at, start, end)


def test_without_a_schedule_it_is_open_for_good() -> None:
    assert Calendar(None, 5, 10).span(20) == Span(open=True, from_ms=0, until_ms=2**53, next_open_ms=None)


def test_spans_inside_of_a_chunk_are_whole() -> None:
    at = 1_800_000_000_000
    calendar = Calendar(daily("10:00", "11:00"), None, None)
    midnight = at // DAY_MS * DAY_MS
    opens = midnight + 10 * HOUR_MS
    assert calendar.span(opens) == Span(open=True, from_ms=opens, until_ms=opens + HOUR_MS, next_open_ms=None)
    assert calendar.span(opens - 1) == Span(
        open=False, from_ms=opens - 23 * HOUR_MS, until_ms=opens, next_open_ms=opens
    )


def test_before_the_start_the_first_interval_is_known_however_far_it_is() -> None:
    calendar = Calendar(daily("10:00", "11:00"), ms("2080-01-01T10:30"), ms("2080-01-02"))
    assert calendar.span(ms("2027-01-01")).next_open_ms == ms("2080-01-01T10:30")
    assert not calendar.span(0).open
    assert not calendar.span(2**53).open
    assert calendar.span(ms("2080-01-01T11:00")).next_open_ms is None


def test_an_opening_in_a_later_chunk_is_found_within_five_years_only() -> None:
    near = Calendar(recurring("FREQ=YEARLY;COUNT=1", "2031-01-01T00:00"), None, None)
    far = Calendar(recurring("FREQ=YEARLY;COUNT=1", "2099-01-01T00:00"), None, None)
    assert near.span(ms("2027-01-01")).next_open_ms == ms("2031-01-01")
    assert far.span(ms("2027-01-01")).next_open_ms is None


def test_moments_all_over_time_keep_few_chunks_and_hits_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    calendar = Calendar(daily("10:00", "11:00"), None, None)
    for year in range(2000, 2200, 3):
        assert calendar.span(ms(f"{year}-06-01T10:30")).open
    assert len(calendar._chunks) <= 4
    monkeypatch.setattr("vouchsafe.domain.schedule.intervals", None)
    assert calendar.span(ms("2198-06-01T10:30")).open


# --- schedules that never open ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "start", "end", "never"),
    [
        (Schedule(), None, None, False),
        (daily("10:00", "11:00"), "2027-01-01T11:00", "2027-01-02T10:00", True),
        (daily("10:00", "11:00"), "2027-01-01T11:00", "2027-01-02T10:01", False),
        (daily("02:00", "03:00", "Europe/Berlin"), "2027-03-28", "2027-03-28T20:00", True),
        (Schedule(blackouts=(blackout("2027-01-01", "2027-12-31"),)), "2027-01-01", "2028-01-01", True),
        (Schedule(blackouts=(blackout("2026-01-01", "2200-12-31"),)), None, None, True),
        (recurring("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", "2020-01-01T00:00"), None, None, True),
        (recurring("FREQ=DAILY;UNTIL=20250101", "2020-01-01T00:00"), None, None, True),
        (recurring("FREQ=DAILY;UNTIL=20250101", "2020-01-01T00:00"), None, "2025-12-01", False),
        (recurring("FREQ=DAILY", "2035-12-01T00:00"), None, None, False),
        (recurring("FREQ=DAILY", "2037-12-01T00:00"), None, None, True),
        (recurring("FREQ=DAILY", "2037-12-01T00:00"), "2037-01-01", None, False),
        (Schedule(), "2027-01-01", "2027-01-01", True),
    ],
)
def test_a_schedule_that_never_opens_is_found_out(
    schedule: Schedule, start: str | None, end: str | None, never: bool
) -> None:
    assert check(schedule) == []
    assert never_opens(schedule, start and ms(start), end and ms(end)) is never  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30", "FREQ=YEARLY;BYMONTHDAY=31;BYMONTH=4;COUNT=10000", "FREQ=DAILY"]
)
def test_the_work_is_bounded_whatever_the_rule(text: str) -> None:
    schedule = Schedule(
        weekly=tuple(window(f"{n // 2:02}:{n % 2 * 30:02}", f"{n // 2:02}:{n % 2 * 30 + 10:02}") for n in range(48)),
        recurrences=tuple(
            Recurrence(rrule=text, first_start="2000-01-01T00:00", duration_ms=MINUTE_MS) for _ in range(2)
        ),
        time_zone="Europe/Berlin",
    )
    began = time.process_time()
    assert len(intervals(schedule, ms("2027-01-01"), ms("2029-01-01"))) > 700
    impossible = Schedule(recurrences=schedule.recurrences)
    assert never_opens(impossible, ms("2027-01-01"), ms("2037-01-01")) is ("BY" in text)
    assert time.process_time() - began < 2


# --- what is refused -------------------------------------------------------------------------------------------------


def test_every_violation_is_told_at_once() -> None:
    schedule = Schedule(
        time_zone="../etc/passwd",
        weekly=(
            window("24:00", "00:00", Weekday.MONDAY, Weekday.MONDAY),
            window("10:00", "11:00"),
            window("9:00", "24:01"),
        ),
        recurrences=(
            Recurrence(rrule="FREQ=DAILY", first_start="2027-01-01T10:00", duration_ms=MINUTE_MS),
            Recurrence(rrule="FREQ=HOURLY", first_start="2027-02-29T10:00", duration_ms=MINUTE_MS - 1),
        ),
        blackouts=(blackout("2027-06-02", "2027-06-01"), blackout("1999-01-01", "20270101")),
    )
    assert [violation.field for violation in check(schedule)] == [
        "time_zone",
        "weekly[0].weekdays",
        "weekly[0].start_time",
        "weekly[0].end_time",
        "weekly[2].start_time",
        "weekly[2].end_time",
        "recurrences[1].rrule",
        "recurrences[1].first_start",
        "recurrences[1].duration",
        "blackouts[0].last_date",
        "blackouts[1].first_date",
        "blackouts[1].last_date",
    ]


def test_more_than_is_accepted_is_refused() -> None:
    schedule = Schedule(
        weekly=(window("10:00", "11:00"),) * 51,
        recurrences=(Recurrence(rrule="FREQ=DAILY", first_start="2027-01-01T10:00", duration_ms=MINUTE_MS),) * 21,
        blackouts=(blackout("2027-01-01"),) * 201,
    )
    assert [violation.field for violation in check(schedule)] == ["weekly", "recurrences", "blackouts"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "NAME=VALUE"),
        ("INTERVAL=2", "needs FREQ"),
        ("FREQ=SECONDLY", "DAILY, WEEKLY, MONTHLY or YEARLY"),
        ("FREQ=DAILY;BYHOUR=3", "NAME=VALUE"),
        ("FREQ=DAILY;BYHOUR=3", "BYSETPOS"),
        ("FREQ=DAILY;FREQ=DAILY", "each name once"),
        ("freq=daily", "NAME=VALUE"),
        ("RRULE:FREQ=DAILY", "NAME=VALUE"),
        ("FREQ=DAILY;", "NAME=VALUE"),
        ("FREQ=DAILY;INTERVAL=0", "1 to 1000"),
        ("FREQ=DAILY;INTERVAL=1001", "1 to 1000"),
        ("FREQ=DAILY;INTERVAL=٣", "1 to 1000"),
        ("FREQ=DAILY;COUNT=10001", "1 to 10000"),
        ("FREQ=DAILY;COUNT=1;UNTIL=20270101", "not with COUNT"),
        ("FREQ=DAILY;UNTIL=20270101T000000Z", "YYYYMMDD"),
        ("FREQ=DAILY;UNTIL=20270230", "YYYYMMDD"),
        ("FREQ=DAILY;UNTIL=99991231", "2000 to 2200"),
        ("FREQ=DAILY;BYDAY=1MO", "MO to SU"),
        ("FREQ=WEEKLY;BYDAY=-1MO", "MO to SU"),
        ("FREQ=MONTHLY;BYDAY=54MO", "MO to SU"),
        ("FREQ=MONTHLY;BYDAY=", "MO to SU"),
        ("FREQ=WEEKLY;BYMONTHDAY=1", "not with WEEKLY"),
        ("FREQ=MONTHLY;BYMONTHDAY=32", "1 to 31"),
        ("FREQ=MONTHLY;BYMONTHDAY=0", "1 to 31"),
        ("FREQ=YEARLY;BYMONTH=13", "1 to 12"),
        ("FREQ=YEARLY;BYSETPOS=1", "with another BY part"),
        ("FREQ=YEARLY;BYMONTH=1;BYSETPOS=367", "1 to 366"),
        ("FREQ=DAILY;WKST=1MO", "MO to SU"),
        ("FREQ=MONTHLY;BYMONTHDAY=" + "1," * 1000 + "1", "at most 1000"),
    ],
)
def test_a_rule_that_is_not_accepted_is_told_what_is(text: str, told: str) -> None:
    (violation,) = check(recurring(text, "2027-01-01T10:00"))
    assert violation.field == "recurrences[0].rrule"
    assert told in violation.description


@pytest.mark.parametrize(
    "name",
    [
        *("", " UTC", "CET+1", "\0", "\ud800", "é", "a" * 10_000, "europe/berlin", "Europe", "Europe/"),
        *(".", "..", "/etc/passwd", "../etc/passwd", "Europe/../Europe/Berlin"),
        *("right/Europe/Berlin", "posixrules", "localtime"),
    ],
)
def test_what_is_no_zone_is_refused(name: str) -> None:
    assert [violation.field for violation in check(Schedule(time_zone=name))] == ["time_zone"]


GARBAGE = st.one_of(
    st.text(st.characters(exclude_categories=[]), max_size=30),
    st.from_regex(r"[0-9]{1,5}[-:T;=,]?[0-9]{0,3}[-:T]?[0-9]{0,3}"),
    st.text("0123456789-:T", max_size=17),
    st.sampled_from(["24:00", "00:00", "2027-02-30", "0000-00-00", "2027-W01-1T10:00", "٢٠:00", "9" * 5000]),
)
RULE_GARBAGE = st.lists(
    st.builds("{}={}".format, st.sampled_from(["FREQ", "COUNT", "UNTIL", "BYDAY", "BYSETPOS", "X"]), GARBAGE)
    | st.sampled_from(["FREQ=DAILY", "FREQ=WEEKLY", "BYDAY=MO", "BYDAY=-1FR", "BYMONTHDAY=1", "UNTIL=20270101"])
    | GARBAGE
).map(";".join)


@settings(max_examples=200, deadline=None)
@given(
    st.builds(
        Schedule,
        time_zone=st.just("UTC") | GARBAGE,
        weekly=st.tuples(st.builds(WeeklyWindow, start_time=TIMES | GARBAGE, end_time=TIMES | GARBAGE)),
        recurrences=st.tuples(
            st.builds(
                Recurrence,
                rrule=RULE_GARBAGE,
                first_start=st.just("2027-01-01T10:00") | GARBAGE,
                duration_ms=st.integers(),
            )
        ),
        blackouts=st.tuples(st.builds(Blackout, first_date=st.just("2027-01-01") | GARBAGE, last_date=GARBAGE)),
    )
)
def test_garbage_is_told_apart_and_never_raises(schedule: Schedule) -> None:
    if not check(schedule):
        intervals(schedule, ms("2027-01-01"), ms("2027-03-01"))


@settings(max_examples=100, deadline=None)
@given(RULE_GARBAGE)
def test_a_rule_that_is_accepted_can_be_worked_out(text: str) -> None:
    schedule = recurring(text, "2027-01-01T10:00")
    if not check(schedule):
        intervals(schedule, ms("2027-01-01"), ms("2028-01-01"))


def test_a_schedule_is_read_back_as_it_was_written_and_refuses_unknown_fields() -> None:
    schedule = Schedule(weekly=(window("10:00", "11:00", Weekday.MONDAY),), blackouts=(blackout("2027-01-01"),))
    assert msgspec.json.decode(msgspec.json.encode(schedule), type=Schedule) == schedule
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"zone": "UTC"}', type=Schedule)
