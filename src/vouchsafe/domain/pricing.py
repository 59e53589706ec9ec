"""What the effects of a campaign take off an order, line by line, exact to the minor unit."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from vouchsafe.domain.effects import AmountOff, Effect, FreeShipping, FreeUnits, Pick
from vouchsafe.domain.money import shares
from vouchsafe.domain.order import Order
from vouchsafe.domain.wishes import Units, compile_kind, is_spread, pick_units, value


class Cap(StrEnum):
    """Why less was applied than desired."""

    MAX_AMOUNT = "MAX_AMOUNT"  # the effect's bound in all
    MAX_AMOUNT_PER_LINE = "MAX_AMOUNT_PER_LINE"
    MAX_UNITS = "MAX_UNITS"
    NOTHING_LEFT = "NOTHING_LEFT"  # a line is never worth less than nothing
    BUDGET = "BUDGET"  # what was left of the campaign's budget, or of the customer's


class LineDiscount(msgspec.Struct, frozen=True, gc=False):
    """What is taken off the line with this index, of so many units: `desired_minor` by the effects alone,
    `applied_minor` within caps."""

    line: int
    sku: str
    desired_minor: int
    applied_minor: int
    caps: tuple[Cap, ...] = ()
    quantity: int = 0


class GrantedUnits(msgspec.Struct, frozen=True, gc=False):
    """Units that the checkout shall add to the order at no price."""

    sku: str
    quantity: int


class Discount(msgspec.Struct, frozen=True):
    """All that a code takes off. `lines` has the lines that an effect is about, in order. Totals include shipping."""

    applied_minor: int
    desired_minor: int
    lines: tuple[LineDiscount, ...] = ()
    shipping_minor: int = 0
    granted_units: tuple[GrantedUnits, ...] = ()
    caps: tuple[Cap, ...] = ()

    @property
    def has_effect(self) -> bool:
        """Whether the shopper gets anything."""
        return self.applied_minor > 0 or bool(self.granted_units)

    def within(self, rest_minor: int) -> Discount:
        """The part of it that the rest of a budget covers: shared out over the lines and the shipping in proportion to
        what it takes off them, so that it adds up to the rest exactly. What is granted on top costs no budget."""
        if self.applied_minor <= rest_minor:
            return self
        *takes, shipping_minor = shares(rest_minor, [*(line.applied_minor for line in self.lines), self.shipping_minor])
        lines = [
            line if take == line.applied_minor else _cut_to(line, take)
            for line, take in zip(self.lines, takes, strict=True)
        ]
        return Discount(
            rest_minor,
            self.desired_minor,
            tuple(lines),
            shipping_minor,
            self.granted_units,
            _merged(self.caps, (Cap.BUDGET,)),
        )


class Basket:
    """An order while discounts are taken off it: what each line and the shipping still come to, and what was spent of
    the budgets that somebody keeps an eye on, by campaign."""

    __slots__ = ("left", "order", "shipping_left", "spent")

    def __init__(self, order: Order) -> None:
        self.order = order
        self.left = list(order.line_amounts)
        self.shipping_left = order.shipping_minor
        self.spent: dict[str, int] = {}

    def copy(self) -> Basket:
        """One that goes its own way from here."""
        twin = Basket.__new__(Basket)
        twin.order, twin.left, twin.shipping_left = self.order, self.left.copy(), self.shipping_left
        twin.spent = self.spent.copy()
        return twin

    def take(self, discount: Discount) -> None:
        """Takes a discount off for good; the next one sees what is left."""
        for line in discount.lines:
            self.left[line.line] -= line.applied_minor
        self.shipping_left -= discount.shipping_minor


# What effects do to a line, by its index: desired, applied, and what was in the way.
Tally = dict[int, tuple[int, int, tuple[Cap, ...]]]


class Pricer:
    """The compiled effects of one campaign."""

    def __init__(self, effects: Sequence[Effect], *, on_initial: bool) -> None:
        self._effects = [_Compiled(effect) for effect in effects]
        self._on_initial = on_initial

    def price(self, basket: Basket, eligible: Sequence[int]) -> Discount:
        """What the effects take off the eligible lines, one after the other. The basket stays as it is.

        On initial amounts, every effect sees the order as it came; else what earlier discounts and effects have left.
        """
        order = basket.order
        lines = order.lines
        left = basket.left.copy()
        tally: Tally = {}
        shipping_left = basket.shipping_left
        desired_minor = applied_minor = 0
        granted: list[GrantedUnits] = []
        caps: tuple[Cap, ...] = ()
        for effect in self._effects:
            if effect.free_shipping:
                wish = order.shipping_minor if self._on_initial else shipping_left
                taken = min(wish, shipping_left)
                cut: tuple[Cap, ...] = (Cap.NOTHING_LEFT,) if taken < wish else ()
                if effect.max_amount is not None and taken > effect.max_amount:
                    taken, cut = effect.max_amount, (*cut, Cap.MAX_AMOUNT)
                shipping_left -= taken
            else:
                values = order.line_amounts if self._on_initial else left
                wish, taken, cut = effect.apply(order, eligible, values, left, tally)
                granted += effect.granted(order)
            desired_minor += wish
            applied_minor += taken
            if cut:
                caps = _merged(caps, cut)
        return Discount(
            applied_minor,
            desired_minor,
            tuple([LineDiscount(i, lines[i].sku, *tally[i], lines[i].quantity) for i in sorted(tally)]),
            basket.shipping_left - shipping_left,
            tuple(granted),
            caps,
        )

    def ceiling_minor(self, order: Order, eligible: Sequence[int]) -> int:
        """No less than what `price` takes off any basket of the order.

        One effect takes the most off an untouched order, but for a bound per line: spreading a sum, it may lose less
        where other lines are worth less. Of several effects nothing is claimed but that they take no more than all.
        """
        everything = order.amount_minor + order.shipping_minor
        if len(self._effects) > 1:
            return everything
        return min(self._effects[0].unbounded(order, eligible), everything)


class _Compiled:
    """One effect, ready to be worked out on any order."""

    def __init__(self, effect: Effect) -> None:
        kind = effect.kind
        self.max_amount = effect.max_amount_minor
        self._max_per_line = effect.max_amount_per_line_minor
        self._max_units = effect.max_units
        self._gift = kind if isinstance(kind, FreeUnits) and kind.sku else None
        self._is_spread = is_spread(kind)
        self._is_sum = self._is_spread and isinstance(kind, AmountOff)
        self.free_shipping = isinstance(kind, FreeShipping)
        if not self.free_shipping:
            self._select, self._wish = compile_kind(kind)

    def granted(self, order: Order) -> list[GrantedUnits]:
        """The free units of a named sku that the order does not hold."""
        gift = self._gift
        if gift is None:
            return []
        held = sum([line.quantity for line in order.lines if line.sku == gift.sku])
        return [GrantedUnits(gift.sku, gift.quantity - held)] if held < gift.quantity else []

    def apply(
        self, order: Order, eligible: Sequence[int], values: Sequence[int], left: list[int], tally: Tally
    ) -> tuple[int, int, tuple[Cap, ...]]:
        """Takes the effect off `left` and enters it into `tally`; answers what was desired, what was taken, and which
        caps bit."""
        units = self._select(order, eligible)
        units_allowed = units
        desired = allowed = self._wish(order, units, values)
        if self._max_units is not None and self._max_units < sum([count for _, count in units]):
            units_allowed = self._within_units(order, units)
            allowed = self._wish(order, units_allowed, values)
            # A sum is spread over fewer units; of a share, a unit of rounding may fall on another line than before.
            desired = allowed if self._is_sum else [max(pair) for pair in zip(desired, allowed, strict=True)]
        takes, cuts = self._within_lines(units, desired, allowed, left)
        caps: tuple[Cap, ...] = ()
        if cuts is not None:
            if self._is_spread and any(allowed):
                limits = [left[index] for index, _ in units]
                if self._max_per_line is not None:
                    limits = [min(limit, self._max_per_line) for limit in limits]
                takes = shares(sum(allowed), value(order, units_allowed, values), limits)
                desired = _at_least(desired, takes)
            caps = tuple([cap for cap in Cap if any(cap in cut for cut in cuts)])
        taken = sum(takes)
        if self.max_amount is not None and taken > self.max_amount:
            capped = shares(self.max_amount, takes)
            cuts = [
                (*cut, Cap.MAX_AMOUNT) if less < take else cut
                for cut, take, less in zip(cuts or [()] * len(takes), takes, capped, strict=True)
            ]
            takes, taken, caps = capped, self.max_amount, (*caps, Cap.MAX_AMOUNT)
        self._enter(units, desired, takes, cuts, left, tally)
        return sum(desired), taken, caps

    def _enter(
        self,
        units: Units,
        desired: list[int],
        takes: list[int],
        cuts: list[tuple[Cap, ...]] | None,
        left: list[int],
        tally: Tally,
    ) -> None:
        """Writes down what happens to each line."""
        for place, (index, _) in enumerate(units):
            wish = desired[place]
            if wish:
                take, cut = takes[place], cuts[place] if cuts else ()
                left[index] -= take
                earlier = tally.get(index)
                if earlier is None:
                    tally[index] = (wish, take, cut)
                else:
                    tally[index] = (earlier[0] + wish, earlier[1] + take, _merged(earlier[2], cut))

    def unbounded(self, order: Order, eligible: Sequence[int]) -> int:
        """What the effect would take off an untouched order without a bound per line."""
        if self.free_shipping:
            wish = order.shipping_minor
        else:
            units = self._select(order, eligible)
            if self._max_units is not None:
                units = self._within_units(order, units)
            wish = sum(self._wish(order, units, order.line_amounts))
        return wish if self.max_amount is None else min(wish, self.max_amount)

    def _within_units(self, order: Order, units: Units) -> Units:
        """How many units of each line take part when only so many may, the cheapest first."""
        picked = dict(pick_units(order, units, self._max_units or 0, Pick.CHEAPEST))
        return [(index, picked.get(index, 0)) for index, _ in units]

    def _within_lines(
        self, units: Units, desired: list[int], allowed: list[int], left: Sequence[int]
    ) -> tuple[list[int], list[tuple[Cap, ...]] | None]:
        """What each line bears, and what was in the way of each; None when nothing was."""
        most = self._max_per_line
        if (
            desired is allowed
            and (most is None or max(allowed, default=0) <= most)
            and all(left[index] >= take for (index, _), take in zip(units, allowed, strict=True))
        ):
            return allowed, None
        takes = []
        cuts: list[tuple[Cap, ...]] = []
        for (index, _), wish, allow in zip(units, desired, allowed, strict=True):
            take = allow
            cut: tuple[Cap, ...] = (Cap.MAX_UNITS,) if allow < wish else ()
            if most is not None and take > most:
                take, cut = most, (*cut, Cap.MAX_AMOUNT_PER_LINE)
            if take > left[index]:
                take, cut = left[index], (*cut, Cap.NOTHING_LEFT)
            takes.append(take)
            cuts.append(cut)
        return takes, cuts


def _cut_to(line: LineDiscount, rest_minor: int) -> LineDiscount:
    """What the rest of a budget leaves of what is taken off a line."""
    return msgspec.structs.replace(line, applied_minor=rest_minor, caps=_merged(line.caps, (Cap.BUDGET,)))


def _at_least(desired: list[int], takes: list[int]) -> list[int]:
    """The same sum, no part of it below what is taken: a unit of rounding that a line cannot bear goes to another."""
    moved = [max(pair) for pair in zip(desired, takes, strict=True)]
    surplus = sum(moved) - sum(desired)
    for i, take in enumerate(takes):
        back = min(surplus, moved[i] - take)
        moved[i] -= back
        surplus -= back
    return moved


def _merged(first: tuple[Cap, ...], second: tuple[Cap, ...]) -> tuple[Cap, ...]:
    return first + tuple([cap for cap in second if cap not in first]) if second else first
