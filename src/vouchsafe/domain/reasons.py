"""Why a code is not redeemed: one enum, shared by Lua, Python, the protos and the docs (a test holds them together)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum


class Reason(IntEnum):
    """Refusal reasons in order of precedence: when several hold, the lowest number is answered."""

    CODE_UNKNOWN = 10
    ORDER_ALREADY_REDEEMED = 20
    CAMPAIGN_PAUSED = 110
    CAMPAIGN_NOT_STARTED = 120
    CAMPAIGN_ENDED = 130
    CURRENCY_MISMATCH = 210
    NO_EFFECT = 220
    CODE_LIMIT_REACHED = 310
    CUSTOMER_LIMIT_REACHED = 320
    CAMPAIGN_LIMIT_REACHED = 330


MESSAGES: Mapping[Reason, str] = {
    Reason.CODE_UNKNOWN: "No campaign has this code.",
    Reason.ORDER_ALREADY_REDEEMED: "This order has redeemed this code already, with other contents.",
    Reason.CAMPAIGN_PAUSED: "The campaign is paused.",
    Reason.CAMPAIGN_NOT_STARTED: "The campaign has not started yet.",
    Reason.CAMPAIGN_ENDED: "The campaign is over.",
    Reason.CURRENCY_MISMATCH: "The discount is in another currency than the order.",
    Reason.NO_EFFECT: "The discount on this order would be zero.",
    Reason.CODE_LIMIT_REACHED: "The code has been used as often as it may be.",
    Reason.CUSTOMER_LIMIT_REACHED: "The customer has used the campaign as often as one customer may.",
    Reason.CAMPAIGN_LIMIT_REACHED: "The campaign has been used as often as it may be.",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """The answer "no": the reason, the code as stored, and the numbers behind the reason."""

    reason: Reason
    code: str
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def message(self) -> str:
        """Why, in English."""
        return MESSAGES[self.reason]
