"""Domain values that tests of several rooms need."""

from __future__ import annotations

import msgspec

from vouchsafe.domain.campaign import CodeEntry, Definition
from vouchsafe.domain.effects import AmountOff, Effect, PercentOff
from vouchsafe.domain.limits import Limits
from vouchsafe.domain.order import Customer, Line, Order
from vouchsafe.domain.pricing import Discount, LineDiscount
from vouchsafe.domain.redemption import Claim
from vouchsafe.domain.takes import Take, Taker
from vouchsafe.gate.attempts import Attempt

AN_ORDER = Order(id="order", currency_code="EUR", lines=(Line(sku="sku-1", quantity=1, unit_price_minor=1_000),))


def percent(basis_points: int) -> tuple[Effect, ...]:
    return (Effect(kind=PercentOff(basis_points=basis_points)),)


def amount(amount_minor: int) -> tuple[Effect, ...]:
    return (Effect(kind=AmountOff(amount_minor=amount_minor)),)


def a_definition(name: str = "Sale", basis_points: int = 1_000, limits: Limits = Limits()) -> Definition:  # noqa: B008  # immutable
    return Definition(display_name=name, effects=percent(basis_points), limits=limits)


def a_discount(minor: int) -> Discount:
    return Discount(minor, minor, (LineDiscount(0, "sku-1", minor, minor),))


def takes_of(
    limits: Limits,
    entry: CodeEntry,
    customer: Customer,
    minor: int,
    now_ms: int = 0,
    order: Order = AN_ORDER,
    *,
    is_quoted: bool = False,
) -> tuple[Take, ...]:
    taker = Taker(limits, "UTC", b"a secret of tests")
    return taker.takes(customer, order, entry, minor, now_ms, is_quoted=is_quoted)


def attempt_of(claim: Claim, *, limits: Limits = Limits(), code_limit: int | None = None) -> Attempt:  # noqa: B008  # immutable
    entry = CodeEntry(claim.code, claim.campaign_id, code_limit)
    takes = takes_of(limits, entry, Customer(id=claim.customer_id), claim.discount.applied_minor)
    return Attempt(msgspec.structs.replace(claim, takes={take.field: take.amount for take in takes}), takes)


def a_claim(number: int = 0, campaign_id: str = "summer", code: str = "A", minor: int = 100) -> Claim:
    return Claim(
        request_id=f"request-{number}",
        fingerprint=f"{number:032x}",
        campaign_id=campaign_id,
        campaign_version=1,
        code=code,
        customer_id=f"customer-{number % 7}",
        order_id=f"order-{number}",
        currency_code="EUR",
        order_amount_minor=1_000,
        discount=a_discount(minor),
    )
