"""Ten thousand definitions and orders that nobody would write: judged without an error, refused with a reason."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import protovalidate
from google.protobuf.message import Message

from vouchsafe.domain.best_deal import combine
from vouchsafe.domain.campaign import Campaign, CodeEntry, Definition
from vouchsafe.domain.combine import Candidate, Combining, Coverage, Sequencing
from vouchsafe.domain.evaluator import Evaluator, TraceEntry
from vouchsafe.domain.order import Customer, Line, Order
from vouchsafe.domain.pricing import Basket, Discount
from vouchsafe.domain.reasons import MESSAGES, Refusal
from vouchsafe.edge.convert_campaigns import definition, definition_message, definition_violations
from vouchsafe.v1.definition_pb2 import CampaignDefinition

WORDS = ["shirt", "shoe", "hat", "vip", "new", "DE", "US", "DE-BY", "app", "web", "birthday", "1990-02-29", "k", "v"]
EXPRESSIONS = [
    "customer.order_count == 0",
    "order.amount_minor / (order.quantity - 3) > 100",
    'customer.attributes["k"] == "v" && now > timestamp("2026-01-01T00:00:00Z")',
    "order.lines.exists(line, line.quantity > 2)",
    "order.amount_minor",
    "customer.contry == 'DE'",
]
TEXTS = {
    "time_zone": ["", "Europe/Berlin", "America/New_York", "Mars/Base", "../UTC"],
    "rrule": ["FREQ=DAILY", "FREQ=MONTHLY;BYDAY=-1FR", "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", "FREQ=HOURLY", ""],
    "first_start": ["2026-01-01T18:00", "2026-13-01T18:00", "x"],
    "first_date": ["2026-06-01", "2026-06-31", ""],
    "last_date": ["2026-06-30", "2025-01-01"],
    "currency_code": ["EUR", "JPY", "", "EUX"],
    "text": EXPRESSIONS,
}
TIMES = ["18:00", "00:00", "24:00", "25:61", "02:30", ""]


def fill(message: Message, chance: random.Random, *, wild: bool) -> None:
    """Random contents for any message, mostly within its bounds unless wild."""
    descriptor: Any = message.DESCRIPTOR
    if descriptor.full_name in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
        days = chance.choice([1, 7, 30, 400]) if descriptor.name == "Duration" else 20_400 + chance.randint(0, 500)
        setattr(message, "seconds", chance.choice([days * 86_400, -1, 10**18]) if wild else days * 86_400)  # noqa: B010
        return
    choices = [oneof for oneof in descriptor.oneofs if len(oneof.fields) > 1]
    for oneof in choices:
        if not wild or chance.random() < 0.9:
            _fill_part(message, chance.choice(list(oneof.fields)).name, chance, wild=wild)
    for field in descriptor.fields:
        if field.containing_oneof not in choices and chance.random() <= _likelihood(field, wild=wild):
            _fill_field(message, field, chance, wild=wild)


def _likelihood(field: Any, *, wild: bool) -> float:
    if field.name in ("effects", "display_name", "items", "skus"):
        return 0.9
    return 0.95 if not (wild or field.has_presence or field.is_repeated) else 0.4


def _fill_field(message: Message, field: Any, chance: random.Random, *, wild: bool) -> None:
    if field.is_repeated:
        for _ in range(chance.randint(1, 3)):
            _add(message, field, chance, wild=wild)
    elif field.message_type is not None:
        _fill_part(message, field.name, chance, wild=wild)
    else:
        setattr(message, field.name, _value(field, chance, wild=wild))


def _fill_part(message: Message, name: str, chance: random.Random, *, wild: bool) -> None:
    part = getattr(message, name)
    part.SetInParent()
    fill(part, chance, wild=wild)


def _add(message: Message, field: Any, chance: random.Random, *, wild: bool) -> None:
    values = getattr(message, field.name)
    if field.message_type is not None:
        fill(values.add(), chance, wild=wild)
    else:
        values.append(_value(field, chance, wild=wild))


def _value(field: Any, chance: random.Random, *, wild: bool) -> Any:
    if field.enum_type is not None:
        numbers = [value.number for value in field.enum_type.values if value.number]
        return chance.choice([*numbers, 0, 99]) if wild else chance.choice(numbers)
    if field.type == field.TYPE_STRING:
        if field.name in ("start_time", "end_time"):
            return chance.choice(TIMES if wild else TIMES[:3])
        texts = TEXTS.get(field.name, WORDS)
        return chance.choice(texts) if wild else chance.choice(texts[:2])
    if field.type == field.TYPE_BOOL:
        return chance.random() < 0.5
    small = chance.choice([1, 2, 3, 5, 100, 1_000, 5_000])
    return chance.choice([small, 0, -1, 2**31 - 1]) if wild else min(small, 150) if "days" in field.name else small


def an_order(chance: random.Random) -> Order:
    lines = tuple(
        Line(
            sku=chance.choice(WORDS),
            quantity=chance.randint(1, 5),
            unit_price_minor=chance.choice([0, 1, 99, 1_000, 10**11]),
            product_id=chance.choice(["", *WORDS]),
            categories=tuple(chance.sample(WORDS, chance.randint(0, 3))),
        )
        for _ in range(chance.randint(1, 6))
    )
    return Order(
        id="o",
        currency_code=chance.choice(["EUR", "EUR", "JPY"]),
        lines=lines,
        shipping_minor=chance.choice([0, 490]),
        channel=chance.choice(["", "app", "web"]),
        metadata={} if chance.random() < 0.5 else {"k": "v"},
    )


def a_customer(chance: random.Random) -> Customer:
    return Customer(
        id=chance.choice(["v", "k", "c-1"]),
        segments=tuple(chance.sample(WORDS, chance.randint(0, 3))),
        country_code=chance.choice(["", "DE", "US"]),
        region_code=chance.choice(["", "DE-BY"]),
        attributes={word: chance.choice(WORDS) for word in chance.sample(WORDS, chance.randint(0, 4))},
        order_count=chance.choice([None, 0, 1, 5]),
    )


def evaluators(seed: int, count: int) -> list[Evaluator]:
    """That many sound definitions, compiled."""
    chance = random.Random(seed)
    validator = protovalidate.Validator()
    found: list[Evaluator] = []
    while len(found) < count:
        message = CampaignDefinition(display_name="x")
        fill(message, chance, wild=False)
        if definition_violations(message) or validator.collect_violations(message):
            continue
        value = definition(message)
        assert Definition.from_json(value.to_json()) == value
        assert definition(definition_message(value)) == value
        found.append(Evaluator(Campaign(f"c-{len(found)}", 1, value, 0)))
    return found


def test_any_definition_judges_any_order() -> None:
    chance = random.Random(2)
    reasons: Counter[str] = Counter()
    for evaluator in evaluators(1, 1_000):
        for _ in range(10):
            order, customer = an_order(chance), a_customer(chance)
            code = chance.choice([CodeEntry("A", "c", 1), CodeEntry("A", "c", 1, "c-1", 1_780_000_000_000)])
            now_ms = chance.randint(1_760_000_000_000, 1_810_000_000_000)
            trace: list[TraceEntry] = []
            verdict = evaluator.evaluate(customer, Basket(order), code, now_ms)
            explained = evaluator.evaluate(customer, Basket(order), code, now_ms, trace)
            assert verdict.from_ms <= now_ms < verdict.until_ms
            if isinstance(verdict.outcome, Discount):
                assert 0 <= verdict.outcome.applied_minor <= order.amount_minor + order.shipping_minor
                assert verdict.outcome.has_effect
                assert all(entry.held for entry in trace)
                assert explained.outcome == verdict.outcome
                reasons["APPLIED"] += 1
            else:
                assert isinstance(verdict.outcome, Refusal)
                assert isinstance(explained.outcome, Refusal)
                assert verdict.outcome.reason in MESSAGES
                assert verdict.outcome.message
                assert explained.outcome.reason == verdict.outcome.reason
                reasons[verdict.outcome.reason.name] += 1
    # Chance has been everywhere.
    assert len(reasons) >= 12, reasons
    assert reasons["APPLIED"] >= 50, reasons


def test_any_codes_go_together_somehow() -> None:
    chance = random.Random(4)
    campaigns = evaluators(3, 300)
    for _ in range(300):
        chosen = chance.sample(campaigns, 4)
        candidates = [Candidate(CodeEntry(f"C{n}", f"c{n}", 1), one) for n, one in enumerate(chosen)]
        order, customer = an_order(chance), a_customer(chance)
        combining = Combining(
            sequencing=chance.choice(list(Sequencing)),
            coverage=chance.choice(list(Coverage)),
            max_codes=chance.choice([None, 1, 2]),
        )
        found = combine(customer, order, candidates, 1_780_000_000_000, combining)
        told = [one.candidate.code.code for one in found.applied] + [
            refusal.code for refusal in (*found.inapplicable, *found.skipped)
        ]
        assert sorted(told) == ["C0", "C1", "C2", "C3"]
        assert 0 <= found.discount_minor <= order.amount_minor + order.shipping_minor


def test_any_message_is_checked_without_an_error() -> None:
    chance = random.Random(5)
    flawed = 0
    for _ in range(2_000):
        message = CampaignDefinition()
        fill(message, chance, wild=True)
        violations = definition_violations(message)
        flawed += bool(violations)
        for violation in violations:
            assert violation.field.startswith("definition")
            assert violation.description
    assert flawed > 1_000
