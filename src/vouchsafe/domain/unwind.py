"""How much of a redemption comes back: worked out from what was redeemed, what has come back before, and what each
campaign allows. Exact to the minor unit: what comes back and what is left are always the discount together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vouchsafe.domain.campaign import CodeEntry
from vouchsafe.domain.errors import InvalidRequest, Violation
from vouchsafe.domain.evaluator import Evaluator
from vouchsafe.domain.money import shares
from vouchsafe.domain.order import Line, Order
from vouchsafe.domain.pricing import Basket, Discount, LineDiscount
from vouchsafe.domain.reasons import Reason, Refusal
from vouchsafe.domain.redemption import AppliedCode, Redemption
from vouchsafe.domain.rollback import Kept, Left, OnPartial, ReturnedLine

OTHER_ORDER = "is not what was redeemed; send the order as it was then"


def whole(redemption: Redemption) -> Kept:
    """What is left of a redemption of which nothing has come back."""
    return Kept(
        tuple(
            Left({line.line: line.applied_minor for line in one.discount.lines}, one.discount.shipping_minor)
            for one in redemption.applied
        )
    )


def unwind(
    redemption: Redemption,
    kept: Kept,
    returned: Sequence[ReturnedLine],
    order: Order | None,
    evaluators: Sequence[Evaluator],
) -> Kept | Refusal:
    """What is left after a rollback: of everything with no `returned` lines, else of those. `evaluators` are of the
    codes' campaigns, in the order in which they were applied; `order` is the one that was redeemed, None when the
    caller has not sent it. Raises InvalidRequest when it is needed, or another."""
    if all(left.is_ended for left in kept.codes):
        return Refusal(Reason.ALREADY_ROLLED_BACK, "", {"redemption_id": redemption.id})
    if not returned:
        return Kept(tuple(Left(is_ended=True) for _ in kept.codes), kept.quantities)
    if order is not None:
        _check_order(redemption, order)
    quantities = _quantities(redemption, order)
    too_much = _too_much(redemption, kept, returned, quantities)
    if too_much is not None:
        return too_much
    back = dict(kept.quantities)
    for one in returned:
        if one.quantity is not None:
            back[one.line] = back.get(one.line, 0) + one.quantity
    if order is not None and all(back.get(index) == line.quantity for index, line in enumerate(order.lines)):
        return Kept(tuple(Left(is_ended=True) for _ in kept.codes), back)
    codes = _by_amount(kept.codes, returned)
    if any(one.quantity is not None for one in returned):
        codes = _by_quantity(redemption, codes, back, quantities, order, evaluators)
    # A code that gives nothing any more has ended; one that never took money off ends with the whole only.
    ended = tuple(
        Left(is_ended=True) if before.total_minor and not left.total_minor else left
        for before, left in zip(kept.codes, codes, strict=True)
    )
    return Kept(ended, back)


def _check_order(redemption: Redemption, order: Order) -> None:
    claim = redemption.claim
    expected = (claim.order_id, claim.currency_code, claim.order_amount_minor)
    if (order.id, order.currency_code, order.amount_minor) != expected:
        raise InvalidRequest(Violation("order", OTHER_ORDER))
    for one in redemption.applied:
        for line in one.discount.lines:
            sent = order.lines[line.line] if line.line < len(order.lines) else None
            if sent is None or sent.sku != line.sku or line.quantity not in (0, sent.quantity):
                raise InvalidRequest(Violation(f"order.lines[{line.line}]", OTHER_ORDER))


def _quantities(redemption: Redemption, order: Order | None) -> Mapping[int, int]:
    """The units of each line as far as they are known, by index."""
    if order is not None:
        return {index: line.quantity for index, line in enumerate(order.lines)}
    return {line.line: line.quantity for one in redemption.applied for line in one.discount.lines if line.quantity}


def _too_much(
    redemption: Redemption, kept: Kept, returned: Sequence[ReturnedLine], quantities: Mapping[int, int]
) -> Refusal | None:
    for place, one in enumerate(returned):
        if one.quantity is not None:
            if one.line not in quantities:
                text = "is no line that has a discount; send the order, or leave the line out"
                raise InvalidRequest(Violation(f"lines[{place}].line_index", text))
            left = quantities[one.line] - kept.quantities.get(one.line, 0)
            if one.quantity > left:
                return _refused(redemption, one, left_quantity=left)
        elif one.discount_minor is not None:
            left = sum(left.lines.get(one.line, 0) for left in kept.codes)
            if one.discount_minor > left:
                return _refused(redemption, one, left_minor=left)
    return None


def _refused(redemption: Redemption, one: ReturnedLine, **left: int) -> Refusal:
    metadata = {"redemption_id": redemption.id, "line": str(one.line)}
    return Refusal(Reason.ROLLBACK_TOO_LARGE, "", metadata | {name: str(number) for name, number in left.items()})


def _by_amount(codes: Sequence[Left], returned: Sequence[ReturnedLine]) -> list[Left]:
    """Amounts come off every code in proportion to what it has left on the line."""
    found = [dict(left.lines) for left in codes]
    for one in returned:
        if one.discount_minor:
            lefts = [lines.get(one.line, 0) for lines in found]
            for lines, share in zip(found, shares(one.discount_minor, lefts), strict=True):
                if share:
                    lines[one.line] -= share
    return [Left(lines, left.shipping_minor, left.is_ended) for lines, left in zip(found, codes, strict=True)]


def _by_quantity(
    redemption: Redemption,
    codes: Sequence[Left],
    back: Mapping[int, int],
    quantities: Mapping[int, int],
    order: Order | None,
    evaluators: Sequence[Evaluator],
) -> list[Left]:
    """What each campaign makes of the units that have come back, in all, one code after the other."""
    policies = [evaluator.campaign.definition.rollback.on_partial for evaluator in evaluators]
    rest = None
    if OnPartial.EVALUATE_AGAIN in policies:
        if order is None:
            text = "is required: a campaign is evaluated again on what is left; send the order as it was redeemed"
            raise InvalidRequest(Violation("order", text))
        rest = _Rest(order, back)
    found = []
    for applied, left, policy, evaluator in zip(redemption.applied, codes, policies, evaluators, strict=True):
        new = left
        if not left.is_ended:
            match policy:
                case OnPartial.PRORATE:
                    new = _prorated(applied, left, back, quantities)
                case OnPartial.EVALUATE_AGAIN if rest is not None:
                    new = rest.again(applied, left, evaluator)
        if rest is not None:
            rest.take(new)
        found.append(new)
    return found


def _prorated(applied: AppliedCode, left: Left, back: Mapping[int, int], quantities: Mapping[int, int]) -> Left:
    """Each unit takes its share of the line's discount with it; what cannot be shared stays until the last one."""
    lines = dict(left.lines)
    for line in applied.discount.lines:
        units = back.get(line.line, 0)
        if units:
            kept_minor = line.applied_minor - line.applied_minor * units // quantities[line.line]
            lines[line.line] = max(0, min(lines.get(line.line, 0), kept_minor))
    return Left(lines, left.shipping_minor)


