"""Events as the gate would record them."""

from __future__ import annotations

import json

from tests.values import a_definition, a_discount
from vouchsafe.domain.redemption import Claim, Event, EventKind, Position, StreamId

PARTITION, EPOCH = 3, 1
FIRST_MS = 1_700_000_000_000

SUMMER = a_definition("Summer")


def stream_id(number: int) -> StreamId:
    """Three events a millisecond, numbered from 0."""
    return StreamId(FIRST_MS + number // 3, number % 3)


def event(number: int, kind: EventKind, body: bytes, campaign_id: str = "summer") -> Event:
    place = stream_id(number)
    return Event(Position(PARTITION, EPOCH, place), kind, place.ms, campaign_id, body)


def redeemed(number: int, campaign_id: str = "summer") -> Event:
    claim = Claim(
        request_id=f"request-{number}",
        fingerprint=f"{number:032x}",
        campaign_id=campaign_id,
        campaign_version=1,
        code="SUMMER10",
        customer_id=f"customer-{number % 7}",
        order_id=f"order-{number}",
        currency_code="EUR",
        order_amount_minor=10**15,
        discount=a_discount(1_200),
    )
    return event(number, EventKind.REDEEMED, claim.to_json(), campaign_id)


def paused(number: int, reason: str = "", campaign_id: str = "summer") -> Event:
    return event(number, EventKind.PAUSED, json.dumps({"reason": reason}).encode(), campaign_id)


def resumed(number: int, reason: str = "", campaign_id: str = "summer") -> Event:
    return event(number, EventKind.RESUMED, json.dumps({"reason": reason}).encode(), campaign_id)
