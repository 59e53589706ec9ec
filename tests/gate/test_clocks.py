"""Only the gate's clock decides, however wrong the clock is by which a server judges."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.opened import enter, open_all
from tests.service import a_backlog
from tests.values import a_claim, a_definition, percent, takes_of
from vouchsafe.domain.campaign import Campaign, CodeEntry, Definition
from vouchsafe.domain.combine import Combining
from vouchsafe.domain.limits import HonourQuoted, Limits
from vouchsafe.domain.order import Customer, Line, Order
from vouchsafe.domain.quotes import Quotes
from vouchsafe.domain.reasons import Reason, Refusal
from vouchsafe.domain.redemption import Redemption
from vouchsafe.gate.attempts import Attempt, Moved
from vouchsafe.gate.checkout import Checkout
from vouchsafe.gate.gate import Gate
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.service.committed import Committed
from vouchsafe.service.judge import RedeemRequest
from vouchsafe.service.offers import Offer
from vouchsafe.service.redeem import Redeem
from vouchsafe.settings import Settings

HOUR_MS = 3_600_000
SECRET = "a secret of the tests"  # noqa: S105  # nothing is kept under it
LINE = Line(sku="sku", quantity=1, unit_price_minor=1_000)


@pytest.fixture
async def gate(settings: Settings) -> AsyncIterator[Gate]:
    gate = await Gate.connect(settings, 1)
    try:
        await open_all(gate)
        yield gate
    finally:
        await gate.close()


@pytest.fixture
async def checkout(gate: Gate, settings: Settings) -> AsyncIterator[Checkout]:
    checkout = Checkout(gate, settings)
    yield checkout
    await checkout.close()


def judged(number: int, from_ms: int, until_ms: int, objection: Refusal | None = None) -> Attempt:
    claim = a_claim(number, "sale")
    takes = takes_of(Limits(), CodeEntry(claim.code, "sale", None), Customer(id=claim.customer_id), 100)
    return Attempt(claim, takes, objection, from_ms, until_ms)


async def test_what_was_judged_for_another_time_is_not_decided(gate: Gate, checkout: Checkout) -> None:
    await gate.publish(Campaign("sale", 1, a_definition(), 0))
    now_ms = gate.clock.now_ms()
    no = Refusal(Reason.CAMPAIGN_NOT_STARTED, "A")
    for number, attempt in enumerate(
        (
            judged(1, 0, now_ms - 1_000),
            judged(2, now_ms + 60_000, 2**53),
            judged(3, 0, now_ms - 1_000, no),
        )
    ):
        gate.clock.set(now_ms + (number - 1) * 24 * HOUR_MS)
        assert isinstance(await checkout.validate(attempt), Moved)
        assert isinstance(await checkout.redeem(attempt), Moved)
        # The answer has set the clock right.
        assert 0 <= gate.clock.now_ms() - now_ms < 60_000
    (status,) = await gate.describe(["sale"])
    assert status is not None
    assert status.redeemed_count == 0
    assert await gate.waiting_events() == 0
    assert isinstance(await checkout.redeem(judged(1, now_ms - 1_000, now_ms + 60_000)), Redemption)


@pytest.mark.parametrize("error_ms", [-30 * 24 * HOUR_MS, -HOUR_MS, HOUR_MS, 30 * 24 * HOUR_MS])
async def test_a_server_whose_clock_is_wrong_answers_by_the_gates(
    gate: Gate, checkout: Checkout, settings: Settings, error_ms: int
) -> None:
    now_ms = gate.clock.now_ms()
    spans = {
        "over": (now_ms - 2 * HOUR_MS, now_ms - HOUR_MS // 2, Reason.CAMPAIGN_ENDED),
        "open": (now_ms - HOUR_MS // 2, now_ms + HOUR_MS // 2, None),
        "coming": (now_ms + HOUR_MS // 2, now_ms + 2 * HOUR_MS, Reason.CAMPAIGN_NOT_STARTED),
    }
    ledger = await Ledger.connect(settings.postgres_url, pool_size=1, timeout_ms=5_000)
    try:
        redeem = Redeem(
            checkout, ledger, a_backlog(gate, settings), Committed(ledger, settings), hold_ms=5_000, secret=""
        )
        for name, (start_ms, end_ms, _) in spans.items():
            definition = Definition(
                display_name=name, effects=percent(1_000), start_time_ms=start_ms, end_time_ms=end_ms
            )
            await gate.publish(Campaign(name, 1, definition, 0))
        await enter(gate, *(CodeEntry(name.upper(), name, None) for name in spans))
        for name, (_, _, reason) in spans.items():
            order = Order(id=f"o-{name}", currency_code="EUR", lines=(LINE,))
            request = RedeemRequest(f"r-{name}", "0" * 32, (name.upper(),), Customer(id="c"), order, Combining())
            for ask in (redeem.validate, redeem.redeem):
                gate.clock.set(gate.clock.now_ms() + error_ms)
                outcome = (await ask(request)).outcome
                if reason is None:
                    assert isinstance(outcome, Offer | Redemption)
                else:
                    assert isinstance(outcome, Refusal)
                    assert outcome.reason is reason
                gate.clock.set(now_ms)
    finally:
        await ledger.close()


@pytest.mark.parametrize(
    ("partial", "error_ms"), [(False, -HOUR_MS), (False, 0), (False, HOUR_MS), (True, 0), (True, HOUR_MS)]
)
async def test_a_quote_is_as_old_as_the_gate_says(
    gate: Gate, checkout: Checkout, settings: Settings, partial: bool, error_ms: int
) -> None:
    within_ms = 30 * 60_000
    limits = Limits(
        total=1,
        budget_minor=10**6,
        partial_budget=partial,
        honour_quoted=HonourQuoted(within_ms=within_ms, overdraft_uses=9),
    )
    await gate.publish(Campaign("sale", 1, a_definition(limits=limits), 0))
    await enter(gate, CodeEntry("SALE", "sale", None))
    quotes = Quotes(SECRET)
    ledger = await Ledger.connect(settings.postgres_url, pool_size=1, timeout_ms=5_000)
    try:
        redeem = Redeem(
            checkout, ledger, a_backlog(gate, settings), Committed(ledger, settings), hold_ms=5_000, secret=SECRET
        )
        now_ms = gate.clock.now_ms()

        async def ask(number: int, age_ms: int | None) -> Redemption | Refusal:
            order = Order(id=f"o-{number}", currency_code="EUR", lines=(LINE,))
            token = "" if age_ms is None else quotes.token(now_ms - age_ms, "c", order.id, ["SALE"])
            gate.clock.set(gate.clock.now_ms() + error_ms)
            asked = RedeemRequest(f"r-{number}", "0" * 32, ("SALE",), Customer(id="c"), order, Combining(), token)
            outcome = (await redeem.redeem(asked)).outcome
            gate.clock.set(now_ms)
            return outcome

        assert isinstance(await ask(0, None), Redemption)
        # Not a millisecond too old: what was issued `within_ms` ago is so now, and what has a minute left is not.
        for number in (1, 2):
            late = await ask(number, within_ms)
            assert isinstance(late, Refusal)
            assert late.metadata == {"limit": "1", "used": "1", "quote": "expired"}
            # The same request id is told the same.
            assert await ask(number, within_ms) == late
        assert isinstance(await ask(3, within_ms - 60_000), Redemption)
        assert isinstance(await ask(4, None), Refusal)
    finally:
        await ledger.close()