class _Rest:
    """What is left of an order, while codes are applied to it again."""

    def __init__(self, order: Order, back: Mapping[int, int]) -> None:
        lines: list[Line] = []
        self._indexes = []  # of its lines, in the order that was redeemed
        for index, line in enumerate(order.lines):
            quantity = line.quantity - back.get(index, 0)
            if quantity:
                self._indexes.append(index)
                lines.append(
                    Line(
                        sku=line.sku,
                        quantity=quantity,
                        unit_price_minor=line.unit_price_minor,
                        product_id=line.product_id,
                        categories=line.categories,
                    )
                )
        self._basket = Basket(
            Order(
                id=order.id,
                currency_code=order.currency_code,
                lines=tuple(lines),
                shipping_minor=order.shipping_minor if lines else 0,
                channel=order.channel,
                metadata=order.metadata,
            )
        )

    def again(self, applied: AppliedCode, left: Left, evaluator: Evaluator) -> Left:
        """What a code gives now, never more than it has left."""
        discount = evaluator.reprice(self._basket, CodeEntry(applied.code, applied.campaign_id, None))
        amounts = [line.applied_minor for line in discount.lines]
        amounts.append(discount.shipping_minor)
        if sum(amounts) > left.total_minor:
            amounts = shares(left.total_minor, amounts)
        *line_amounts, shipping_minor = amounts
        return Left(
            {self._indexes[line.line]: minor for line, minor in zip(discount.lines, line_amounts, strict=True)},
            shipping_minor,
        )

    def take(self, left: Left) -> None:
        """Takes off what a code leaves to the shopper; the next one sees the rest."""
        basket, indexes = self._basket, self._indexes
        lines = []
        for place, index in enumerate(indexes):
            minor = min(left.lines.get(index, 0), basket.left[place])
            lines.append(LineDiscount(place, basket.order.lines[place].sku, minor, minor))
        basket.take(Discount(0, 0, tuple(lines), min(left.shipping_minor, basket.shipping_left)))
