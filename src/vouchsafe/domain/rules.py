"""Conditions, compiled: each is asked of the facts of one order and answers yes, no, or that data is missing."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from vouchsafe.domain import conditions as c
from vouchsafe.domain import expression
from vouchsafe.domain.campaign import CodeEntry
from vouchsafe.domain.identities import IDENTITY_FIELDS, attribute_value, identity
from vouchsafe.domain.limits import AttributeLimit, IdentityLimit, Limits
from vouchsafe.domain.lines import LineSelector, matcher
from vouchsafe.domain.order import Customer
from vouchsafe.domain.pricing import Basket
from vouchsafe.domain.reasons import Reason

# No time that the service handles is outside of this.
ALWAYS: Final = (0, 2**53)
# An expression that reads the clock is taken at its word for so long around the moment at which it was asked.
NOW_TOLERANCE_MS = 1_000


class Facts(NamedTuple):
    """What conditions may look at. `eligible` are the indexes of the lines that count."""

    customer: Customer
    basket: Basket
    eligible: Sequence[int]
    code: CodeEntry
    now_ms: int


class Rule(NamedTuple):
    """One compiled condition.

    `holds` answers None when data is missing, which `datum` names then; `saw` says what it looked at, for people;
    `numbers` are the metadata of a refusal; `span` is how long an answer is true, [from_ms, until_ms), None for ever.
    """

    path: str
    reason: Reason
    datum: str
    wanted: str
    message: str
    open_on_missing: bool
    holds: Callable[[Facts], bool | None]
    saw: Callable[[Facts], str]
    numbers: Callable[[Facts], dict[str, str]] | None = None
    span: Callable[[Facts], tuple[int, int]] | None = None


def compile_condition(condition: c.Condition, path: str, time_zone: str) -> Rule:
    """A condition as a rule; `path` is where it stands in the definition."""
    test = condition.test
    name = test.__struct_config__.tag
    rule = Rule(
        path=f"{path}.{name}",
        reason=_reason(test),
        datum=_datum(test),
        wanted=_wanted(test),
        message=condition.message,
        open_on_missing=condition.on_missing is c.OnMissing.OPEN,
        holds=_never,
        saw=_nothing,
    )
    match test:
        case c.Segments():
            return rule._replace(holds=_segments(test), saw=lambda facts: _listed(facts.customer.segments))
        case c.OneOf():
            value = _value(test)
            return rule._replace(holds=_one_of(test, value), saw=lambda facts: value(facts) or "nothing")
        case c.HolderOnly():
            return rule._replace(holds=_is_holder, saw=_holder)
        case c.OrderNumber():
            number = _order_number
            return rule._replace(
                holds=_within(number, test.min, test.max),
                saw=_seen(number),
                numbers=_numbers(number, test.min, test.max),
            )
        case c.Amount():
            amount = _amount(test)
            return rule._replace(
                holds=_within(amount, test.min_minor, test.max_minor),
                saw=_seen(amount),
                numbers=_numbers(amount, test.min_minor, test.max_minor, "_minor"),
            )
        case c.Quantity():
            quantity = _quantity(test)
            return rule._replace(
                holds=_within(quantity, test.min, test.max),
                saw=_seen(quantity),
                numbers=_numbers(quantity, test.min, test.max),
            )
        case c.Lines():
            return rule._replace(holds=_lines(test), saw=_matching_skus(test.lines))
        case c.Anniversary():
            zone = ZoneInfo(time_zone)
            return rule._replace(
                holds=_anniversary(test, zone),
                saw=lambda facts: facts.customer.attributes.get(test.attribute, "nothing"),
                span=lambda facts: _day(facts.now_ms, zone),
            )


def compile_expression(text: c.CelExpression) -> Rule:
    """A CEL expression as a rule. Raises ValueError when it is bad."""
    compiled = expression.Expression(text.text)
    # What the last evaluation said; a rule is asked by one caller at a time, and `saw` only after `holds`.
    said = [""]

    def holds(facts: Facts) -> bool | None:
        outcome, said[0] = compiled.evaluate(*expression.facts(facts.customer, facts.basket.order), facts.now_ms)
        match outcome:
            case expression.Outcome.HOLDS:
                return True
            case expression.Outcome.MISSING:
                return None
            case _:
                return False

    return Rule(
        path="expression",
        reason=Reason.EXPRESSION_NOT_MET,
        datum="",  # what it missed is known once it is asked
        wanted=text.text,
        message=text.message,
        open_on_missing=text.on_missing is c.OnMissing.OPEN,
        holds=holds,
        saw=lambda facts: said[0] if holds(facts) is not True and said[0] else "",
        numbers=lambda _: {"detail": said[0]} if said[0] else {},
        span=(lambda facts: (facts.now_ms - NOW_TOLERANCE_MS, facts.now_ms + NOW_TOLERANCE_MS))
        if compiled.uses_now
        else None,
    )


def compile_currency(code: str) -> Rule:
    """That an order is in the currency of the definition's amounts."""
    return Rule(
        path="currency_code",
        reason=Reason.CURRENCY_MISMATCH,
        datum="",
        wanted=code,
        message="",
        open_on_missing=False,
        holds=lambda facts: facts.basket.order.currency_code == code,
        saw=lambda facts: facts.basket.order.currency_code,
        numbers=lambda facts: {
            "expected_currency_code": code,
            "order_currency_code": facts.basket.order.currency_code,
        },
    )


