"""The command that draws when campaigns are open, and what is planned, over the coming weeks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer
from rich.text import Text

from vouchsafe.cli.common import Json, Target, ask, out, print_json
from vouchsafe.cli.plans import change_text
from vouchsafe.domain.schedule import intervals

if TYPE_CHECKING:
    from vouchsafe.client import Campaign, Client, PlannedChange
    from vouchsafe.domain.campaign import Definition

# From and to, in milliseconds since 1970 UTC.
Span = tuple[int, int]

OPEN, PARTLY, PAUSED, CLOSED = "█", "▄", "░", "·"
MARKS = {"pause": "P", "resume": "R", "update": "U"}
SEVERAL = "+"
STYLES = {OPEN: "green", PARTLY: "green", PAUSED: "yellow", CLOSED: "dim"}
LEGEND = (
    f"{OPEN} open all the time, {PARTLY} some of it, {PAUSED} paused, {CLOSED} closed; P pause, R resume, U update "
    f"planned, {SEVERAL} several"
)

app = typer.Typer()


@dataclass
class Row:
    """What is known of a campaign from now on: when it is open, when it is paused, and what is planned."""

    campaign: Campaign
    open: list[Span] = field(default_factory=list)
    paused: list[Span] = field(default_factory=list)
    changes: list[PlannedChange] = field(default_factory=list)


@app.command("calendar")
def campaign_calendar(
    days: Annotated[int, typer.Option(min=1, max=100, help="A column a day, so many.")] = 28,
    weeks: Annotated[
        int | None, typer.Option(min=1, max=100, help="A column a week, so many, instead.", show_default=False)
    ] = None,
    zone: Annotated[str, typer.Option(help="The time zone of the days, such as Europe/Berlin.")] = "UTC",
    label: Annotated[str | None, typer.Option(help="Only campaigns that have this label.", show_default=False)] = None,
    target: Target = None,
    as_json: Json = False,
) -> None:
    """Draw when campaigns are open over the coming days or weeks, and what is planned for them."""
    edges = _edges(_zone(zone), days, weeks)
    from_ms, to_ms = edges[0], edges[-1]

    async def fetch(client: Client) -> list[Row]:
        rows = {one.id: Row(one) async for one in client.list_campaigns(label=label or "")}
        start, end = (datetime.fromtimestamp(ms / 1000, UTC) for ms in (0, to_ms))
        async for change in client.list_planned_changes(from_time=start, to_time=end):
            if change.campaign_id in rows and _is_to_come(change):
                rows[change.campaign_id].changes.append(change)
        return list(rows.values())

    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    rows = ask(target, fetch)
    for row in rows:
        _work_out(row, now_ms, from_ms, to_ms)
    if as_json:
        print_json({"zone": zone, "from": _iso(from_ms), "to": _iso(to_ms), "campaigns": list(map(_as_dict, rows))})
    elif rows:
        _draw(rows, edges, _zone(zone), zone, by_weeks=weeks is not None)
    else:
        out.print("no campaigns to draw")


# -- working out -------------------------------------------------------------------------------------------------------


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise typer.BadParameter(f"--zone {name} is no time zone; give one such as Europe/Berlin or UTC") from None


def _edges(zone: ZoneInfo, days: int, weeks: int | None) -> list[int]:
    """Where each column begins, and the last one ends; columns begin at midnight, weeks on Mondays."""
    first = datetime.now(zone).date()
    step, count = timedelta(days=1), days
    if weeks is not None:
        first -= timedelta(days=first.weekday())
        step, count = timedelta(weeks=1), weeks
    starts = (first + number * step for number in range(count + 1))
    return [int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp() * 1000) for day in starts]


def _is_to_come(change: PlannedChange) -> bool:
    from vouchsafe.client import PlannedChangeState

    states = PlannedChangeState
    return change.state in (states.PLANNED_CHANGE_STATE_PLANNED, states.PLANNED_CHANGE_STATE_APPLYING)


def _work_out(row: Row, now_ms: int, from_ms: int, to_ms: int) -> None:
    """Follows the campaign from now on through what is planned; what was before now, its definition says."""
    from vouchsafe.client import CampaignState
    from vouchsafe.edge.convert_campaigns import definition

    states = CampaignState
    if row.campaign.state == states.CAMPAIGN_STATE_DRAFT:
        return
    current = definition(row.campaign.definition)
    is_paused = row.campaign.state == states.CAMPAIGN_STATE_PAUSED
    if not is_paused:
        row.open += _open(current, from_ms, min(now_ms, to_ms))
    at_ms = now_ms
    for change in row.changes:
        then_ms = max(at_ms, change.plan.time.ToMilliseconds())
        _note(row, current, is_paused, at_ms, then_ms)
        at_ms = then_ms
        match change.plan.WhichOneof("change"):
            case "pause":
                is_paused = True
            case "resume":
                is_paused = False
            case "update":
                current = _updated(current, change)
    _note(row, current, is_paused, at_ms, to_ms)


def _note(row: Row, current: Definition, is_paused: bool, from_ms: int, to_ms: int) -> None:
    if from_ms < to_ms:
        if is_paused:
            row.paused.append((from_ms, to_ms))
        else:
            row.open += _open(current, from_ms, to_ms)


def _open(current: Definition, from_ms: int, to_ms: int) -> list[Span]:
    start_ms = from_ms if current.start_time_ms is None else max(from_ms, current.start_time_ms)
    end_ms = to_ms if current.end_time_ms is None else min(to_ms, current.end_time_ms)
    if start_ms >= end_ms:
        return []
    return [(start_ms, end_ms)] if current.schedule is None else intervals(current.schedule, start_ms, end_ms)


def _updated(current: Definition, change: PlannedChange) -> Definition:
    """The definition behind a planned change; as it was if the change is one that will fail."""
    from vouchsafe.domain.errors import InvalidRequest
    from vouchsafe.edge.convert_campaigns import definition
    from vouchsafe.edge.masks import merged

    update = change.plan.update
    try:
        return merged(current, definition(update.definition), list(update.update_mask.paths))
    except InvalidRequest:
        return current


# -- showing -----------------------------------------------------------------------------------------------------------


def _draw(rows: Sequence[Row], edges: Sequence[int], zone: ZoneInfo, name: str, *, by_weeks: bool) -> None:
    from vouchsafe.cli.show import state_text

    days = [datetime.fromtimestamp(ms / 1000, zone) for ms in edges[:-1]]
    ids = max(len(row.campaign.id) for row in rows)
    states = max(len(state_text(row.campaign.state)) for row in rows)
    indent = " " * (ids + states + 4)
    if by_weeks:
        out.print(
            indent + _labels([f"{day:%b}" if day.day <= 7 or not number else "" for number, day in enumerate(days)])
        )
    else:
        firsts = [f"{day.day} {day:%b}" if not day.weekday() or not number else "" for number, day in enumerate(days)]
        out.print(indent + _labels(firsts))
        out.print(indent + "".join("MTWTFSS"[day.weekday()] for day in days))
    for row in rows:
        line = Text(f"{row.campaign.id:<{ids}}  {state_text(row.campaign.state):<{states}}  ")
        for cell in _cells(row, edges):
            line.append(cell, STYLES.get(cell, "bold"))
        out.print(line)
    out.print(f"{LEGEND}. {'Weeks from Monday' if by_weeks else 'Days'} in {name}.", style="dim")
    for row in rows:
        for change in row.changes:
            moment = change.plan.time.ToDatetime(UTC).astimezone(zone)
            text = f"  {row.campaign.id}  {moment:%Y-%m-%d %H:%M %Z}  {change_text(change.plan)}"
            out.print(text, markup=False)


def _labels(labels: Sequence[str]) -> str:
    """Each label from its column on, unless the one before reaches that far."""
    line = ""
    for column, label in enumerate(labels):
        if label and len(line) <= column:
            line = line.ljust(column) + label + " "
    return line


def _cells(row: Row, edges: Sequence[int]) -> Iterator[str]:
    for from_ms, to_ms in pairwise(edges):
        changes = [one for one in row.changes if from_ms <= one.plan.time.ToMilliseconds() < to_ms]
        if changes:
            yield SEVERAL if len(changes) > 1 else MARKS.get(changes[0].plan.WhichOneof("change") or "", SEVERAL)
            continue
        opened = _length(row.open, from_ms, to_ms)
        if opened:
            yield OPEN if opened == to_ms - from_ms else PARTLY
        else:
            yield PAUSED if _length(row.paused, from_ms, to_ms) else CLOSED


def _length(spans: Sequence[Span], from_ms: int, to_ms: int) -> int:
    return sum(max(0, min(end, to_ms) - max(start, from_ms)) for start, end in spans)


def _as_dict(row: Row) -> dict[str, Any]:
    from vouchsafe.cli.common import as_dict
    from vouchsafe.cli.show import state_text

    return {
        "campaign": row.campaign.id,
        "name": row.campaign.definition.display_name,
        "state": state_text(row.campaign.state),
        "open": [[_iso(start), _iso(end)] for start, end in row.open],
        "paused": [[_iso(start), _iso(end)] for start, end in row.paused],
        "changes": [as_dict(change) for change in row.changes],
    }


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat().replace("+00:00", "Z")
