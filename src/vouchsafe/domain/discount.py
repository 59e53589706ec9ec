"""What a campaign takes off an order, in whole minor units."""

from __future__ import annotations

from vouchsafe.domain.campaign import AmountDiscount, Definition, PercentDiscount
from vouchsafe.domain.order import Order
from vouchsafe.domain.reasons import Reason, Refusal

BASIS_POINTS = 10_000


def discount_minor(definition: Definition, order: Order, code: str) -> int | Refusal:
    """The discount in minor units, from 1 to the order's amount, or the reason why there is none."""
    amount = order.amount_minor
    match definition.discount:
        case PercentDiscount(basis_points):
            discount = (amount * basis_points + BASIS_POINTS // 2) // BASIS_POINTS
        case AmountDiscount(currency_code, amount_minor):
            if currency_code != order.currency_code:
                return Refusal(
                    Reason.CURRENCY_MISMATCH,
                    code,
                    {"expected_currency_code": currency_code, "order_currency_code": order.currency_code},
                )
            discount = amount_minor
    discount = min(discount, amount)
    return discount if discount > 0 else Refusal(Reason.NO_EFFECT, code)
