"""What a use takes off, as an operator says it; `domain.pricing` works it out. Names and bounds are the protos' own.

Amounts are minor units of the definition's currency. Shares are basis points, hundredths of a percent.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import msgspec

from vouchsafe.domain.errors import Violation
from vouchsafe.domain.lines import LineSelector
from vouchsafe.domain.money import BASIS_POINTS


class TargetKind(StrEnum):
    """Which part of the order an effect is worked out on."""

    ORDER = "ORDER"  # all eligible lines together, spread over them in proportion
    PROPORTIONAL = "PROPORTIONAL"  # the matching lines together, spread over them in proportion
    EACH_LINE = "EACH_LINE"  # every matching line by itself
    EACH_UNIT = "EACH_UNIT"  # every unit of the matching lines by itself
    CHEAPEST = "CHEAPEST"  # the cheapest units of the matching lines
    DEAREST = "DEAREST"  # the dearest units of the matching lines


class Pick(StrEnum):
    """Which units come first when not all are taken. Prices are those on the lines, before any discount."""

    CHEAPEST = "CHEAPEST"
    DEAREST = "DEAREST"


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where an effect applies. `lines` narrows the eligible lines (not for ORDER); `units` is how many units CHEAPEST
    and DEAREST mean, None for one."""

    kind: TargetKind = TargetKind.ORDER
    lines: LineSelector | None = None
    units: int | None = None


class PercentOff(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="percent_off"):
    """A share off, rounded half up to the minor unit: once for ORDER and PROPORTIONAL, else line by line."""

    basis_points: int
    target: Target = Target()


class AmountOff(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="amount_off"):
    """A sum off: once for ORDER and PROPORTIONAL, for each line with EACH_LINE, else for each unit."""

    amount_minor: int
    target: Target = Target()


class FixedPrice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="fixed_price"):
    """A new price: of everything together for ORDER and PROPORTIONAL, of each line with EACH_LINE, else of each unit.
    A price is only ever lowered."""

    price_minor: int
    target: Target = Target()


class FreeUnits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="free_units"):
    """Units at no price: `quantity` of a named sku, which the checkout adds where the order lacks them; or, without a
    sku, of the matching lines."""

    quantity: int
    sku: str = ""
    lines: LineSelector | None = None
    pick: Pick = Pick.CHEAPEST


class FreeShipping(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="free_shipping"):
    """The order's shipping costs off. The only effect that touches them."""


class BuyXGetY(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="buy_x_get_y"):
    """For every `buy_quantity` units of `buy`, up to `get_quantity` units of `get` (None: of `buy`) at a share off.

    A unit counts once, as bought or as got. It repeats while there are units, at most `max_times` (None: no bound); the
    last time may give fewer. `basis_points` is the share off what is got, `rest_basis_points` that off all other units
    of `buy` and `get`, once anything is got.
    """

    buy_quantity: int
    get_quantity: int
    buy: LineSelector | None = None
    get: LineSelector | None = None
    basis_points: int = BASIS_POINTS
    rest_basis_points: int = 0
    max_times: int | None = None
    pick: Pick = Pick.CHEAPEST


class BundleItem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """So many units of one sku."""

    sku: str
    quantity: int


class Bundle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="bundle"):
    """A named set at a price, as often as the order holds it, at most `max_times` (None: no bound). Where a sku stands
    at several prices, the dearest units go first; there are as many sets as take the most off."""

    items: tuple[BundleItem, ...]
    price_minor: int
    max_times: int | None = None


Kind = PercentOff | AmountOff | FixedPrice | FreeUnits | FreeShipping | BuyXGetY | Bundle


class Effect(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One effect with its caps: at most so much in all, so much off a line, so many units; None is no cap."""

    kind: Kind
    max_amount_minor: int | None = None
    max_amount_per_line_minor: int | None = None
    max_units: int | None = None


def check(effect: Effect) -> list[Violation]:
    """What contradicts itself in an effect, with field paths inside it. `kind` may be None here."""
    return list(_check(effect))


def _check(effect: Effect) -> Iterator[Violation]:
    kind = effect.kind
    match kind:
        case PercentOff() | AmountOff() | FixedPrice():
            yield from _check_target(f"{_name(kind)}.target", kind.target)
        case FreeUnits():
            if kind.sku and kind.lines is not None:
                yield Violation("free_units.lines", "is only for units of matching lines; leave it out beside sku")
            yield from _check_selector("free_units.lines", kind.lines)
        case BuyXGetY():
            yield from _check_selector("buy_x_get_y.buy", kind.buy)
            yield from _check_selector("buy_x_get_y.get", kind.get)
        case Bundle():
            for index, item in enumerate(kind.items):
                if any(item.sku == other.sku for other in kind.items[:index]):
                    yield Violation(
                        f"bundle.items[{index}].sku", "stands in the bundle already; raise the quantity there instead"
                    )
        case _:
            pass
    if effect.max_units is not None and not isinstance(kind, PercentOff | AmountOff | FixedPrice):
        yield Violation(
            "max_units", "is for percent_off, amount_off and fixed_price; the others count units themselves"
        )
    if effect.max_amount_per_line_minor is not None and isinstance(kind, FreeShipping):
        yield Violation("max_amount_per_line_minor", "has no meaning for free_shipping; max_amount_minor has")


def _check_target(path: str, target: Target) -> Iterator[Violation]:
    if target.kind is TargetKind.ORDER and target.lines is not None:
        yield Violation(f"{path}.lines", "has no meaning for ORDER; choose PROPORTIONAL, or narrow eligible_lines")
    if target.units is not None and target.kind not in (TargetKind.CHEAPEST, TargetKind.DEAREST):
        yield Violation(f"{path}.units", "is for CHEAPEST and DEAREST; max_units bounds the others")
    yield from _check_selector(f"{path}.lines", target.lines)


def _check_selector(path: str, selector: LineSelector | None) -> Iterator[Violation]:
    if selector is not None and selector.excludes_only_what_it_includes:
        yield Violation(path, "excludes everything that it includes, so it matches no line")


def amounts_of(effect: Effect) -> list[str]:
    """The fields of an effect that hold amounts of money, so that a currency is needed. `kind` may be None here."""
    kind = effect.kind
    names = []
    match kind:
        case AmountOff():
            names.append("amount_off.amount_minor")
        case FixedPrice() | Bundle():
            names.append(f"{_name(kind)}.price_minor")
        case _:
            pass
    names += [name for name in ("max_amount_minor", "max_amount_per_line_minor") if getattr(effect, name) is not None]
    return names


def _name(kind: Kind) -> str:
    return str(kind.__struct_config__.tag)
