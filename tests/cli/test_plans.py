"""Commands that change, schedule and draw campaigns, as an operator uses them: by exit status and output."""

from __future__ import annotations

import json
import re
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.cli.test_cli import vouchsafe
from tests.service import Service, a_campaign

DAY = timedelta(days=1)
ID = "the id of a campaign that runs"


@pytest.fixture
async def running(service: Service) -> str:
    async with service.client(timeout_s=30) as client:
        id_, _ = await a_campaign(client)
    return id_


def iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def midnight(days: int) -> datetime:
    """So many days from now, in UTC."""
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + days * DAY


def as_json(*args: str) -> Any:
    answer = vouchsafe(*args, "--json")
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def test_a_draft_is_changed_archived_and_cloned(service: Service) -> None:
    target, id_ = ("--target", service.target), f"cli-{uuid.uuid4()}"
    draft = as_json("campaign", "create", id_, "--percent", "10", "--label", id_, "--draft", *target)
    assert draft["state"] == "CAMPAIGN_STATE_DRAFT"
    changed = as_json("campaign", "update", id_, "--set", "limits.total=500", "--set", "display_name=Spring", *target)
    assert (changed["definition"]["limits"]["total"], changed["definition"]["display_name"]) == ("500", "Spring")
    cleared = as_json("campaign", "update", id_, "--set", "limits.total=", "--dry-run", *target)
    assert "total" not in cleared["definition"].get("limits", {})
    archived = as_json("campaign", "archive", id_, "--reason", "over", *target)
    assert archived["state"] == "CAMPAIGN_STATE_ARCHIVED"
    assert as_json("campaign", "list", "--label", id_, *target) == []
    assert [one["id"] for one in as_json("campaign", "list", "--label", id_, "--archived", *target)] == [id_]
    clone = as_json("campaign", "clone", id_, f"{id_}-2", "--name", "Again", *target)
    assert (clone["state"], clone["definition"]["display_name"]) == ("CAMPAIGN_STATE_DRAFT", "Again")


def test_a_draft_is_scheduled_and_drawn(service: Service) -> None:
    target, id_ = ("--target", service.target), f"cli-{uuid.uuid4()}"
    as_json("campaign", "create", id_, "--percent", "10", "--label", id_, "--draft", *target)
    start, end = midnight(1), midnight(20)
    plans = ("--pause", iso(midnight(3)), "--resume", iso(midnight(5)))
    change = ("--change", f"{iso(midnight(10))} limits.total=9 display_name='Last days'")
    times = ("--start", iso(start), "--end", iso(end))
    scheduled = as_json("campaign", "schedule", id_, *times, *plans, *change, *target)
    assert scheduled["campaign"]["state"] == "CAMPAIGN_STATE_SCHEDULED"
    update = scheduled["planned_changes"][2]["plan"]["update"]
    assert update["definition"]["display_name"] == "Last days"
    # The times that are not given stay.
    again = as_json("campaign", "schedule", id_, *plans, *change, *target)
    assert again["campaign"]["definition"]["start_time"] == iso(start)

    table = vouchsafe("campaign", "changes", id_, *target)
    assert (table.stdout.count("cancelled"), table.stdout.count("planned")) == (3, 3)
    assert "change limits.total, display_name" in table.stdout
    found = as_json("campaign", "changes", id_, "--from", iso(midnight(4)), *target)
    assert [one["plan"]["time"] for one in found if one["state"] == "PLANNED_CHANGE_STATE_PLANNED"] == [
        iso(midnight(5)), iso(midnight(10)),
    ]  # fmt: skip

    drawn = vouchsafe("campaign", "calendar", "--label", id_, *target).stdout
    (line,) = [line for line in drawn.splitlines() if line.startswith(id_)]
    assert line.split()[1:] == ["scheduled", "·██P░R████U█████████········"]
    assert "Days in UTC" in drawn
    weeks = vouchsafe("campaign", "calendar", "--label", id_, "--weeks", "6", "--zone", "Europe/Berlin", *target).stdout
    assert "Weeks from Monday in Europe/Berlin" in weeks
    data = as_json("campaign", "calendar", "--label", id_, *target)
    (campaign,) = data["campaigns"]
    assert campaign["open"] == [
        [iso(start), iso(midnight(3))],
        [iso(midnight(5)), iso(midnight(10))],
        [iso(midnight(10)), iso(end)],
    ]
    assert campaign["paused"] == [[iso(midnight(3)), iso(midnight(5))]]

    pause = scheduled_id(again, "pause")
    cancelled = vouchsafe("campaign", "cancel-change", pause, "--reason", "not this time", *target)
    assert (cancelled.returncode, "cancelled" in cancelled.stdout) == (0, True)


def scheduled_id(response: Any, kind: str) -> str:
    (found,) = [one["id"] for one in response["planned_changes"] if kind in one["plan"]]
    return str(found)


def test_a_pause_says_until_when(service: Service) -> None:
    target, id_ = ("--target", service.target), f"cli-{uuid.uuid4()}"
    assert vouchsafe("campaign", "create", id_, "--percent", "10", *target).returncode == 0
    until = iso(midnight(2))
    paused = vouchsafe("campaign", "pause", id_, "--until", until, "--reason", "count", *target)
    assert until in paused.stdout
    assert as_json("campaign", "get", id_, *target)["resume_time"] == until
    active = vouchsafe("campaign", "archive", id_, *target)
    assert active.returncode == 0


@pytest.mark.parametrize(
    ("args", "status", "text"),
    [
        (("archive", ID), 1, "pause it first"),
        (("update", ID, "--set", "limits.sum=3"), 2, "limits.sum: is not known; accepted are total"),
        (("update", ID, "--set", "limits.total"), 2, "FIELD=VALUE"),
        (("update", ID, "--set", "limits.total=many"), 2, "limits.total"),
        (("update", ID, "--set", "limits.total=-1"), 1, "definition.limits.total"),
        (("schedule", ID, "--pause", "tomorrow"), 2, "ISO 8601"),
        (("schedule", ID, "--pause", iso(midnight(-1))), 1, "planned_changes[0].time: must be later than now"),
        (("schedule", ID, "--change", iso(midnight(1))), 2, "FIELD=VALUE"),
        (("pause", "--label", ID, "--until", iso(midnight(1))), 2, "--until is for one campaign"),
        (("calendar", "--zone", "Mars/Olympus"), 2, "no time zone"),
        (("cancel-change", "999999999"), 1, "there is no planned change"),
    ],
)
def test_what_is_wrong_is_said_with_what_would_be_right(
    service: Service, running: str, args: tuple[str, ...], status: int, text: str
) -> None:
    named = (running if arg == ID else arg for arg in args)
    answer = vouchsafe("campaign", *named, "--target", service.target)
    # typer draws a box around what it says.
    said = re.sub(r"[\s│]+", " ", answer.stderr)
    assert (answer.returncode, text in said) == (status, True), answer.stderr
