"""The tests of a campaign file: orders put to its definition without any server, by the same code that servers run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from vouchsafe.client import CampaignDefinition
from vouchsafe.domain.campaign import Campaign, CodeEntry, normalise_code
from vouchsafe.domain.errors import Violation
from vouchsafe.domain.evaluator import Evaluator, TraceEntry
from vouchsafe.domain.order import Customer, Order
from vouchsafe.domain.pricing import Basket, Cap, Discount
from vouchsafe.domain.reasons import Reason, Refusal
from vouchsafe.edge.convert_campaigns import definition
from vouchsafe.edge.files import Tree, checkout_request, integer, member, moment_ms, text, unknown_key

# 2026-06-15T12:00:00Z
DEFAULT_NOW_MS = 1_781_524_800_000
DEFAULT_LINE: Mapping[str, Tree] = {"sku": "item-1", "quantity": "1", "unit_price_minor": "5000"}

CASE = ("name", "now", "code", "assigned_at", "customer", "order", "expect")
GIVEN = ("discount_minor", "lines", "shipping_discount_minor", "granted_units", "desired_minor", "caps")
REFUSED = ("refused", "message", "metadata")
# What a definition alone decides; the others need a server that knows other uses, codes and operators.
REASONS = [reason.name for reason in Reason if Reason.CAMPAIGN_PAUSED < reason <= Reason.NO_EFFECT]

Value = TypeVar("Value")


@dataclass(frozen=True)
class Case:
    """An order, and what shall come of it."""

    name: str
    now_ms: int
    code: CodeEntry
    customer: Customer
    order: Order
    expected: Mapping[str, Any]


@dataclass(frozen=True)
class Result:
    """What came of a case: `found` in the form of `expected`, and what was looked at if that is not the same."""

    case: Case
    found: Mapping[str, Any]
    trace: list[TraceEntry]

    @property
    def broken(self) -> list[str]:
        """The expectations that do not hold."""
        return [name for name, value in self.case.expected.items() if not _holds(name, value, self.found.get(name))]


def _holds(name: str, expected: Any, found: Any) -> bool:
    if name == "metadata" and found is not None:
        return bool(expected.items() <= found.items())
    return bool(expected == found)


def run(message: CampaignDefinition, cases: Iterable[Case]) -> list[Result]:
    """Puts every case to a definition that is sound."""
    evaluator = Evaluator(Campaign("campaign", 1, definition(message), 0))
    results = []
    for case in cases:
        # As servers ask; only what is then to be explained is asked for again, with the trace.
        outcome = evaluator.evaluate(case.customer, Basket(case.order), case.code, case.now_ms).outcome
        result = Result(case, _found(outcome, len(case.order.lines)), [])
        if result.broken:
            evaluator.evaluate(case.customer, Basket(case.order), case.code, case.now_ms, result.trace)
        results.append(result)
    return results


def _found(outcome: Discount | Refusal, lines: int) -> dict[str, Any]:
    if isinstance(outcome, Refusal):
        return {"refused": outcome.reason.name, "message": outcome.message, "metadata": dict(outcome.metadata)}
    taken = {line.line: line.applied_minor for line in outcome.lines}
    return {
        "discount_minor": outcome.applied_minor,
        "lines": [taken.get(index, 0) for index in range(lines)],
        "shipping_discount_minor": outcome.shipping_minor,
        "granted_units": [msgspec.to_builtins(granted) for granted in outcome.granted_units],
        "desired_minor": outcome.desired_minor,
        "caps": sorted(cap.value for cap in outcome.caps),
    }


# -- reading them ------------------------------------------------------------------------------------------------------


class Section:
    """A mapping of the file, read key by key. What is wrong with it is collected."""

    def __init__(self, tree: Tree, path: str, accepted: Iterable[str], violations: list[Violation]) -> None:
        self._tree = tree if isinstance(tree, dict) else {}
        self.path = path
        self._violations = violations
        if not isinstance(tree, dict):
            self.wrong("", f"is no mapping; give one of {', '.join(accepted)}")
        violations += [unknown_key(f"{path}.{name}", accepted) for name in self._tree if name not in accepted]

    def __contains__(self, name: str) -> bool:
        return name in self._tree

    def get(self, name: str, read: Callable[[Tree], Value]) -> Value | None:
        """The value of a key; None if it is not there or wrong."""
        try:
            return read(self._tree[name]) if name in self._tree else None
        except ValueError as error:
            self.wrong(name, str(error))
            return None

    def part(self, name: str) -> Tree:
        """What stands below a key, an empty mapping if it is not there."""
        return self._tree.get(name, {})

    def wrong(self, name: str, description: str) -> None:
        """Notes what is wrong with a key."""
        self._violations.append(Violation(f"{self.path}.{name}" if name else self.path, description))


def read_cases(
    tree: Tree, message: CampaignDefinition, codes: Sequence[CodeEntry]
) -> tuple[list[Case], list[Violation]]:
    """The cases of a file, and all that is wrong with them; a case with which anything is wrong is left out."""
    if not isinstance(tree, list):
        return [], [Violation("tests", "is no list; give a list of cases")]
    if tree and not codes:
        return [], [Violation("codes", "is missing; tests need a code to try")]
    cases = []
    violations: list[Violation] = []
    for index, part in enumerate(tree):
        found: list[Violation] = []
        case = _case(Section(part, f"tests[{index}]", CASE, found), message, codes, found)
        if case is not None and not found:
            cases.append(case)
        violations += found
    return cases, violations


def _case(
    section: Section, message: CampaignDefinition, codes: Sequence[CodeEntry], violations: list[Violation]
) -> Case | None:
    name = section.get("name", text)
    if "name" not in section:
        section.wrong("name", "is missing; say what the case shows")
    now_ms = section.get("now", moment_ms)
    if now_ms is None:
        now_ms = message.start_time.ToMilliseconds() if message.HasField("start_time") else DEFAULT_NOW_MS
    code = _code(section, codes, now_ms)
    asked, found = checkout_request(_asked(section, code, message.currency_code or "EUR"))
    # What is wrong with a code is told where the file names it.
    violations += [
        Violation(f"{section.path}.{one.field}", one.description) for one in found if not one.field.startswith("codes")
    ]
    expected = _expected(section, violations)
    if asked is None or name is None:
        return None
    return Case(name, now_ms, code, asked.customer, asked.order, expected)


def _code(section: Section, codes: Sequence[CodeEntry], now_ms: int) -> CodeEntry:
    wanted = section.get("code", text)
    code = next((one for one in codes if wanted is None or one.code == normalise_code(wanted)), None)
    if code is None:
        section.wrong("code", f"is {wanted!r}; give one of the file's codes")
        return codes[0]
    assigned_at_ms = section.get("assigned_at", moment_ms)
    if not code.holder_id:
        if "assigned_at" in section:
            section.wrong("assigned_at", f"is for a code that is given to a customer, and {code.code} is not")
        return code
    return msgspec.structs.replace(code, assign_time_ms=now_ms if assigned_at_ms is None else assigned_at_ms)


def _asked(section: Section, code: CodeEntry, currency_code: str) -> Tree:
    """The request of a checkout, with what a case need not say."""
    customer = _with(section.part("customer"), {"id": "customer-1"})
    order = _with(
        section.part("order"), {"id": "order-1", "currency_code": currency_code, "lines": [dict(DEFAULT_LINE)]}
    )
    if isinstance(order, dict) and isinstance(order["lines"], list):
        order["lines"] = [
            _with(line, {"sku": f"item-{number}", "quantity": "1"})
            for number, line in enumerate(order["lines"], start=1)
        ]
    return {"codes": [code.code], "customer": customer, "order": order}


def _with(tree: Tree, defaults: Mapping[str, Tree]) -> Tree:
    return {**defaults, **tree} if isinstance(tree, dict) else tree


def _expected(section: Section, violations: list[Violation]) -> dict[str, Any]:
    """What a case expects, in the form of what is found."""
    expect = Section(section.part("expect"), f"{section.path}.expect", (*GIVEN, *REFUSED), violations)
    found: dict[str, Any] = {
        "discount_minor": expect.get("discount_minor", integer),
        "lines": expect.get("lines", _integers),
        "shipping_discount_minor": expect.get("shipping_discount_minor", integer),
        "granted_units": expect.get("granted_units", _granted_units),
        "desired_minor": expect.get("desired_minor", integer),
        "caps": expect.get("caps", _caps),
        "refused": expect.get("refused", lambda tree: member(tree, REASONS, "REFUSAL_REASON_")),
        "message": expect.get("message", text),
        "metadata": expect.get("metadata", _texts),
    }
    given = [name for name in GIVEN if name in expect]
    if "refused" in expect and given:
        expect.wrong(given[0], "stands beside refused; give one of the two")
    elif "refused" not in expect and not given:
        expect.wrong("", f"says nothing of the outcome; give refused, or any of {', '.join(GIVEN)}")
    elif "refused" not in expect:
        for name in REFUSED:
            if name in expect:
                expect.wrong(name, "is for a refusal; give refused, too")
    return {name: value for name, value in found.items() if value is not None}


def _integers(tree: Tree) -> list[int]:
    return [integer(part) for part in _list(tree)]


def _caps(tree: Tree) -> list[str]:
    return sorted(member(part, list(Cap), "DISCOUNT_CAP_") for part in _list(tree))


def _texts(tree: Tree) -> dict[str, str]:
    if not isinstance(tree, dict):
        raise ValueError("is no mapping; give a mapping of texts")
    return {name: text(part) for name, part in tree.items()}


def _granted_units(tree: Tree) -> list[dict[str, Any]]:
    granted = []
    for part in _list(tree):
        if not isinstance(part, dict) or set(part) != {"sku", "quantity"}:
            raise ValueError("has an entry that is none; give each sku and quantity")
        granted.append({"sku": text(part["sku"]), "quantity": integer(part["quantity"])})
    return granted


def _list(tree: Tree) -> list[Tree]:
    if not isinstance(tree, list):
        raise ValueError("is no list; give one")
    return tree
