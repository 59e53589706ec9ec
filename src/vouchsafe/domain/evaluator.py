"""One campaign, compiled once for each version of its definition: may this shopper use this code on this order at this
moment, and what does it take off?

The gate's clock decides, and only the gate knows it. So an answer comes with the span of time in which it is true, and
the gate takes it only within that span; else it is asked for again. No arithmetic of calendars happens in the gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

from vouchsafe.domain.campaign import Campaign, CodeEntry, Stacking
from vouchsafe.domain.conditions import Basis
from vouchsafe.domain.effects import FreeUnits
from vouchsafe.domain.lines import matcher
from vouchsafe.domain.order import Customer, Order
from vouchsafe.domain.pricing import Basket, Discount, Pricer
from vouchsafe.domain.reasons import Reason, Refusal
from vouchsafe.domain.rest import Rest
from vouchsafe.domain.rules import (
    ALWAYS,
    SOME_LINE_IS_ELIGIBLE,
    Facts,
    Rule,
    compile_condition,
    compile_currency,
    compile_expression,
    compile_limits,
)
from vouchsafe.domain.schedule import Calendar
from vouchsafe.domain.takes import Taker

# Why what is left of an order gets no discount any more.
ABOUT_LINES = (Reason.ITEMS_NOT_ELIGIBLE, Reason.QUANTITY_OUT_OF_RANGE, Reason.AMOUNT_OUT_OF_RANGE)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Verdict(NamedTuple):
    """What a code gives, or why it gives nothing; true in [from_ms, until_ms)."""

    outcome: Discount | Refusal
    from_ms: int
    until_ms: int


class TraceEntry(msgspec.Struct, frozen=True):
    """One thing that was looked at, for support: where it stands in the definition, what it asked for, what it saw and
    whether it held. `note` says what missing data meant."""

    path: str
    wanted: str
    saw: str
    held: bool
    note: str = ""


class Evaluator:
    """The compiled form of a campaign's definition; immutable. `identity_key` hashes identities that are counted.
    Raises ValueError when its expression is bad, which the check at creation rules out."""

    def __init__(self, campaign: Campaign, identity_key: bytes = b"") -> None:
        definition = campaign.definition
        self.campaign = campaign
        self.stacking: Stacking = definition.stacking
        self._start_ms = definition.start_time_ms
        self._end_ms = definition.end_time_ms
        self._calendar = Calendar(definition.schedule, self._start_ms, self._end_ms)
        self._has_schedule = definition.schedule is not None
        self._validity_ms = definition.code_validity_ms
        self._is_eligible = matcher(definition.eligible_lines)
        zone = definition.schedule.time_zone if definition.schedule else "UTC"
        self.taker = Taker(definition.limits, zone, identity_key)
        rules = compile_limits(definition.limits)
        rules += [
            compile_condition(condition, f"conditions[{index}]", zone)
            for index, condition in enumerate(definition.conditions)
        ]
        if definition.expression is not None:
            rules.append(compile_expression(definition.expression))
        if definition.currency_code:
            rules.append(compile_currency(definition.currency_code))
        if self._is_eligible is not None:
            rules.append(SOME_LINE_IS_ELIGIBLE)
        # In the order of precedence, so that the first that does not hold is the one to answer with.
        self._rules = sorted(rules, key=lambda rule: rule.reason)
        self.grants_units = any(isinstance(effect.kind, FreeUnits) and effect.kind.sku for effect in definition.effects)
        self._pricer = Pricer(definition.effects, on_initial=definition.stacking.basis is Basis.INITIAL)

    def evaluate(
        self,
        customer: Customer,
        basket: Basket,
        code: CodeEntry,
        now_ms: int,
        trace: list[TraceEntry] | None = None,
        rest: Rest | None = None,
    ) -> Verdict:
        """Judges one code on what is left of an order, as of `now_ms`, and gives no more than the rest of a budget.
        Nothing is taken off the basket.

        With a trace, everything is looked at and entered there; without, the first refusal ends it.
        """
        from_ms, until_ms, refusal = self._timing(code, now_ms)
        if trace is not None:
            self._trace_timing(code, now_ms, trace)
        elif refusal is not None:
            return Verdict(refusal, from_ms, until_ms)
        order = basket.order
        facts = Facts(customer, basket, self._eligible(order), code, now_ms)
        for rule in self._rules:
            answer = rule.holds(facts)
            if rule.span is not None:
                begin, end = rule.span(facts)
                from_ms, until_ms = max(from_ms, begin), min(until_ms, end)
            if trace is not None:
                trace.append(_entry(rule, facts, answer))
            if answer or (answer is None and rule.open_on_missing):
                continue
            refusal = refusal or _refused(rule, facts, code.code, is_missing=answer is None)
            if trace is None:
                break
        begin, end = self.taker.span(now_ms)
        from_ms, until_ms = max(from_ms, begin), min(until_ms, end)
        outcome = self._priced(facts, trace, rest) if refusal is None or trace is not None else refusal
        return Verdict(refusal or outcome, from_ms, until_ms)

    def _priced(self, facts: Facts, trace: list[TraceEntry] | None, rest: Rest | None) -> Discount | Refusal:
        """What a code gives if no condition speaks against it."""
        discount = self._pricer.price(facts.basket, facts.eligible)
        if rest is not None and discount.applied_minor > rest.minor:
            if rest.minor <= 0:
                # Also when there is something on top: a campaign without money left gives what costs money to nobody.
                return rest.refusal(facts.code.code)
            discount = discount.within(rest.minor)
        if trace is not None:
            saw = f"{discount.applied_minor} of {discount.desired_minor} desired, in minor units"
            note = f"less because of {', '.join(discount.caps)}" if discount.caps else ""
            trace.append(TraceEntry("effects", "something off", saw, discount.has_effect, note))
        return discount if discount.has_effect else Refusal(Reason.NO_EFFECT, facts.code.code)

    def reprice(self, basket: Basket, code: CodeEntry) -> Discount:
        """What the campaign gives on what is left of an order that was redeemed: of its conditions, only those on
        lines, quantities and amounts are asked, and what it was used by and when stays as it was."""
        facts = Facts(Customer(id=""), basket, self._eligible(basket.order), code, 0)
        if not all(rule.holds(facts) for rule in self._rules if rule.reason in ABOUT_LINES):
            return Discount(0, 0)
        return self._pricer.price(basket, facts.eligible)

    def ceiling_minor(self, order: Order) -> int:
        """No less than what the campaign takes off the order, whatever other codes have taken off before."""
        return self._pricer.ceiling_minor(order, self._eligible(order))

    def _eligible(self, order: Order) -> Sequence[int]:
        matches = self._is_eligible
        if matches is None:
            return range(len(order.lines))
        return [index for index, line in enumerate(order.lines) if matches(line)]

    # -- time --------------------------------------------------------------------------------------------------------

    def _timing(self, code: CodeEntry, now_ms: int) -> tuple[int, int, Refusal | None]:
        """Whether the time is right for the code, and how long that stays so."""
        from_ms, until_ms = ALWAYS
        start_ms, end_ms = self._start_ms, self._end_ms
        if start_ms is not None:
            if now_ms < start_ms:
                metadata = {"start_time": timestamp_text(start_ms)}
                return from_ms, start_ms, Refusal(Reason.CAMPAIGN_NOT_STARTED, code.code, metadata)
            from_ms = start_ms
        if end_ms is not None:
            if now_ms >= end_ms:
                metadata = {"end_time": timestamp_text(end_ms)}
                return max(from_ms, end_ms), until_ms, Refusal(Reason.CAMPAIGN_ENDED, code.code, metadata)
            until_ms = end_ms
        if self._has_schedule:
            span = self._calendar.span(now_ms)
            from_ms, until_ms = max(from_ms, span.from_ms), min(until_ms, span.until_ms)
            if not span.open:
                opens_ms = span.next_open_ms
                metadata = {} if opens_ms is None else {"next_open_time": timestamp_text(opens_ms)}
                return from_ms, until_ms, Refusal(Reason.OUTSIDE_SCHEDULE, code.code, metadata)
        expire_ms = self._expire_ms(code)
        if expire_ms is not None:
            if now_ms >= expire_ms:
                metadata = {"expire_time": timestamp_text(expire_ms)}
                return max(from_ms, expire_ms), until_ms, Refusal(Reason.CODE_EXPIRED, code.code, metadata)
            until_ms = min(until_ms, expire_ms)
        return from_ms, until_ms, None

    def _expire_ms(self, code: CodeEntry) -> int | None:
        if code.expire_time_ms is not None:
            return code.expire_time_ms
        if self._validity_ms is None or code.assign_time_ms is None:
            return None
        return code.assign_time_ms + self._validity_ms

    def _trace_timing(self, code: CodeEntry, now_ms: int, trace: list[TraceEntry]) -> None:
        saw = timestamp_text(now_ms)
        start_ms, end_ms, expire_ms = self._start_ms, self._end_ms, self._expire_ms(code)
        if start_ms is not None:
            trace.append(TraceEntry("start_time", f"from {timestamp_text(start_ms)}", saw, now_ms >= start_ms))
        if end_ms is not None:
            trace.append(TraceEntry("end_time", f"before {timestamp_text(end_ms)}", saw, now_ms < end_ms))
        if self._has_schedule:
            span = self._calendar.span(now_ms)
            opens_ms = span.next_open_ms
            note = "" if span.open or opens_ms is None else f"opens next at {timestamp_text(opens_ms)}"
            trace.append(TraceEntry("schedule", "open", saw, span.open, note))
        if expire_ms is not None:
            wanted = f"before {timestamp_text(expire_ms)}"
            trace.append(TraceEntry("code_validity", wanted, saw, now_ms < expire_ms))


def _entry(rule: Rule, facts: Facts, answer: bool | None) -> TraceEntry:
    note = ""
    if answer is None:
        verdict = "holds all the same (OPEN)" if rule.open_on_missing else "does not hold (CLOSED)"
        note = f"{rule.datum or rule.saw(facts)} was not sent, so it {verdict}"
    return TraceEntry(
        rule.path, rule.wanted, rule.saw(facts), answer or (answer is None and rule.open_on_missing), note
    )


def _refused(rule: Rule, facts: Facts, code: str, *, is_missing: bool) -> Refusal:
    metadata = {} if rule.reason is Reason.CURRENCY_MISMATCH else {"condition": rule.path}
    if is_missing:
        metadata["missing_data"] = rule.datum or rule.saw(facts)
    elif rule.numbers is not None:
        metadata |= rule.numbers(facts)
    return Refusal(rule.reason, code, metadata, rule.message)


def timestamp_text(ms: int) -> str:
    """A moment in milliseconds since 1970 UTC as RFC 3339 in UTC."""
    text = (_EPOCH + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds" if ms % 1000 else "seconds")
    return text.replace("+00:00", "Z")
