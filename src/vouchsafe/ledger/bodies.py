"""The bodies of events as PostgreSQL takes them: what it could not read later is Rejected before it is written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import msgspec

from vouchsafe.domain.campaign import CampaignState
from vouchsafe.domain.redemption import MAX_PART, Event, EventKind
from vouchsafe.ledger.connection import Rejected

# The kinds of events whose bodies PostgreSQL reads.
DRAWN_FROM = (
    EventKind.REDEEMED,
    EventKind.COMBINED,
    EventKind.RETURNED,
    EventKind.ROLLED_BACK,
    EventKind.HELD,
    EventKind.RELEASED,
    EventKind.EXPIRED,
)

Number = Annotated[int, msgspec.Meta(ge=-MAX_PART, le=MAX_PART)]


class _Told(msgspec.Struct):
    """What queries read of those: a body that says something else would end every audit, or every recovery."""

    takes: Mapping[str, Number] = {}
    taken_ms: Number = 0
    reservation_id: str = ""
    applied: Sequence[msgspec.Raw] = ()
    codes: Sequence[msgspec.Raw] = ()


_read = msgspec.json.Decoder(_Told).decode


def storable(event: Event) -> str:
    """The body of an event; of one that PostgreSQL reads without NULs, which it has no text for. Raises Rejected."""
    try:
        text = event.body.decode()
    except UnicodeDecodeError:
        raise Rejected("the body is not UTF-8") from None
    if event.kind not in DRAWN_FROM:
        return text
    try:
        _read(event.body)
    except (msgspec.DecodeError, RecursionError):
        raise Rejected("the body does not tell what one of its kind does") from None
    return text.replace("\\u0000", "\\ufffd")


def campaign_states(events: Sequence[Event]) -> Iterable[Sequence[str]]:
    """The campaigns that took a step of their life, column by column: id, state by the last event, reason of the pause.
    Raises Rejected."""
    states: dict[str, tuple[CampaignState, str]] = {}
    for event in events:
        if event.kind is EventKind.PAUSED:
            states[event.campaign_id] = (CampaignState.PAUSED, _text(event, "reason"))
        elif event.kind in (EventKind.RESUMED, EventKind.SCHEDULED):
            states[event.campaign_id] = (CampaignState.ACTIVE, "")
        elif event.kind is EventKind.ARCHIVED:
            states[event.campaign_id] = (CampaignState.ARCHIVED, "")
    values = states.values()
    return list(states), [state for state, _ in values], [reason for _, reason in values]


def code_states(events: Sequence[Event]) -> Iterable[Sequence[str | None]]:
    """The codes that were disabled or enabled, column by column: code, why it is disabled by the last event or None.
    Raises Rejected."""
    states: dict[str, str | None] = {}
    for event in events:
        if event.kind in (EventKind.CODE_DISABLED, EventKind.CODE_ENABLED):
            code, reason = _text(event, "code"), _text(event, "reason")
            states[code] = reason if event.kind is EventKind.CODE_DISABLED else None
    return list(states), list(states.values())


def _text(event: Event, name: str) -> str:
    """A text of the body as a column can hold it; the event itself keeps it as it was given."""
    try:
        text = str(json.loads(event.body)[name])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Rejected(f"the event has no {name} that can be read") from None
    return text.replace("\0", "?").encode(errors="replace").decode()
