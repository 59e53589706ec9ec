"""Noting in the audit trail what operators do: in the transaction that does it, or that writes the event of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vouchsafe.domain.redemption import Event, EventKind
from vouchsafe.domain.trail import UNKNOWN, Action, Author, Note
from vouchsafe.ledger.connection import Connection, Rejected
from vouchsafe.ledger.queries import SQL
from vouchsafe.ledger.rows import time_of


class _Told(NamedTuple):
    """What an event of a kind tells: the action, its target as a form of the event's campaign and body, and the state
    before and after."""

    action: Action
    target: str
    before: str
    after: str


# What operators do at the gate, by the kind of its event; of an event of any other kind nothing is noted.
TOLD: Mapping[EventKind, _Told] = {
    EventKind.PAUSED: _Told(Action.CAMPAIGN_PAUSE, "campaign:{campaign}", "active", "paused"),
    EventKind.RESUMED: _Told(Action.CAMPAIGN_RESUME, "campaign:{campaign}", "paused", "active"),
    EventKind.SCHEDULED: _Told(Action.CAMPAIGN_SCHEDULE, "campaign:{campaign}", "draft", "active"),
    EventKind.ARCHIVED: _Told(Action.CAMPAIGN_ARCHIVE, "campaign:{campaign}", "not archived", "archived"),
    EventKind.KILL_ENGAGED: _Told(Action.KILL_SWITCH_ENGAGE, "kill_switch:{scope}", "released", "engaged"),
    EventKind.KILL_RELEASED: _Told(Action.KILL_SWITCH_RELEASE, "kill_switch:{scope}", "engaged", "released"),
    EventKind.CODE_DISABLED: _Told(Action.CODE_DISABLE, "code:{code}", "enabled", "disabled"),
    EventKind.CODE_ENABLED: _Told(Action.CODE_ENABLE, "code:{code}", "disabled", "enabled"),
}


async def note_actions(connection: Connection, *notes: Note) -> None:
    """Appends actions to the trail, in their order, but for those that are there. Whoever appends waits for whoever did
    before to commit: it has to be the last thing of a transaction."""
    rows = [
        (
            None if note.at_ms is None else time_of(note.at_ms),
            note.author.principal,
            note.action,
            note.target,
            _json(note.before),
            _json(note.after),
            note.reason,
            note.author.action_id,
        )
        for note in notes
    ]
    await connection.execute(SQL["note_actions"], *map(list, zip(*rows, strict=True)))


def notes_of(events: Sequence[Event]) -> list[Note]:
    """What operators did, by its events. Raises Rejected."""
    return [_note_of(event, told) for event in events if (told := TOLD.get(event.kind)) is not None]


def _note_of(event: Event, told: _Told) -> Note:
    try:
        body = json.loads(event.body)
    except (ValueError, RecursionError):
        raise Rejected("the body is no JSON") from None
    target = told.target.format(campaign=event.campaign_id, scope=_text(body, "scope"), code=_text(body, "code"))
    # Of a kill switch, which is an event of each partition: the same in all of them.
    at_ms = body.get("at_ms")
    if not isinstance(at_ms, int):
        at_ms = event.at_ms
    author = Author(_text(body, "principal") or UNKNOWN.principal, _text(body, "action_id") or None)
    if author.action_id is None and "at_ms" in body:
        # Releases that did not know of the trail gave no id.
        author = author._replace(action_id=f"{event.kind} {target} {at_ms}")
    before, after = {"state": told.before}, {"state": told.after}
    return Note(author, told.action, target, before, after, _text(body, "reason"), at_ms)


def _text(body: Mapping[str, Any], name: str) -> str:
    """A text of the body as a column can hold it, empty when it has none."""
    value = body.get(name)
    return "" if value is None else str(value).replace("\0", "?").encode(errors="replace").decode()


def _json(value: Mapping[str, object]) -> str:
    return json.dumps(value, ensure_ascii=False)
