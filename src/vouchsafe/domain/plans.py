"""Planned changes: what is to happen to a campaign at a time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from vouchsafe.domain.campaign import Definition
from vouchsafe.domain.trail import paths


class PlannedPause(msgspec.Struct, frozen=True, tag="pause", forbid_unknown_fields=True):
    """As PauseCampaign."""

    reason: str = ""


class PlannedResume(msgspec.Struct, frozen=True, tag="resume", forbid_unknown_fields=True):
    """As ResumeCampaign."""

    reason: str = ""


class PlannedUpdate(msgspec.Struct, frozen=True, tag="update", forbid_unknown_fields=True):
    """As UpdateCampaign: `paths` are the fields that change, none is the whole definition."""

    definition: Definition
    paths: tuple[str, ...] = ()


Change = PlannedPause | PlannedResume | PlannedUpdate

_encode = msgspec.json.Encoder().encode
_decode: msgspec.json.Decoder[Change] = msgspec.json.Decoder(Change)


class PlanState(StrEnum):
    """What has become of a planned change."""

    PLANNED = "planned"
    APPLYING = "applying"  # it can no longer be cancelled
    APPLIED = "applied"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Plan:
    """A change, and when it is to happen, in milliseconds since 1970 UTC."""

    time_ms: int
    change: Change

    @property
    def change_json(self) -> str:
        """The form in which the ledger keeps the change."""
        return _encode(self.change).decode()


@dataclass(frozen=True, slots=True)
class PlannedChange:
    """A change as the ledger has it. `note` says why it was cancelled or has failed, `end_time_ms` when, or when it was
    applied. With `of_pause` a pause that ends by itself has planned it. `plan` is shared by what was planned together;
    None: by a pause, or by a release that did not know of it."""

    id: int
    campaign_id: str
    time_ms: int
    change_json: str
    of_pause: bool
    state: PlanState
    note: str
    end_time_ms: int | None
    plan: str | None

    @property
    def change(self) -> Change:
        """What is to happen. Raises ValueError when this release cannot read it."""
        return _decode.decode(self.change_json)

    @property
    def told(self) -> dict[str, object]:
        """As the audit trail tells it: of a definition only what the change names."""
        change = json.loads(self.change_json)
        named = tuple(change.get("paths", ()))
        said = {"time_ms": self.time_ms, "change": " ".join((change["type"], *named))}
        defined = paths(change.get("definition", {}))
        said |= {path: value for path, value in defined.items() if not named or path.startswith(named)}
        return {f"planned_changes[{self.id}].{path}": value for path, value in said.items()}


@dataclass(frozen=True, slots=True)
class Turn:
    """A planned pause or resume whose time has come. A campaign's turns are taken one after the other, and `number`
    grows from each to the next: what the gate has done already it knows by that. `plan` is that of the change, and
    `pause_end_ms` when it ends the pause that begins now, in milliseconds since 1970 UTC; None for never."""

    change_id: int
    number: int
    plan: str | None = None
    pause_end_ms: int | None = None
