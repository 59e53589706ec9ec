"""The audit trail: what operators do, who, when and why, in a chain that shows when it was changed afterwards.

What goes to the ledger first is noted in the transaction that does it. What stops something goes to the gate first: its
event carries the author, and is noted by whoever writes it into the ledger.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple


class Action(StrEnum):
    """What can be done. A new one that goes to the gate first also has its line in `ledger/notes.py`."""

    CAMPAIGN_CREATE = "campaign.create"
    CAMPAIGN_UPDATE = "campaign.update"
    CAMPAIGN_PAUSE = "campaign.pause"
    CAMPAIGN_RESUME = "campaign.resume"
    CAMPAIGN_SCHEDULE = "campaign.schedule"
    CAMPAIGN_CANCEL_CHANGE = "campaign.cancel_change"
    CAMPAIGN_ARCHIVE = "campaign.archive"
    KILL_SWITCH_ENGAGE = "kill_switch.engage"
    KILL_SWITCH_RELEASE = "kill_switch.release"
    CODES_GENERATE = "codes.generate"
    CODES_IMPORT = "codes.import"
    CODES_EXPORT = "codes.export"
    CODES_ASSIGN = "codes.assign"
    CODES_GIFT = "codes.gift"
    CODE_DISABLE = "code.disable"
    CODE_ENABLE = "code.enable"
    KEY_CREATE = "key.create"
    KEY_REVOKE = "key.revoke"


class Author(NamedTuple):
    """Who acts, and the id of this one call: however many parts it has, it is noted once. None: nobody gave one."""

    principal: str
    action_id: str | None

    def told(self) -> dict[str, str | None]:
        """As the body of an event has it, beside what else it says."""
        return self._asdict()


UNKNOWN = Author("unknown", None)


@dataclass(frozen=True, slots=True)
class Note:
    """An action. `target` is "campaign:<id>", "code:<code>", "kill_switch:<scope>", "key:<id>" or "codes"; `before` and
    `after` are what was changed, by its path; `at_ms` is when, None for now."""

    author: Author
    action: Action
    target: str
    before: Mapping[str, object]
    after: Mapping[str, object]
    reason: str = ""
    at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """An action as it was noted; `before` and `after` are JSON objects."""

    number: int
    at_ms: int
    principal: str
    action: str
    target: str
    before: str
    after: str
    reason: str
    action_id: str | None
    hash: bytes


@dataclass(frozen=True, slots=True)
class TrailFilter:
    """Which actions; None for any. Times are milliseconds since 1970 UTC, the end is not in it."""

    principal: str | None = None
    action: str | None = None
    target: str | None = None
    start_time_ms: int | None = None
    end_time_ms: int | None = None


# -- what was changed --------------------------------------------------------------------------------------------------


def paths(value: Any) -> dict[str, object]:
    """Everything that a value of JSON says, by its path, "limits.total" say, but for what is empty."""
    return dict(_paths(value, ""))


def changed(old: Any, new: Any) -> tuple[dict[str, object], dict[str, object]]:
    """What only the one and only the other of two values of JSON says."""
    before, after = paths(old), paths(new)
    return (
        {path: value for path, value in before.items() if path not in after or after[path] != value},
        {path: value for path, value in after.items() if path not in before or before[path] != value},
    )


def _paths(value: Any, path: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _paths(part, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _paths(part, f"{path}[{index}]")
    elif value not in (None, ""):
        yield path, value


# -- the chain ---------------------------------------------------------------------------------------------------------

# What stands before the first.
FIRST_HASH = bytes(32)


class Link(NamedTuple):
    """An action as the chain has it: `fields` are number, time in microseconds since 1970 UTC, principal, action,
    target, before, after, reason and action id, as text."""

    number: int
    fields: Sequence[str | None]
    prev_hash: bytes
    hash: bytes


def link_hash(prev_hash: bytes, fields: Sequence[str | None]) -> bytes:
    """SHA-256 over the hash before and then each field: `<number of bytes>:<UTF-8>`, or `-` for None. The ledger's
    function append_audit_event says the same."""
    told = [b"-" if field is None else b"%d:%s" % (len(data := field.encode()), data) for field in fields]
    return hashlib.sha256(prev_hash + b"".join(told)).digest()


class Chain:
    """Walks the chain from its begin on, one link at a time."""

    def __init__(self) -> None:
        self.number = 0
        self.hash = FIRST_HASH

    def follow(self, link: Link) -> str | None:
        """Takes the next link; or says what is wrong with it, and stays where it is."""
        if link.number > self.number + 1:
            return f"row {self.number + 1} is missing"
        if link.number != self.number + 1:
            return f"row {link.number} has a number that no row was given"
        if link.prev_hash != self.hash:
            return f"row {link.number} does not follow the row before it"
        if link_hash(self.hash, link.fields) != link.hash:
            return f"row {link.number} was changed: its hash is not that of what it says"
        self.number, self.hash = link.number, link.hash
        return None

    def end(self, head_number: int, head_hash: bytes) -> str | None:
        """Says what is wrong with where the ledger says that the chain ends."""
        if self.number < head_number:
            return f"row {self.number + 1} is missing, and so are all up to {head_number}"
        if self.number > head_number:
            return f"row {head_number + 1} stands behind the end of the chain"
        return None if self.hash == head_hash else f"row {self.number} is not the one that the chain ends with"


@dataclass(frozen=True, slots=True)
class ChainCheck:
    """What a walk has found: how many rows hold together from the begin on, the hash of the last of them, and what is
    wrong (None: nothing). `expected_row` is the row with the hash that was expected (0: before all rows); None when
    there is none, or none was expected."""

    rows: int
    head: bytes
    broken: str | None
    expected_row: int | None
