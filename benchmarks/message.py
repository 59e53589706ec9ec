"""The one request that every measurement sends: a checkout of a usual size, with an order of its own each time."""

from __future__ import annotations

import os

from vouchsafe.client import Customer, Order, OrderLine
from vouchsafe.v1.redemption_service_pb2 import ValidateAndRedeemRequest

METHOD = "/vouchsafe.v1.RedemptionService/ValidateAndRedeem"

# The codes of the load test, by what becomes of them.
FLASH, GOOD, PAUSED, UNKNOWN = "FLASH-SALE", "GOOD", "PAUSED", "UNKNOWN"
# The campaign that operators of the load test pause and resume.
OPERATED = "operated"

# Sets the ids of this process apart from those of every other.
RUN = os.urandom(6).hex()


def redeem_request(code: str, number: int, *, run: str = RUN) -> ValidateAndRedeemRequest:
    """The request of shopper `number`: two lines, about 220 bytes whatever the number."""
    return ValidateAndRedeemRequest(
        request_id=f"request-{run}-{number:09}",
        codes=[code],
        customer=Customer(
            id=f"customer-{run}-{number:09}", email=f"shopper-{number:09}@example.com", country_code="DE"
        ),
        order=Order(
            id=f"order-{run}-{number:09}",
            currency_code="EUR",
            lines=[
                OrderLine(sku="shirt-blue-m", quantity=2, unit_price_minor=4_990),
                OrderLine(sku="socks-black", quantity=1, unit_price_minor=990),
            ],
            shipping_minor=490,
        ),
    )
