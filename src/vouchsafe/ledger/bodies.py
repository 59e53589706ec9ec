"""Events as PostgreSQL takes them: what it could not read later is Rejected before it is written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import msgspec

from vouchsafe.domain.redemption import MAX_PART, Event, EventKind, StreamId
from vouchsafe.ledger.connection import Rejected
from vouchsafe.ledger.rows import time_of

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


def columns(partition: int, offset: StreamId, events: Sequence[Event]) -> Iterable[Sequence[object]]:
    """The events, which follow `offset` in the partition's outbox, column by column: epoch, ms, seq, at, kind,
    campaign, body."""
    rows = []
    epoch = 0
    for event in events:
        position = event.position
        if position.partition != partition or position.stream_id <= offset:
            raise ValueError(f"{position} does not follow {epoch}-{offset} in the outbox of partition {partition}")
        if position.epoch < epoch:
            raise Rejected(f"{position} is of an epoch that was over")
        epoch, offset = position[1:]
        row = (epoch, *offset, time_of(event.at_ms), event.kind, event.campaign_id, storable(event))
        rows.append(row)
    return zip(*rows, strict=True)


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


def code_states(events: Sequence[Event]) -> Iterable[Sequence[str | None]]:
    """The codes that were disabled or enabled, column by column: code, why it is disabled by the last event or None.
    Raises Rejected."""
    states: dict[str, str | None] = {}
    for event in events:
        if event.kind in (EventKind.CODE_DISABLED, EventKind.CODE_ENABLED):
            code, reason = text_of(event, "code"), text_of(event, "reason")
            states[code] = reason if event.kind is EventKind.CODE_DISABLED else None
    return list(states), list(states.values())


def text_of(event: Event, name: str, default: str | None = None) -> str:
    """A text of the body as a column can hold it; the event itself keeps it as it was given. Raises Rejected, also when
    there is none and no default."""
    try:
        body = json.loads(event.body)
        text = body[name] if default is None else body.get(name, default)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Rejected(f"the event has no {name} that can be read") from None
    return str(text).replace("\0", "?").encode(errors="replace").decode()


def number_of(event: Event, name: str) -> int | None:
    """A number of the body that a column can hold, None when there is none. Raises Rejected."""
    try:
        number = json.loads(event.body).get(name)
    except (ValueError, AttributeError, RecursionError):
        number = ""
    if number is None or (type(number) is int and 0 < number <= MAX_PART):
        return number
    raise Rejected(f"the event has no {name} that can be read")
