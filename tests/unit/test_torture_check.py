"""The judge of the torture, judged: a history and a ledger that agree, and each damage that it has to find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import vouchsafe
from tests.torture.book import Book, Event
from tests.torture.campaigns import Contested
from tests.torture.check import Checker
from tests.torture.history import Answer, Call, History, Request
from tests.torture.losses import Loss
from tests.torture.report import AFTER_A_LOSS, NEVER_SAID, SAID
from vouchsafe.client import (
    AppliedCode,
    Campaign,
    Redemption,
    Refusal,
    RefusalReason,
    Reservation,
    Rollback,
    RolledBackCode,
)

CAMPAIGNS = [Contested("one", ("ONE",), total=2, per_customer=1), Contested("two", ("TWO",))]
PAUSED = Refusal(reason=RefusalReason.REFUSAL_REASON_CAMPAIGN_PAUSED)
EXPIRED = Refusal(reason=RefusalReason.REFUSAL_REASON_RESERVATION_EXPIRED)


@dataclass
class Story:
    """Calls and events of it, at times that a test reads as seconds."""

    calls: list[Call] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    extra_rows: list[str] = field(default_factory=list)

    def told(self, what: str, id_: str, at: float, answer: Answer | None, **request: Any) -> None:
        codes = ("ONE",) if what not in ("pause", "resume") else ("one",)
        asked = Request(what, id_, **{"order_id": f"o-{id_}", "codes": codes, "customer_id": f"c-{id_}"} | request)
        outcome = "unknown" if answer is None else type(answer).__name__.lower()
        self.calls.append(Call(asked, at, at + 0.1, outcome, answer))

    def happened(self, kind: str, id_: str, at: float, campaign: str = "one", **facts: Any) -> None:
        body: dict[str, Any] = {
            "request_id": id_, "order_id": f"o-{id_}", "customer_id": f"c-{id_}", "code": campaign.upper(),
            "combined_id": "", "reservation_id": "", "redemption_id": "", "rollback_id": "", "size": 0,
            "takes": {"uses": 1, f"customer:c-{id_}": 1}, "minor": 100, "uses_returned": 0,
        }  # fmt: skip
        place = f"r00-1-{round(at * 1000)}-0"
        self.events.append(Event(id=place, epoch=1, kind=kind, campaign_id=campaign, **body | facts))


def a_redemption(id_: str, at: float, *campaigns: str) -> Redemption:
    applied = [AppliedCode(code=one.upper(), campaign_id=one, discount_minor=100) for one in campaigns or ("one",)]
    return Redemption(
        id=f"r00-1-{round(at * 1000)}-0", order_id=f"o-{id_}", customer_id=f"c-{id_}", applied_codes=applied
    )


def a_reservation(id_: str, until: float) -> Reservation:
    reservation = Reservation(id=id_)
    reservation.expire_time.FromMilliseconds(round(until * 1000))
    return reservation


def a_story() -> Story:
    """Redeemed and rolled back; two codes at once; held and confirmed; held and released; paused and resumed."""
    story = Story()
    story.told("redeem", "a", 1, a_redemption("a", 1.05))
    story.happened("redeemed", "a", 1.05)
    story.told("redeem", "a", 1.5, a_redemption("a", 1.05))
    taken_back = [RolledBackCode(code="ONE", discount_minor=100)]
    rollback = Rollback(id="r00-1-2050-0", codes=taken_back)
    story.told("roll_back", "ra", 2, rollback, of="r00-1-1050-0", order_id="o-a")
    story.happened("rolled_back", "ra", 2.05, takes={}, order_id="o-a")
    returned: dict[str, Any] = {"redemption_id": "r00-1-1050-0", "rollback_id": "r00-1-2050-0", "uses_returned": 1}
    story.happened("returned", "a", 2.06, **returned)
    story.told("redeem", "b", 3, a_redemption("b", 3.05, "one", "two"), codes=("ONE", "TWO"))
    story.happened("combined", "b", 3.05, "", takes={}, size=2)
    story.happened("redeemed", "b", 3.06, combined_id="r00-1-3050-0")
    story.happened("redeemed", "b", 3.07, "two", combined_id="r00-1-3050-0")
    story.told("reserve", "h", 4, a_reservation("h-h", 5.5))
    story.happened("held", "h", 4.05, reservation_id="h-h")
    story.told("confirm", "h-h", 5, a_redemption("h", 5.05), of="h", order_id="o-h")
    story.happened("combined", "h", 5.05, "", takes={}, size=1, reservation_id="h-h")
    story.happened("redeemed", "h", 5.06, combined_id="r00-1-5050-0", reservation_id="h-h")
    story.told("pause", "one 1", 6, Campaign())
    story.happened("paused", "", 6.05, takes={})
    story.told("redeem", "c", 7, PAUSED)
    story.told("resume", "one 1", 8, Campaign())
    story.happened("resumed", "", 8.05, takes={})
    return story


def problems(story: Story, tmp_path: Path, *, may_lose: bool = False) -> list[str]:
    history = History(tmp_path / "history.jsonl")
    history.close()
    history.since_1970_s = 0
    history.calls = story.calls
    book = Book()
    for event in story.events:
        book.add(event)
    book.rows = [event.id for event in story.events if event.kind == "redeemed"] + story.extra_rows
    found = Checker(history, book, CAMPAIGNS, story.losses, may_lose=may_lose).check()
    return [problem.partition(":")[0] for problem in found.problems]


def drop(*kinds: str, at: float | None = None) -> Callable[[Story], None]:
    def damage(story: Story) -> None:
        story.events = [
            event
            for event in story.events
            if event.kind not in kinds or (at is not None and event.id != f"r00-1-{round(at * 1000)}-0")
        ]

    return damage


def an_oversale(story: Story) -> None:
    for id_, at in (("x", 9), ("y", 10)):
        story.told("redeem", id_, at, a_redemption(id_, at + 0.05))
        story.happened("redeemed", id_, at + 0.05)


def an_oversale_that_nobody_wrote_down(story: Story) -> None:
    for id_, at in (("x", 9), ("y", 10)):
        story.told("redeem", id_, at, a_redemption(id_, at + 0.05))


def a_customer_told_twice_what_nobody_wrote_down(story: Story) -> None:
    story.told("redeem", "x", 9, a_redemption("b", 9.05), order_id="o-b")


def the_same_customer_twice(story: Story) -> None:
    story.told("redeem", "x", 9, a_redemption("x", 9.05))
    story.happened("redeemed", "x", 9.05, takes={"customer:c-b": 1})


def decided_again(story: Story) -> None:
    story.happened("redeemed", "a", 9, order_id="o-a")


def a_second_use_of_an_order(story: Story) -> None:
    story.told("redeem", "x", 9, None, order_id="o-b")
    story.happened("redeemed", "x", 9.05, "one", order_id="o-b", takes={})


def out_of_nothing(story: Story) -> None:
    story.happened("redeemed", "z", 9)


def while_paused(story: Story) -> None:
    story.told("redeem", "x", 7, a_redemption("x", 7.05))
    story.happened("redeemed", "x", 7.05)
    story.events.sort(key=lambda event: int(event.id.split("-")[2]))


def behind_the_end(story: Story) -> None:
    story.happened("archived", "", 9, takes={})
    story.told("redeem", "x", 9.1, a_redemption("x", 9.15))
    story.happened("redeemed", "x", 9.15)


def while_paused_by_the_times_of_calls(story: Story) -> None:
    story.told("redeem", "x", 7, a_redemption("x", 7.05))
    story.happened("redeemed", "x", 7.05)


def another_answer(story: Story) -> None:
    story.told("redeem", "c", 9, EXPIRED)


def an_internal_error(story: Story) -> None:
    story.calls.append(replace(story.calls[0], outcome="error", answer=None))


def a_redemption_that_is_gone(story: Story) -> None:
    story.calls.append(replace(story.calls[2], outcome="not_found", answer=None))


def confirmed_behind_its_end(story: Story) -> None:
    story.told("confirm", "h-h", 9, EXPIRED, of="h", order_id="o-h")


def back_twice(story: Story) -> None:
    returned = next(event for event in story.events if event.kind == "returned")
    story.events.append(replace(returned, id="r00-1-9000-0"))


def a_row_too_many(story: Story) -> None:
    story.extra_rows.append(story.events[0].id)


def test_what_agrees_is_found_to_agree(tmp_path: Path) -> None:
    assert problems(a_story(), tmp_path) == []


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (drop("redeemed", at=1.05), "lost"),
        (an_oversale, "oversold"),
        (an_oversale_that_nobody_wrote_down, "oversold"),
        (a_customer_told_twice_what_nobody_wrote_down, "oversold"),
        (the_same_customer_twice, "oversold"),
        (a_row_too_many, "rows"),
        (decided_again, "decided twice"),
        (a_second_use_of_an_order, "twice"),
        (out_of_nothing, "never asked for"),
        (drop("redeemed", at=3.07), "half"),
        (drop("combined", at=3.05), "a part of nothing"),
        (drop("returned"), "not back"),
        (back_twice, "too much back"),
        (drop("held"), "not held"),
        (drop("redeemed", at=5.06), "held for ever, or ended twice"),
        (confirmed_behind_its_end, "redeemed after its end"),
        (while_paused, "redeemed while paused"),
        (behind_the_end, "redeemed while paused"),
        (while_paused_by_the_times_of_calls, "redeemed while paused"),
        (another_answer, "another answer"),
        (an_internal_error, "error"),
        (a_redemption_that_is_gone, "not found"),
    ],
)
def test_damage_is_found(damage: Callable[[Story], None], found: str, tmp_path: Path) -> None:
    story = a_story()
    damage(story)
    assert found in problems(story, tmp_path)


def test_a_loss_excuses_only_what_had_not_reached_the_ledger(tmp_path: Path) -> None:
    story = a_story()
    drop("redeemed", at=1.05)(story)
    for since_ms, excused in ((1_000, True), (1_060, False)):
        story.losses = [Loss("FLUSHALL", 1_200, {0: since_ms})]
        assert ("lost" not in problems(story, tmp_path, may_lose=True)) == excused
        assert "lost" in problems(story, tmp_path, may_lose=False)


def test_a_loss_excuses_a_refusal_that_is_decided_anew_and_no_redemption(tmp_path: Path) -> None:
    story = a_story()
    another_answer(story)
    story.losses = [Loss("FLUSHALL", 8_500, {0: 8_500})]
    assert problems(story, tmp_path) == []
    story.told("redeem", "a", 9, PAUSED)
    assert "another answer" in problems(story, tmp_path)


@pytest.mark.parametrize(("until", "found"), [(9.09, []), (9.11, ["not held"])])
def test_a_reservation_that_is_told_when_its_time_is_over_promises_nothing(
    until: float, found: list[str], tmp_path: Path
) -> None:
    story = a_story()
    story.told("reserve", "late", 9, a_reservation("h-late", until))  # the answer came at 9.1
    assert problems(story, tmp_path) == found


def test_what_is_looked_for_in_logs_is_what_is_said() -> None:
    source = "".join(file.read_text() for file in Path(vouchsafe.__file__).parent.rglob("*.py"))
    for words in (*SAID.values(), *AFTER_A_LOSS.values(), *NEVER_SAID):
        assert f'"{words.partition(":")[0]}"' in source
