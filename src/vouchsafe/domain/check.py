"""What contradicts itself in a campaign's definition: everything at once, in the names of the interface.

The bounds of single fields are told by the protos; a definition may break them here, and is judged all the same.
"""

from __future__ import annotations

from collections.abc import Iterator

from vouchsafe.domain import conditions, effects, expression, limits, schedule
from vouchsafe.domain.campaign import CombineMode, Definition
from vouchsafe.domain.errors import Violation
from vouchsafe.domain.money import EXPONENTS

# The years 2000 to 2200, as the protos say.
MIN_TIME_MS, MAX_TIME_MS = 946_684_800_000, 7_258_118_400_000


def check(definition: Definition) -> list[Violation]:
    """The violations of a definition, with field paths inside it; empty when it is sound. Never raises.

    Its unions may be empty and its required parts None here, as they come from a message: the protos' own rules, which
    are asked beside these, tell so.
    """
    return list(_check(definition))


def _check(definition: Definition) -> Iterator[Violation]:
    start_ms, end_ms = definition.start_time_ms, definition.end_time_ms
    if start_ms is not None and end_ms is not None and end_ms <= start_ms:
        yield Violation("end_time", "must be after start_time")
    yield from _check_currency(definition)
    yield from _under("limits", list(limits.check(definition.limits)))
    for index, effect in enumerate(definition.effects):
        yield from _under(f"effects[{index}]", effects.check(effect))
    for index, condition in enumerate(definition.conditions):
        yield from _under(f"conditions[{index}]", conditions.check(condition))
    if definition.eligible_lines is not None and definition.eligible_lines.excludes_only_what_it_includes:
        yield Violation("eligible_lines", "excludes everything that it includes, so no line is eligible")
    if definition.expression is not None:
        for problem in expression.check(definition.expression.text):
            yield Violation("expression.text", problem)
    yield from _check_schedule(definition)
    stacking = definition.stacking
    if stacking.mode is CombineMode.GROUPED and not stacking.group:
        yield Violation("stacking.group", "is required for GROUPED: name the group of which one code applies")
    if stacking.mode is not CombineMode.GROUPED and stacking.group:
        yield Violation("stacking.group", f"has no meaning for {stacking.mode}; choose GROUPED, or leave it out")


def _check_currency(definition: Definition) -> Iterator[Violation]:
    code = definition.currency_code
    if code and code not in EXPONENTS:
        yield Violation("currency_code", f"{code!r} is no currency; give an ISO 4217 code such as EUR")
    if not code:
        for index, effect in enumerate(definition.effects):
            for name in effects.amounts_of(effect):
                yield Violation("currency_code", f"is required: effects[{index}].{name} is an amount of money")
        for index, condition in enumerate(definition.conditions):
            if conditions.needs_currency(condition):
                yield Violation("currency_code", f"is required: conditions[{index}].amount compares amounts of money")
        for name in limits.amounts_of(definition.limits):
            yield Violation("currency_code", f"is required: limits.{name} is an amount of money")


def _check_schedule(definition: Definition) -> Iterator[Violation]:
    if definition.schedule is None:
        return
    violations = schedule.check(definition.schedule)
    yield from _under("schedule", violations)
    start_ms, end_ms = definition.start_time_ms, definition.end_time_ms
    times = [time for time in (start_ms, end_ms) if time is not None]
    if violations or times != sorted(set(times)) or not all(MIN_TIME_MS <= time <= MAX_TIME_MS for time in times):
        return
    if schedule.never_opens(definition.schedule, start_ms, end_ms):
        within = "within ten years" if end_ms is None else "between start_time and end_time"
        yield Violation("schedule", f"never opens {within}")


def _under(path: str, violations: list[Violation]) -> Iterator[Violation]:
    for violation in violations:
        yield Violation(f"{path}.{violation.field}" if violation.field else path, violation.description)
