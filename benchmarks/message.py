"""The one request that every measurement sends, as a message and as bytes: a checkout of a usual size, with an order of
its own each time, and the campaign that it is judged by."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal, get_args

import msgspec

from benchmarks.rules import TYPICAL
from vouchsafe.client import Customer, Order, OrderLine
from vouchsafe.domain.limits import Limits
from vouchsafe.v1.redemption_service_pb2 import ValidateAndRedeemRequest

# How requests travel: one a call, over a stream that stays open, or many in a call.
Way = Literal["unary", "stream", "batch"]
WAYS: tuple[Way, ...] = get_args(Way)
METHODS: dict[Way, str] = {
    "unary": "/vouchsafe.v1.RedemptionService/ValidateAndRedeem",
    "stream": "/vouchsafe.v1.RedemptionService/StreamValidateAndRedeem",
    "batch": "/vouchsafe.v1.RedemptionService/BatchValidateAndRedeem",
}
# Items of a batch.
BATCH = 64

# The codes of the load test, by what becomes of them.
FLASH, GOOD, PAUSED, UNKNOWN = "FLASH-SALE", "GOOD", "PAUSED", "UNKNOWN"
# The campaign that operators of the load test pause and resume.
OPERATED = "operated"

# Five conditions that all hold, and limits that are all counted and never reached.
LIMITS = Limits(total=10**9, per_customer=1)
DEFINITION = msgspec.structs.replace(TYPICAL, limits=LIMITS)
LINES = 3
PRODUCTS = (("boots-black-42", "shoes", 8_990), ("shirt-blue-m", "shirts", 4_990), ("socks-black", "socks", 990))

# Sets the ids of this process apart from those of every other.
RUN = os.urandom(6).hex()
# A number of a shopper, to be replaced by others.
MARK = 987_654_321


def redeem_request(code: str, number: int, *, run: str = RUN, lines: int = LINES) -> ValidateAndRedeemRequest:
    """The request of shopper `number`: of three lines, about 330 bytes whatever the number."""
    return ValidateAndRedeemRequest(
        request_id=f"request-{run}-{number:09}",
        codes=[code],
        customer=Customer(
            id=f"customer-{run}-{number:09}",
            email=f"shopper-{number:09}@example.com",
            country_code="DE",
            segments=["new"],
            order_count=0,
        ),
        order=Order(
            id=f"order-{run}-{number:09}",
            currency_code="EUR",
            lines=[_line(at) for at in range(lines)],
            shipping_minor=490,
        ),
    )


def _line(at: int) -> OrderLine:
    sku, category, unit_price_minor = PRODUCTS[at % len(PRODUCTS)]
    return OrderLine(
        sku=f"{sku}-{at // len(PRODUCTS):02}",
        categories=["clothes", category],
        quantity=1 + at % 2,
        unit_price_minor=unit_price_minor,
    )


class Requests:
    """Serialised once, before a round: a request is then no more than a joining of bytes. Shopper `number` uses the
    code at `number` modulo how many there are."""

    def __init__(self, codes: Sequence[str], *, run: str = RUN, lines: int = LINES) -> None:
        """Raises ValueError for codes of different lengths."""
        if len({len(code) for code in codes}) != 1:
            raise ValueError("codes have to be there, and of one length")
        first = codes[0].encode()
        whole = redeem_request(codes[0], MARK, run=run, lines=lines).SerializeToString()
        before, found, after = whole.partition(first)
        assert found
        assert first not in after
        # What lies around the number of the shopper.
        self._parts = [(before + code.encode() + after).split(b"%d" % MARK) for code in codes]
        # As field 1 of another message.
        self._frame = b"\x0a" + _varint(len(whole))
        # What an answer holds before the number.
        self.id_prefix = f"request-{run}-".encode()

    def unary(self, number: int) -> bytes:
        """A ValidateAndRedeemRequest."""
        return number_of(number).join(self._parts[number % len(self._parts)])

    def stream(self, number: int) -> bytes:
        """A StreamValidateAndRedeemRequest."""
        return self._frame + self.unary(number)

    def batch(self, number: int) -> bytes:
        """A BatchValidateAndRedeemRequest of the shoppers from `number` on."""
        return b"".join(map(self.stream, range(number, number + BATCH)))


def number_of(number: int) -> bytes:
    """As it stands in the ids."""
    return b"%09d" % number


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*found, value))
