"""Kill switches: what they stop, and what partitions say of them together.

A scope is "*" for everything, "label:<label>" for all campaigns with a label, or "code:<code>".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

EVERYTHING = "*"
LABEL = "label:"
CODE = "code:"


class SwitchState(StrEnum):
    """Whether redeeming is stopped."""

    ENGAGED = "engaged"
    RELEASED = "released"
    PARTLY_ENGAGED = "partly engaged"  # cut off, or under way
    UNKNOWN = "unknown"  # partitions cannot be asked


class Engaged(msgspec.Struct, frozen=True):
    """What a partition keeps of a scope: why it was engaged, and when, in milliseconds since 1970 UTC."""

    reason: str
    at_ms: int

    def to_json(self) -> bytes:
        """The form in which it is kept."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, text: bytes) -> Engaged:
        """Reads what `to_json` wrote."""
        return msgspec.json.decode(text, type=cls)


class SwitchEvent(msgspec.Struct, frozen=True):
    """The body of the events KILL_ENGAGED and KILL_RELEASED; the author as in `domain/trail.py`."""

    scope: str
    reason: str
    at_ms: int
    principal: str
    action_id: str | None

    def to_json(self) -> bytes:
        """The body as it is written."""
        return msgspec.json.encode(self)


@dataclass(frozen=True, slots=True)
class KillSwitch:
    """A scope, and whether it is stopped. `engage_time_ms` is when it was engaged first, None when it is not;
    `engaged_partitions` in how many it is."""

    scope: str
    state: SwitchState
    reason: str
    engage_time_ms: int | None
    engaged_partitions: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """A time in which something was stopped, by the book: `what` is "campaign:<id>" for a pause, or the scope of a kill
    switch. Times are milliseconds since 1970 by the gate's clock; `end_time_ms` is None while it lasts. `taken` is how
    many uses stand between begin and end in the order of the streams: none, or a promise was broken."""

    what: str
    reason: str
    begin_time_ms: int
    end_time_ms: int | None
    taken: int


@dataclass(frozen=True, slots=True)
class KillSwitches:
    """All that are engaged somewhere, by scope, and how many of the partitions cannot be asked."""

    switches: Sequence[KillSwitch]
    unreachable: int
    partitions: int

    @property
    def state(self) -> SwitchState:
        """Of everything together."""
        if self.unreachable:
            return SwitchState.UNKNOWN
        if any(one.scope == EVERYTHING and one.state is SwitchState.ENGAGED for one in self.switches):
            return SwitchState.ENGAGED
        return SwitchState.PARTLY_ENGAGED if self.switches else SwitchState.RELEASED

    def of(self, scope: str) -> KillSwitch:
        """One of them, whether it is engaged or not."""
        for one in self.switches:
            if one.scope == scope:
                return one
        state = SwitchState.UNKNOWN if self.unreachable else SwitchState.RELEASED
        return KillSwitch(scope, state, "", None, 0)


def combine(seen: Sequence[Mapping[str, Engaged] | None]) -> KillSwitches:
    """What the partitions say together: for each its scopes, or None when it cannot be asked."""
    told = [one for one in seen if one is not None]
    unreachable = len(seen) - len(told)
    switches = []
    for scope in sorted({scope for one in told for scope in one}):
        engaged = [one[scope] for one in told if scope in one]
        first = min(engaged, key=lambda one: one.at_ms)
        if unreachable:
            state = SwitchState.UNKNOWN
        else:
            state = SwitchState.ENGAGED if len(engaged) == len(told) else SwitchState.PARTLY_ENGAGED
        switches.append(KillSwitch(scope, state, first.reason, first.at_ms, len(engaged)))
    return KillSwitches(switches, unreachable, len(seen))
