"""The life of a campaign in the model."""

from __future__ import annotations

from dataclasses import dataclass

from vouchsafe.domain.campaign import Definition
from vouchsafe.domain.plans import Turn
from vouchsafe.domain.reasons import Reason


@dataclass
class CampaignModel:
    """A campaign is active, paused or archived; or pausing or archiving: it admits nothing then, but what is held of it
    is not settled yet."""

    definition: Definition
    version: int = 1
    state: str = "active"
    turn: int = 0  # the last planned change that it has taken
    left_turn: int = 0  # the last one that had to leave its pause alone
    plan: str | None = None  # whose pause it is; None for one by hand

    @property
    def refusal(self) -> Reason:
        """Why nothing is taken while it is not active."""
        return Reason.CAMPAIGN_ENDED if self.state.startswith("archiv") else Reason.CAMPAIGN_PAUSED

    def leaves_alone(self, turn: Turn | None, kind: str) -> bool:
        """Whether a planned change has to leave the pause alone that stands, or had to before."""
        if turn is None:
            return False
        if turn.plan is not None and self.state.startswith("paus"):
            is_of_others = self.plan is None if kind == "paused" else self.plan != turn.plan
            self.left_turn = turn.number if is_of_others else self.left_turn
        return turn.number == self.left_turn