SOME_LINE_IS_ELIGIBLE: Final = Rule(
    path="eligible_lines",
    reason=Reason.ITEMS_NOT_ELIGIBLE,
    datum="",
    wanted="a line that counts",
    message="",
    open_on_missing=False,
    holds=lambda facts: bool(facts.eligible),
    saw=lambda facts: f"{len(facts.eligible)} of {len(facts.basket.order.lines)} lines count",
)


def compile_limits(limits: Limits) -> list[Rule]:
    """That what limits count by was sent: without it nobody could be counted, so nobody is let in."""
    rules = []
    for index, limit in enumerate(limits.attributes):
        source = "order.metadata" if limit.source is c.AttributeSource.ORDER else "customer.attributes"
        datum = f"{source}[{limit.key}]"
        rules.append(
            _counted_by(f"limits.attributes[{index}]", datum, Reason.ATTRIBUTE_LIMIT_REACHED, _attribute_of(limit))
        )
    identities = limits.identities
    if identities is not None:
        datum = " or ".join(IDENTITY_FIELDS[kind] for kind in identities.kinds)
        rules.append(_counted_by("limits.identities", datum, Reason.IDENTITY_LIMIT_REACHED, _identities_of(identities)))
    return rules


def _attribute_of(limit: AttributeLimit) -> Callable[[Facts], str]:
    return lambda facts: attribute_value(limit, facts.customer, facts.basket.order)


def _identities_of(limit: IdentityLimit) -> Callable[[Facts], str]:
    return lambda facts: "".join(identity(kind, facts.customer) for kind in limit.kinds)


def _counted_by(path: str, datum: str, reason: Reason, value: Callable[[Facts], str]) -> Rule:
    return Rule(
        path=path,
        reason=reason,
        datum=datum,
        wanted="something to count by",
        message="",
        open_on_missing=False,
        holds=lambda facts: True if value(facts) else None,
        saw=lambda facts: "" if value(facts) else "nothing",
    )


def _reason(test: c.Test) -> Reason:
    match test:
        case c.HolderOnly():
            return Reason.NOT_THE_HOLDER
        case c.Countries() | c.Regions():
            return Reason.COUNTRY_NOT_ELIGIBLE
        case c.Channels():
            return Reason.CHANNEL_NOT_ELIGIBLE
        case c.Anniversary():
            return Reason.DATE_NOT_ELIGIBLE
        case c.Attribute(source=c.AttributeSource.ORDER):
            return Reason.ORDER_NOT_ELIGIBLE
        case c.Lines():
            return Reason.ITEMS_NOT_ELIGIBLE
        case c.Quantity():
            return Reason.QUANTITY_OUT_OF_RANGE
        case c.Amount():
            return Reason.AMOUNT_OUT_OF_RANGE
        case _:
            return Reason.CUSTOMER_NOT_ELIGIBLE


