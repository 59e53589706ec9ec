"""What a campaign is: its definition as an operator gave it, and its state."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from vouchsafe.domain.conditions import Basis, CelExpression, Condition
from vouchsafe.domain.effects import Effect
from vouchsafe.domain.limits import Limits
from vouchsafe.domain.lines import LineSelector
from vouchsafe.domain.rollback import RollbackPolicy
from vouchsafe.domain.schedule import Schedule


class CombineMode(StrEnum):
    """With which other codes of the same order a campaign's codes combine."""

    EXCLUSIVE = "EXCLUSIVE"  # with JOINT ones only
    GROUPED = "GROUPED"  # with JOINT ones, and with GROUPED ones of other groups
    JOINT = "JOINT"  # with all


class Stacking(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a campaign behaves beside others on one order. A higher priority is applied first; `basis` is what its
    discount is worked out on. Exclusive and joint are meant as in Voucherify's stacking rules."""

    mode: CombineMode = CombineMode.EXCLUSIVE
    group: str = ""
    priority: int = 0
    basis: Basis = Basis.REMAINING

    def combines_with(self, other: Stacking) -> bool:
        """Whether codes of both may be applied to one order; the same either way round."""
        modes = {self.mode, other.mode}
        if CombineMode.JOINT in modes:
            return True
        return modes == {CombineMode.GROUPED} and self.group != other.group


class Definition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator says about a campaign. Amounts are minor units of `currency_code`, which is empty when there are
    none. Usable in [start_time_ms, end_time_ms), milliseconds since 1970 UTC, while `schedule` is open.
    `code_validity_ms` bounds a code that was assigned, counted from then."""

    display_name: str
    effects: tuple[Effect, ...]
    limits: Limits = Limits()
    start_time_ms: int | None = None
    end_time_ms: int | None = None
    schedule: Schedule | None = None
    currency_code: str = ""
    eligible_lines: LineSelector | None = None
    conditions: tuple[Condition, ...] = ()
    expression: CelExpression | None = None
    code_validity_ms: int | None = None
    stacking: Stacking = Stacking()
    rollback: RollbackPolicy = RollbackPolicy()
    labels: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The form in which ledger and gate keep it; `from_json` reads it back."""
        return _encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Definition:
        """Reads what `to_json` wrote. Raises ValueError on anything else, also on a field that this release does not
        know: a rule that is not understood must not be passed over."""
        return _decode(text)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Definition).decode


class CampaignState(StrEnum):
    """Where a campaign is in its life (docs/campaign-life.md). The stores keep DRAFT, ACTIVE, PAUSED and ARCHIVED; one
    that they keep as ACTIVE may be SCHEDULED or ENDED by the clock."""

    DRAFT = "draft"
    SCHEDULED = "scheduled"
    ACTIVE = "active"
    PAUSED = "paused"
    ENDED = "ended"
    ARCHIVED = "archived"


@dataclass(frozen=True, slots=True)
class Campaign:
    """A campaign as the ledger defines it. `create_time_ms` is milliseconds since 1970 UTC. `kept` is the state that is
    kept by the store from which this was read; the ledger may be a moment behind the gate."""

    id: str
    version: int
    definition: Definition
    create_time_ms: int
    kept: CampaignState = CampaignState.ACTIVE


@dataclass(frozen=True, slots=True)
class CampaignStatus:
    """A campaign with what the gate knows of it at `now_ms`, the gate's clock: its redemptions, what they take off
    together in minor units, the same for what is held for orders now, and how many different customers have one or the
    other (None where that is not counted)."""

    campaign: Campaign
    pause_reason: str
    resume_time_ms: int | None
    redeemed_count: int
    discount_minor: int
    held_count: int
    held_minor: int
    customer_count: int | None
    now_ms: int

    @property
    def state(self) -> CampaignState:
        """In the order of precedence that refusals have, too: what is kept outweighs the clock."""
        definition = self.campaign.definition
        if self.campaign.kept is not CampaignState.ACTIVE:
            return self.campaign.kept
        if definition.end_time_ms is not None and self.now_ms >= definition.end_time_ms:
            return CampaignState.ENDED
        if definition.start_time_ms is not None and self.now_ms < definition.start_time_ms:
            return CampaignState.SCHEDULED
        return CampaignState.ACTIVE


@dataclass(frozen=True, slots=True)
class CampaignFilter:
    """Which campaigns are listed: those that are archived only if they are asked for; None and '' are any."""

    is_archived_shown: bool = False
    state: CampaignState | None = None
    label: str = ""

    def shows(self, state: CampaignState) -> bool:
        """Whether a campaign in this state is one of them."""
        if self.state is not None:
            return state is self.state
        return self.is_archived_shown or state is not CampaignState.ARCHIVED


ANY_CAMPAIGN = CampaignFilter(is_archived_shown=True)


class CodeEntry(msgspec.Struct, frozen=True):
    """Where a code leads: its campaign, how often the code itself may be used (None: no limit of its own), and to whom
    and when it was given (milliseconds since 1970 UTC), if it was. `expire_time_ms` is the first moment at which it is
    not valid, if that was said when it was given; else the campaign's `code_validity_ms` says."""

    code: str
    campaign_id: str
    use_limit: int | None
    holder_id: str = ""
    assign_time_ms: int | None = None
    expire_time_ms: int | None = None


def normalise_code(code: str) -> str:
    """The form in which codes are stored and compared: capitals and small letters are the same."""
    return code.upper()
