"""What an effect would like to take off, and of which units. All work is linear in the lines, never in the units: 30
lines of 200 units are 30 steps.

An effect is worked out on the lines' values: what they come to before any discount, or what other discounts have left
of it. Of a line of q units, k are worth value * k / q, rounded down. Which units are the cheapest is judged by the
prices on the lines; among equal prices by sku, product, quantity and categories, so that the order of the lines does
not matter.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

from vouchsafe.domain.effects import (
    AmountOff,
    Bundle,
    BuyXGetY,
    FixedPrice,
    FreeUnits,
    Kind,
    PercentOff,
    Pick,
    Target,
    TargetKind,
)
from vouchsafe.domain.lines import matcher
from vouchsafe.domain.money import part_of, shares
from vouchsafe.domain.order import Line, Order

# The units of lines that an effect is about: (index of the line, how many of its units), every count positive.
Units = list[tuple[int, int]]
# Which units of the eligible lines take part.
Selection = Callable[[Order, Sequence[int]], Units]
# What to take off, an entry for each of the units, given the values of all lines.
Wish = Callable[[Order, Units, Sequence[int]], list[int]]


def compile_kind(kind: Kind) -> tuple[Selection, Wish]:
    """The two steps of an effect on lines. Raises TypeError for free shipping, which touches none."""
    match kind:
        case PercentOff() | AmountOff() | FixedPrice():
            return _target_units(kind.target), _wish(kind)
        case FreeUnits():
            return _free_units(kind), value
        case BuyXGetY():
            return _every, _buy_x_get_y(kind)
        case Bundle():
            return _every, _bundle(kind)
        case _:
            raise TypeError(f"{kind} is not about lines")


def is_spread(kind: Kind) -> bool:
    """Whether one sum is worked out and then spread over the lines in proportion to what their units are worth."""
    return isinstance(kind, PercentOff | AmountOff | FixedPrice) and kind.target.kind in _TOGETHER


_TOGETHER = (TargetKind.ORDER, TargetKind.PROPORTIONAL)


# -- which units -------------------------------------------------------------------------------------------------------


def _every(order: Order, eligible: Sequence[int]) -> Units:
    lines = order.lines
    return [(index, lines[index].quantity) for index in eligible]


def _target_units(target: Target) -> Callable[[Order, Sequence[int]], Units]:
    matches = matcher(target.lines)

    def matching(order: Order, eligible: Sequence[int]) -> Units:
        lines = order.lines
        if matches is None:
            return [(index, lines[index].quantity) for index in eligible]
        return [(index, lines[index].quantity) for index in eligible if matches(lines[index])]

    if target.kind not in (TargetKind.CHEAPEST, TargetKind.DEAREST):
        return matching
    pick, count = Pick(target.kind.value), target.units or 1
    return lambda order, eligible: pick_units(order, matching(order, eligible), count, pick)


def _free_units(kind: FreeUnits) -> Callable[[Order, Sequence[int]], Units]:
    if kind.sku:
        # Named by the operator, so it counts wherever it stands in the order.
        def named(order: Order, _: Sequence[int]) -> Units:
            units = [(index, line.quantity) for index, line in enumerate(order.lines) if line.sku == kind.sku]
            return pick_units(order, units, kind.quantity, kind.pick)

        return named
    matching = _target_units(Target(kind=TargetKind.EACH_UNIT, lines=kind.lines))
    return lambda order, eligible: pick_units(order, matching(order, eligible), kind.quantity, kind.pick)


def pick_units(order: Order, units: Units, count: int, pick: Pick) -> Units:
    """The first `count` of the units, the cheapest or the dearest first."""
    picked = []
    for index, available in _ranked(order, units, pick):
        if count <= 0:
            break
        taken = min(available, count)
        picked.append((index, taken))
        count -= taken
    return picked


def _ranked(order: Order, units: Units, pick: Pick) -> Units:
    lines = order.lines
    sign = 1 if pick is Pick.CHEAPEST else -1

    def rank(entry: tuple[int, int]) -> tuple[object, ...]:
        line: Line = lines[entry[0]]
        return (sign * line.unit_price_minor, line.sku, line.product_id, line.quantity, line.categories)

    return sorted(units, key=rank)


# -- what to take off --------------------------------------------------------------------------------------------------


def value(order: Order, units: Units, values: Sequence[int]) -> list[int]:
    """What so many units of each line are worth now."""
    lines = order.lines
    return [values[index] * count // lines[index].quantity for index, count in units]


def _wish(kind: PercentOff | AmountOff | FixedPrice) -> Wish:
    together = is_spread(kind)
    by_unit = kind.target.kind in (TargetKind.EACH_UNIT, TargetKind.CHEAPEST, TargetKind.DEAREST)
    wish_of = _wish_of(kind)

    def wish(order: Order, units: Units, values: Sequence[int]) -> list[int]:
        worth = value(order, units, values)
        if together:
            whole = sum(worth)
            return shares(wish_of(whole, 1), worth) if whole else [0] * len(worth)
        return [wish_of(part, count if by_unit else 1) for part, (_, count) in zip(worth, units, strict=True)]

    return wish


def _wish_of(kind: PercentOff | AmountOff | FixedPrice) -> Callable[[int, int], int]:
    """What comes off something worth so much that counts as so many times one."""
    match kind:
        case PercentOff(basis_points=basis_points):
            return lambda worth, _: part_of(worth, basis_points)
        case AmountOff(amount_minor=amount_minor):
            return lambda _, times: amount_minor * times
        case FixedPrice(price_minor=price_minor):
            return lambda worth, times: max(0, worth - price_minor * times)


def _buy_x_get_y(kind: BuyXGetY) -> Wish:
    buys = matcher(kind.buy)
    gets = matcher(kind.get) if kind.get is not None else buys

    def wish(order: Order, units: Units, values: Sequence[int]) -> list[int]:
        lines = order.lines
        bought_only = got_only = both = 0
        candidates: Units = []
        shared: set[int] = set()
        taking_part = set()
        for index, count in units:
            is_bought = buys is None or buys(lines[index])
            is_got = gets is None or gets(lines[index])
            if is_bought or is_got:
                taking_part.add(index)
            if is_got:
                candidates.append((index, count))
            if is_bought and is_got:
                both += count
                shared.add(index)
            elif is_bought:
                bought_only += count
            elif is_got:
                got_only += count
        got, kept = _times(kind, bought_only, got_only, both)
        picked = _pick_sharing(_ranked(order, candidates, kind.pick), shared, got, both - kept) if got else {}
        wishes = []
        for index, count in units:
            free = picked.get(index, 0)
            off = part_of(values[index] * free // count, kind.basis_points) if free else 0
            if kind.rest_basis_points and got and index in taking_part:
                rest = values[index] - values[index] * free // count
                off += part_of(rest, kind.rest_basis_points)
            wishes.append(off)
        return wishes

    return wish


def _times(kind: BuyXGetY, bought_only: int, got_only: int, both: int) -> tuple[int, int]:
    """How many units are got, and how many of those that could be either are kept as bought.

    With k times, k * buy units are bought, those that can be nothing else first; got are as many of the rest as there
    are, at most k * get. That rises with k and then falls, so the best k is where the two meet, or beside it.
    """
    buy, get = kind.buy_quantity, kind.get_quantity
    most = (bought_only + both) // buy
    if kind.max_times is not None:
        most = min(most, kind.max_times)
    meeting = (bought_only + got_only + both) // (buy + get)
    best = (0, 0)
    for times in sorted({min(most, k) for k in (bought_only // buy, meeting, meeting + 1, most)}):
        kept = max(0, times * buy - bought_only)
        got = min(times * get, got_only + both - kept)
        if got > best[0]:
            best = (got, kept)
    return best


def _pick_sharing(ranked: Units, shared: set[int], count: int, shared_left: int) -> dict[int, int]:
    """The first `count` units in rank, of which at most `shared_left` come from the shared lines."""
    picked = {}
    for index, available in ranked:
        taken = min(available, count, shared_left) if index in shared else min(available, count)
        if taken:
            picked[index] = taken
            count -= taken
            if index in shared:
                shared_left -= taken
    return picked


def _bundle(kind: Bundle) -> Wish:
    wanted = {item.sku: item.quantity for item in kind.items}

    def wish(order: Order, units: Units, values: Sequence[int]) -> list[int]:
        by_sku: dict[str, Units] = {sku: [] for sku in wanted}
        for index, count in units:
            group = by_sku.get(order.lines[index].sku)
            if group is not None:
                group.append((index, count))
        groups = [_Group(order, group, wanted[sku], values) for sku, group in by_sku.items()]
        most = min([group.most for group in groups])
        if kind.max_times is not None:
            most = min(most, kind.max_times)
        # What a set is worth changes only where a line ends, so the best number of sets is at one of those, or at most.
        turns = {0, most, *(turn for group in groups for turn in group.turns if turn <= most)}
        off, fewer = max(
            (sum([group.worth(turn) for group in groups]) - turn * kind.price_minor, -turn) for turn in turns
        )
        if off <= 0:
            return [0] * len(units)
        picked = [entry for group in groups for entry in group.first(-fewer)]
        parts = dict(zip([index for index, _ in picked], shares(off, value(order, picked, values)), strict=True))
        return [parts.get(index, 0) for index, _ in units]

    return wish


class _Group:
    """The lines of one sku of a bundle, the dearest first, with what the first so many sets of them are worth."""

    def __init__(self, order: Order, units: Units, each: int, values: Sequence[int]) -> None:
        self._units = _ranked(order, units, Pick.DEAREST)
        self._each = each
        self._values = values
        self._counts = [0, *accumulate([count for _, count in self._units])]
        self._worths = [0, *accumulate([values[index] for index, _ in self._units])]
        self.most = self._counts[-1] // each
        self.turns = [turn for count in self._counts for turn in (count // each, -(-count // each))]

    def worth(self, sets: int) -> int:
        """What the units of so many sets are worth."""
        count = sets * self._each
        whole = bisect_right(self._counts, count) - 1
        worth = self._worths[whole]
        rest = count - self._counts[whole]
        if rest:
            index, available = self._units[whole]
            worth += self._values[index] * rest // available
        return worth

    def first(self, sets: int) -> Units:
        """The units of so many sets."""
        count, taken = sets * self._each, []
        for index, available in self._units:
            if count <= 0:
                break
            taken.append((index, min(available, count)))
            count -= available
        return taken
