"""Messages in words, for tables and answers."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING

from vouchsafe.domain.money import format_minor

if TYPE_CHECKING:
    from vouchsafe.client import DiscountCap, Effect, Target

TARGETS = {
    "PROPORTIONAL": "matching lines",
    "EACH_LINE": "each line",
    "EACH_UNIT": "each unit",
    "CHEAPEST": "the cheapest",
    "DEAREST": "the dearest",
}

CAPS = {
    "MAX_AMOUNT": "the effect gives no more",
    "MAX_AMOUNT_PER_LINE": "the effect gives no more a line",
    "MAX_UNITS": "only so many units count",
    "NOTHING_LEFT": "nothing is worth less than nothing",
    "BUDGET": "the rest of the budget",
}


def effect_text(effect: Effect, currency_code: str) -> str:
    """An effect in a few words: "10 % off", "5.00 EUR off each line", "buy 2 get 1 free"."""
    match effect.WhichOneof("kind"):
        case "percent_off":
            words = f"{percent(effect.percent_off.basis_points)} off{_target(effect.percent_off.target)}"
        case "amount_off":
            off = format_minor(effect.amount_off.amount_minor, currency_code)
            words = f"{off} off{_target(effect.amount_off.target)}"
        case "fixed_price":
            price = format_minor(effect.fixed_price.price_minor, currency_code)
            words = f"{price} for{_target(effect.fixed_price.target) or ' the order'}"
        case "free_units":
            words = f"{effect.free_units.quantity} {effect.free_units.sku or 'unit(s)'} free"
        case "free_shipping":
            words = "free shipping"
        case "buy_x_get_y":
            deal = effect.buy_x_get_y
            got = "free" if not deal.HasField("basis_points") or deal.basis_points == 10_000 else "at"
            share = "" if got == "free" else f" {percent(deal.basis_points)} off"
            words = f"buy {deal.buy_quantity} get {deal.get_quantity} {got}{share}"
        case "bundle":
            items = " + ".join(f"{item.quantity} {item.sku}" for item in effect.bundle.items)
            words = f"{items} for {format_minor(effect.bundle.price_minor, currency_code)}"
        case _:
            words = "?"
    if effect.HasField("max_amount_minor"):
        words += f", at most {format_minor(effect.max_amount_minor, currency_code)}"
    return words


def caps_text(caps: Iterable[DiscountCap.ValueType]) -> str:
    """Why less was taken off than desired."""
    from vouchsafe.client import DiscountCap

    return ", ".join(CAPS[DiscountCap.Name(cap).removeprefix("DISCOUNT_CAP_")] for cap in caps)


def percent(basis_points: int) -> str:
    """A share as people write it: 1250 is "12.5 %"."""
    return f"{Decimal(basis_points) / 100:f} %"


def _target(target: Target) -> str:
    from vouchsafe.client import TargetKind

    name = TargetKind.Name(target.kind).removeprefix("TARGET_KIND_")
    words = TARGETS.get(name, "")
    if target.HasField("units") and target.units > 1:
        words += f" {target.units}"
    return f" {words}" if words else ""
