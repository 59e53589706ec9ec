"""What is told of an action; and that the page about the trail tells of all."""

from __future__ import annotations

import re
from pathlib import Path

from vouchsafe.domain.trail import Action, changed, link_hash, paths
from vouchsafe.ledger.notes import TOLD

PAGE = Path(__file__).parents[2] / "docs/audit-trail.md"


def test_the_page_has_a_row_for_every_action() -> None:
    assert re.findall(r"^\| `(\w+\.\w+)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE) == list(Action)


def test_no_two_kinds_of_events_tell_the_same() -> None:
    assert len({told.action for told in TOLD.values()}) == len(TOLD)


def test_what_is_empty_says_nothing() -> None:
    assert paths({"a": None, "b": "", "c": [], "d": {}, "e": 0, "f": False, "g": [{"h": 1}]}) == {
        "e": 0,
        "f": False,
        "g[0].h": 1,
    }


def test_only_what_differs_is_told() -> None:
    old, new = {"a": 1, "b": [1, 2], "c": {"d": 1}}, {"a": 1, "b": [1], "c": {"d": 2, "e": 3}}
    assert changed(old, new) == ({"b[1]": 2, "c.d": 1}, {"c.d": 2, "c.e": 3})


def test_where_one_field_ends_and_the_next_begins_is_in_the_hash() -> None:
    told = [("ab", "c"), ("a", "bc"), ("abc", None), (None, "abc"), ("abc", ""), ("abc", "-")]
    assert len({link_hash(bytes(32), fields) for fields in told}) == len(told)