def _datum(test: c.Test) -> str:
    """What the checkout has to send so that a test can be answered."""
    match test:
        case c.HolderOnly():
            return "code.holder_id"
        case c.Countries():
            return "customer.country_code"
        case c.Regions():
            return "customer.region_code"
        case c.Channels():
            return "order.channel"
        case c.OrderNumber():
            return "customer.order_count"
        case c.Attribute(key=key, source=c.AttributeSource.ORDER):
            return f"order.metadata[{key}]"
        case c.Attribute(key=key) | c.Anniversary(attribute=key):
            return f"customer.attributes[{key}]"
        case _:
            return ""


# -- for people -------------------------------------------------------------------------------------------------------


def _wanted(test: c.Test) -> str:
    """What a test asks for: its fields without those that say nothing."""
    fields = msgspec.to_builtins(test)
    fields.pop("type", None)
    return " ".join(f"{name}={_plain(value)}" for name, value in fields.items() if value not in (None, [], ())) or "yes"


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return _listed([str(item) for item in value])
    if isinstance(value, dict):
        return "(" + " ".join(f"{name}={_plain(part)}" for name, part in value.items() if part) + ")"
    return str(value)


def _listed(values: Sequence[str]) -> str:
    shown = ",".join(values[:20])
    return f"{shown},... ({len(values)})" if len(values) > 20 else shown or "none"


def _never(_: Facts) -> bool:
    return False


def _nothing(_: Facts) -> str:
    return ""


def _seen(number: Callable[[Facts], int | None]) -> Callable[[Facts], str]:
    def seen(facts: Facts) -> str:
        value = number(facts)
        return "nothing" if value is None else str(value)

    return seen


# -- the customer -----------------------------------------------------------------------------------------------------


def _segments(test: c.Segments) -> Callable[[Facts], bool]:
    some, every, none = frozenset(test.any), frozenset(test.all), frozenset(test.none)

    def holds(facts: Facts) -> bool:
        segments = facts.customer.segments
        return (not some or not some.isdisjoint(segments)) and every.issubset(segments) and none.isdisjoint(segments)

    return holds


def _value(test: c.OneOf) -> Callable[[Facts], str | None]:
    """How a test's value is looked up; empty or None when the checkout did not send it."""
    match test:
        case c.CustomerIds():
            return lambda facts: facts.customer.id
        case c.Countries():
            return lambda facts: facts.customer.country_code
        case c.Regions():
            return lambda facts: facts.customer.region_code
        case c.Channels():
            return lambda facts: facts.basket.order.channel
        case c.Attribute(key=key, source=c.AttributeSource.CUSTOMER):
            return lambda facts: facts.customer.attributes.get(key)
        case c.Attribute(key=key):
            return lambda facts: facts.basket.order.metadata.get(key)
        case _:
            raise TypeError(f"{test} is no test of a value")


def _one_of(test: c.OneOf, value: Callable[[Facts], str | None]) -> Callable[[Facts], bool | None]:
    some, none = frozenset(test.any), frozenset(test.none)

    def holds(facts: Facts) -> bool | None:
        found = value(facts)
        if not found:
            return None
        return found not in none and (not some or found in some)

    return holds


def _is_holder(facts: Facts) -> bool | None:
    holder = facts.code.holder_id
    return facts.customer.id == holder if holder else None


def _holder(facts: Facts) -> str:
    """To whom the code was given, without telling names."""
    match _is_holder(facts):
        case None:
            return "given to nobody"
        case is_holder:
            return "given to this customer" if is_holder else "given to another customer"


def _order_number(facts: Facts) -> int | None:
    placed = facts.customer.order_count
    return None if placed is None else placed + 1


