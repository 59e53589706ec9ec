"""Why a code is not redeemed: one enum, shared by Lua, Python, the protos and the docs (a test holds them together)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

import msgspec


class Reason(IntEnum):
    """Refusal reasons in order of precedence: when several hold, the lowest number is answered."""

    CODE_NOT_USABLE = 5
    CODE_UNKNOWN = 10
    ORDER_ALREADY_REDEEMED = 20
    RESERVATION_EXPIRED = 30
    RESERVATION_RELEASED = 32
    RESERVATION_CONFIRMED = 34
    RESERVATION_REPLACED = 36
    ALREADY_ROLLED_BACK = 40
    ROLLBACK_TOO_LARGE = 42
    KILL_SWITCH_ENGAGED = 105
    CODE_DISABLED = 107
    CAMPAIGN_PAUSED = 110
    CAMPAIGN_NOT_STARTED = 120
    CAMPAIGN_ENDED = 130
    OUTSIDE_SCHEDULE = 140
    CODE_EXPIRED = 150
    NOT_THE_HOLDER = 160
    CUSTOMER_NOT_ELIGIBLE = 210
    COUNTRY_NOT_ELIGIBLE = 220
    CHANNEL_NOT_ELIGIBLE = 230
    DATE_NOT_ELIGIBLE = 240
    CURRENCY_MISMATCH = 250
    ORDER_NOT_ELIGIBLE = 255
    ITEMS_NOT_ELIGIBLE = 260
    QUANTITY_OUT_OF_RANGE = 270
    AMOUNT_OUT_OF_RANGE = 280
    EXPRESSION_NOT_MET = 290
    NO_EFFECT = 300
    CODE_LIMIT_REACHED = 310
    CUSTOMER_LIMIT_REACHED = 320
    CUSTOMER_PERIOD_LIMIT_REACHED = 322
    IDENTITY_LIMIT_REACHED = 324
    ATTRIBUTE_LIMIT_REACHED = 326
    CUSTOMER_BUDGET_EXHAUSTED = 328
    CAMPAIGN_LIMIT_REACHED = 330
    DISTINCT_CUSTOMERS_REACHED = 332
    BUDGET_EXHAUSTED = 334
    NOT_COMBINABLE = 410
    TOO_MANY_CODES = 420


# What a caller who is not trusted is told in the same words as that there is no such code: who may use it, and when.
# What comes behind depends on the order or on limits; by the precedence it is only told of a code that is for this
# shopper, now.
HIDDEN = frozenset(
    reason
    for reason in Reason
    if reason is Reason.CODE_UNKNOWN or Reason.KILL_SWITCH_ENGAGED <= reason <= Reason.DATE_NOT_ELIGIBLE
)
# What only a wrong code is refused for. That a campaign is over, or stopped, is nobody's guess.
GUESSED = frozenset((Reason.CODE_UNKNOWN, Reason.NOT_THE_HOLDER))

MESSAGES: Mapping[Reason, str] = {
    Reason.CODE_NOT_USABLE: "This code cannot be used.",
    Reason.CODE_UNKNOWN: "No campaign has this code.",
    Reason.ORDER_ALREADY_REDEEMED: "This order has redeemed this code already, with other contents.",
    Reason.RESERVATION_EXPIRED: "The reservation's time was over before it was confirmed.",
    Reason.RESERVATION_RELEASED: "The reservation was given back.",
    Reason.RESERVATION_CONFIRMED: "The reservation was confirmed; roll the redemption back instead.",
    Reason.RESERVATION_REPLACED: "The order has changed, and another reservation has taken the place of this one.",
    Reason.ALREADY_ROLLED_BACK: "The whole redemption was rolled back before.",
    Reason.ROLLBACK_TOO_LARGE: "Less than that is left of the redemption.",
    Reason.KILL_SWITCH_ENGAGED: "Redeeming is stopped.",
    Reason.CODE_DISABLED: "The code is disabled.",
    Reason.CAMPAIGN_PAUSED: "The campaign is paused.",
    Reason.CAMPAIGN_NOT_STARTED: "The campaign has not started yet.",
    Reason.CAMPAIGN_ENDED: "The campaign is over.",
    Reason.OUTSIDE_SCHEDULE: "The campaign is closed at this time.",
    Reason.CODE_EXPIRED: "The code was valid for a time after it was given, and that time is over.",
    Reason.NOT_THE_HOLDER: "The code was given to another customer.",
    Reason.CUSTOMER_NOT_ELIGIBLE: "The campaign is for other customers.",
    Reason.COUNTRY_NOT_ELIGIBLE: "The campaign is for other countries or regions.",
    Reason.CHANNEL_NOT_ELIGIBLE: "The campaign is for other channels.",
    Reason.DATE_NOT_ELIGIBLE: "It is not the customer's time of the year.",
    Reason.CURRENCY_MISMATCH: "The campaign is in another currency than the order.",
    Reason.ORDER_NOT_ELIGIBLE: "The campaign is for other orders.",
    Reason.ITEMS_NOT_ELIGIBLE: "The campaign asks for other items in the order.",
    Reason.QUANTITY_OUT_OF_RANGE: "The order has too few or too many units of what the campaign asks for.",
    Reason.AMOUNT_OUT_OF_RANGE: "The order comes to too little or too much of what the campaign asks for.",
    Reason.EXPRESSION_NOT_MET: "The campaign's own rule does not hold.",
    Reason.NO_EFFECT: "The discount on this order would be zero.",
    Reason.CODE_LIMIT_REACHED: "The code has been used as often as it may be.",
    Reason.CUSTOMER_LIMIT_REACHED: "The customer has used the campaign as often as one customer may.",
    Reason.CUSTOMER_PERIOD_LIMIT_REACHED: "The customer has used the campaign as often as they may in this time.",
    Reason.IDENTITY_LIMIT_REACHED: "The shopper has used the campaign as often as one may.",
    Reason.ATTRIBUTE_LIMIT_REACHED: "The campaign has been used as often as it may be there.",
    Reason.CUSTOMER_BUDGET_EXHAUSTED: "The campaign has given the customer as much as it may give one.",
    Reason.CAMPAIGN_LIMIT_REACHED: "The campaign has been used as often as it may be.",
    Reason.DISTINCT_CUSTOMERS_REACHED: "As many customers have used the campaign as may.",
    Reason.BUDGET_EXHAUSTED: "What is left of the campaign's budget does not cover the discount.",
    Reason.NOT_COMBINABLE: "The code does not combine with another code of this order.",
    Reason.TOO_MANY_CODES: "The order has as many codes as it may have.",
}


class Refusal(msgspec.Struct, frozen=True):
    """The answer "no": the reason, the code as stored, the numbers behind the reason, and the campaign's own words for
    it, if it has any."""

    reason: Reason
    code: str
    metadata: Mapping[str, str] = {}
    own_message: str = ""

    @property
    def message(self) -> str:
        """Why: in the campaign's words, else in English."""
        return self.own_message or MESSAGES[self.reason]
