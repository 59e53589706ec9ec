"""Who buys what: the values that a request to redeem is made of. Amounts are minor units of the order's currency."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vouchsafe.domain.errors import InvalidRequest, Violation

# Sums of money stay below 2^53, so that every store and language on the way keeps them exact.
MAX_AMOUNT_MINOR = 10**15


@dataclass(frozen=True, slots=True)
class Customer:
    """The shopper, as the checkout knows them. Empty means not known."""

    id: str
    email: str = ""
    segments: tuple[str, ...] = ()
    country_code: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Line:
    """One line: `quantity` units at `unit_price_minor` each."""

    sku: str
    quantity: int
    unit_price_minor: int
    product_id: str = ""
    categories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Order:
    """What the shopper is about to pay for.

    Raises InvalidRequest when the lines add up to more than MAX_AMOUNT_MINOR.
    """

    id: str
    currency_code: str
    lines: tuple[Line, ...]
    shipping_minor: int = 0

    def __post_init__(self) -> None:
        if self.amount_minor > MAX_AMOUNT_MINOR:
            raise InvalidRequest(
                Violation("order.lines", f"add up to {self.amount_minor}; at most {MAX_AMOUNT_MINOR} is accepted")
            )

    @property
    def amount_minor(self) -> int:
        """The lines added up, before any discount and without shipping."""
        return sum(line.quantity * line.unit_price_minor for line in self.lines)