_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def _anniversary(test: c.Anniversary, zone: ZoneInfo) -> Callable[[Facts], bool | None]:
    def holds(facts: Facts) -> bool | None:
        text = facts.customer.attributes.get(test.attribute, "")
        try:
            born = date.fromisoformat(text) if _DATE.fullmatch(text) else None
        except ValueError:
            born = None
        if born is None:
            return None
        today = datetime.fromtimestamp(facts.now_ms / 1000, zone).date()
        # Near the turn of the year, the day may belong to the year before or after.
        away = [(today - _in_year(born, today.year + offset)).days for offset in (-1, 0, 1)]
        return any(-test.days_before <= days <= test.days_after for days in away)

    return holds


def _in_year(born: date, year: int) -> date:
    if (born.month, born.day) == (2, 29) and not (year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)):
        return date(year, 2, 28)
    return born.replace(year=year)


def _day(now_ms: int, zone: ZoneInfo) -> tuple[int, int]:
    """The local day around a moment, [from_ms, until_ms); it may have 23 or 25 hours."""
    midnight = datetime.fromtimestamp(now_ms / 1000, zone).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    following = (midnight.replace(tzinfo=None) + timedelta(days=1)).replace(tzinfo=zone)
    return tuple(int(moment.astimezone(UTC).timestamp() * 1000) for moment in (midnight, following))  # type: ignore[return-value]  # two moments make a pair


# -- the order --------------------------------------------------------------------------------------------------------


def _within(number: Callable[[Facts], int | None], low: int | None, high: int | None) -> Callable[[Facts], bool | None]:
    least, most = low if low is not None else 0, high if high is not None else 2**63

    def holds(facts: Facts) -> bool | None:
        value = number(facts)
        return None if value is None else least <= value <= most

    return holds


def _numbers(
    number: Callable[[Facts], int | None], low: int | None, high: int | None, unit: str = ""
) -> Callable[[Facts], dict[str, str]]:
    """The numbers behind a refusal, with what is missing to get there: support and shop windows show it."""

    def numbers(facts: Facts) -> dict[str, str]:
        value = number(facts)
        if value is None:
            return {}
        found = {f"actual{unit}": str(value)}
        if low is not None:
            found[f"min{unit}"] = str(low)
            if value < low:
                found[f"missing{unit}"] = str(low - value)
        if high is not None:
            found[f"max{unit}"] = str(high)
        return found

    return numbers


def _amount(test: c.Amount) -> Callable[[Facts], int]:
    matches = matcher(test.lines)
    initial = test.basis is c.Basis.INITIAL

    def amount(facts: Facts) -> int:
        order = facts.basket.order
        values = order.line_amounts if initial else facts.basket.left
        if matches is None:
            return sum([values[index] for index in facts.eligible])
        lines = order.lines
        return sum([values[index] for index in facts.eligible if matches(lines[index])])

    return amount


def _quantity(test: c.Quantity) -> Callable[[Facts], int]:
    matches = matcher(test.lines)
    initial = test.basis is c.Basis.INITIAL

    def quantity(facts: Facts) -> int:
        lines, left = facts.basket.order.lines, facts.basket.left
        return sum(
            [
                lines[index].quantity
                for index in facts.eligible
                if (initial or left[index]) and (matches is None or matches(lines[index]))
            ]
        )

    return quantity


def _lines(test: c.Lines) -> Callable[[Facts], bool]:
    matches = matcher(test.lines)
    if matches is None:  # every line does
        return lambda _: test.match is not c.Match.NONE
    match test.match:
        case c.Match.ANY:
            return lambda facts: any(map(matches, facts.basket.order.lines))
        case c.Match.EVERY:
            return lambda facts: all(map(matches, facts.basket.order.lines))
        case c.Match.NONE:
            return lambda facts: not any(map(matches, facts.basket.order.lines))


def _matching_skus(selector: LineSelector) -> Callable[[Facts], str]:
    matches = matcher(selector)
    return lambda facts: _listed([line.sku for line in facts.basket.order.lines if matches is None or matches(line)])
