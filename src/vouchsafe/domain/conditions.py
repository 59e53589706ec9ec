"""Who may use a voucher, on what: conditions as an operator says them. `domain.rules` asks them of an order; names and
bounds are those of the protos. All conditions of a campaign have to hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum

import msgspec

from vouchsafe.domain.errors import Violation
from vouchsafe.domain.lines import LineSelector


class OnMissing(StrEnum):
    """What a condition says when the checkout did not send the data that it asks for."""

    CLOSED = "CLOSED"  # it does not hold
    OPEN = "OPEN"  # it holds


class Basis(StrEnum):
    """Which amounts count: those of the order as it came, or what other codes of the same order have left of them."""

    INITIAL = "INITIAL"
    REMAINING = "REMAINING"


class AttributeSource(StrEnum):
    """Where an attribute is looked up."""

    CUSTOMER = "CUSTOMER"  # customer.attributes
    ORDER = "ORDER"  # order.metadata


class Match(StrEnum):
    """How many of an order's lines have to match."""

    ANY = "ANY"
    EVERY = "EVERY"
    NONE = "NONE"


class Segments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="segments"):
    """The customer is in any of these segments (if given), in all of those, in none of these."""

    any: tuple[str, ...] = ()
    all: tuple[str, ...] = ()
    none: tuple[str, ...] = ()


class OneOf(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value is one of `any` (if given) and not one of `none`. The base of the tests of single values."""

    any: tuple[str, ...] = ()
    none: tuple[str, ...] = ()


class CustomerIds(OneOf, frozen=True, kw_only=True, tag="customer_ids"):
    """The customer's id."""


class Countries(OneOf, frozen=True, kw_only=True, tag="countries"):
    """The customer's country, ISO 3166-1 alpha-2."""


class Regions(OneOf, frozen=True, kw_only=True, tag="regions"):
    """The customer's region, ISO 3166-2, for example DE-BY."""


class Channels(OneOf, frozen=True, kw_only=True, tag="channels"):
    """The channel through which the order comes."""


class Attribute(OneOf, frozen=True, kw_only=True, tag="attribute"):
    """An attribute of the customer or of the order. Without any value given, it has to be there."""

    key: str
    source: AttributeSource = AttributeSource.CUSTOMER


class HolderOnly(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="holder_only"):
    """The code was assigned to this customer. A code that was assigned to nobody is missing data."""


class OrderNumber(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="order_number"):
    """Which order of the customer this is, counting it: 1 is the first. None is no bound."""

    min: int | None = None
    max: int | None = None


class Amount(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="amount"):
    """What the eligible lines come to, in minor units; `lines` narrows them. None is no bound."""

    min_minor: int | None = None
    max_minor: int | None = None
    basis: Basis = Basis.INITIAL
    lines: LineSelector | None = None


class Quantity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="quantity"):
    """How many units the eligible lines have; `lines` narrows them. With REMAINING, lines that other codes have brought
    down to nothing do not count. None is no bound."""

    min: int | None = None
    max: int | None = None
    basis: Basis = Basis.INITIAL
    lines: LineSelector | None = None


class Lines(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="lines"):
    """Any, every or none of the order's lines matches; here the lines that are not eligible count, too."""

    lines: LineSelector
    match: Match = Match.ANY


class Anniversary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="anniversary"):
    """Today, in the campaign's time zone, is near the yearly return of a date that the customer's attribute holds as
    YYYY-MM-DD: at most so many days before or after it. The 29th of February returns on the 28th in common years."""

    attribute: str
    days_before: int = 0
    days_after: int = 0


Test = (
    Segments
    | CustomerIds
    | HolderOnly
    | Countries
    | Regions
    | Channels
    | OrderNumber
    | Attribute
    | Anniversary
    | Lines
    | Quantity
    | Amount
)


class Condition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One condition. `message` is what is answered when it does not hold; empty for the one of the reason."""

    test: Test
    message: str = ""
    on_missing: OnMissing = OnMissing.CLOSED


class CelExpression(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A condition in the Common Expression Language; see `domain.expression` for what it may look at."""

    text: str
    message: str = ""
    on_missing: OnMissing = OnMissing.CLOSED


def check(condition: Condition) -> list[Violation]:
    """What contradicts itself in a condition, with field paths inside it. `test` may be None here."""
    return list(_check(condition))


def _check(condition: Condition) -> Iterator[Violation]:
    match condition.test:
        case Segments() as test:
            yield from _check_segments(test)
        case OneOf() as test:
            yield from _check_one_of(test)
        case OrderNumber() | Quantity() as test:
            yield from _check_range(str(test.__struct_config__.tag), "min", test.min, "max", test.max)
        case Amount() as test:
            yield from _check_range("amount", "min_minor", test.min_minor, "max_minor", test.max_minor)
        case Lines(lines=lines):
            if lines == LineSelector():
                yield Violation("lines.lines", "selects every line; name skus, products or categories")
        case _:
            pass
    selector = getattr(condition.test, "lines", None)
    if isinstance(selector, LineSelector) and selector.excludes_only_what_it_includes:
        path = f"{condition.test.__struct_config__.tag}.lines"
        yield Violation(path, "excludes everything that it includes, so it matches no line")


def _check_segments(test: Segments) -> Iterator[Violation]:
    if not (test.any or test.all or test.none):
        yield Violation("segments", "asks for nothing; give any, all or none")
    for segment in sorted({*test.all} & {*test.none}):
        yield Violation("segments.none", f"has {segment!r}, which all asks for; no customer can do both")
    if test.any and {*test.any} <= {*test.none}:
        yield Violation("segments.none", "has everything that any has, so it holds for nobody")


def _check_one_of(test: OneOf) -> Iterator[Violation]:
    name = str(test.__struct_config__.tag)
    if not (test.any or test.none) and not isinstance(test, Attribute):
        yield Violation(name, "asks for nothing; give any or none")
    if test.any and {*test.any} <= {*test.none}:
        yield Violation(f"{name}.none", "has everything that any has, so it never holds")
    form, words = _FORMS.get(type(test), (None, ""))
    for field, values in (("any", test.any), ("none", test.none)):
        for index, value in enumerate(values):
            if form is not None and not form.fullmatch(value):
                yield Violation(f"{name}.{field}[{index}]", f"{value!r} is never met; give {words}")


# What the values of an order can be at all, so that a misspelt one is not waited for in vain.
_FORMS: dict[type[OneOf], tuple[re.Pattern[str], str]] = {
    Countries: (re.compile("[A-Z]{2}"), "an ISO 3166-1 alpha-2 code in capitals, such as DE"),
    Regions: (re.compile("[A-Z]{2}-[A-Z0-9]{1,3}"), "an ISO 3166-2 code such as DE-BY"),
}


def _check_range(name: str, low_name: str, low: int | None, high_name: str, high: int | None) -> Iterator[Violation]:
    if low is None and high is None:
        yield Violation(name, f"asks for nothing; give {low_name} or {high_name}")
    elif low is not None and high is not None and low > high:
        yield Violation(f"{name}.{high_name}", f"is below {low_name} ({low}); give at least as much")


def needs_currency(condition: Condition) -> bool:
    """Whether a condition compares amounts of money. `test` may be None here."""
    return isinstance(condition.test, Amount)
