"""Who buys what: the values that a request to redeem is made of. Amounts are minor units of the order's currency."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import msgspec

from vouchsafe.domain.errors import InvalidRequest, Violation
from vouchsafe.domain.money import EXPONENTS, MAX_AMOUNT_MINOR


class Customer(msgspec.Struct, frozen=True, kw_only=True):
    """The shopper, as the checkout knows them. Empty, or None, means that the checkout did not say.

    `order_count` is how many orders they have placed before this one.
    """

    id: str
    email: str = ""
    segments: tuple[str, ...] = ()
    country_code: str = ""
    region_code: str = ""
    attributes: Mapping[str, str] = {}
    order_count: int | None = None
    card_fingerprint: str = ""
    device_id: str = ""


class Line(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One line: `quantity` units at `unit_price_minor` each."""

    sku: str
    quantity: int
    unit_price_minor: int
    product_id: str = ""
    categories: tuple[str, ...] = ()


class Order(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """What the shopper is about to pay for.

    Raises InvalidRequest when the lines add up to more than MAX_AMOUNT_MINOR, or the currency is none.
    """

    id: str
    currency_code: str
    lines: tuple[Line, ...]
    shipping_minor: int = 0
    channel: str = ""
    metadata: Mapping[str, str] = {}

    def __post_init__(self) -> None:
        violations = []
        if self.amount_minor > MAX_AMOUNT_MINOR:
            violations.append(
                Violation("order.lines", f"add up to {self.amount_minor}; at most {MAX_AMOUNT_MINOR} is accepted")
            )
        if self.currency_code not in EXPONENTS:
            violations.append(
                Violation("order.currency_code", f"{self.currency_code!r} is no currency; give an ISO 4217 code")
            )
        if violations:
            raise InvalidRequest(*violations)

    @cached_property
    def line_amounts(self) -> tuple[int, ...]:
        """What each line comes to before any discount, in the order of the lines."""
        return tuple([line.quantity * line.unit_price_minor for line in self.lines])

    @cached_property
    def amount_minor(self) -> int:
        """The lines added up, before any discount and without shipping."""
        return sum(self.line_amounts)

    @property
    def quantity(self) -> int:
        """The units of all lines."""
        return sum(line.quantity for line in self.lines)
