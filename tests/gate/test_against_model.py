"""The Lua functions held against a plain Python model, over random histories."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gate.model import Answer, CampaignModel, GateModel
from tests.values import a_discount, percent, takes_of
from vouchsafe.domain.campaign import Campaign, CodeEntry, Definition
from vouchsafe.domain.errors import RequestIdReused
from vouchsafe.domain.evaluator import Evaluator
from vouchsafe.domain.limits import Limits
from vouchsafe.domain.order import Customer, Line, Order
from vouchsafe.domain.pricing import Basket
from vouchsafe.domain.reasons import Reason, Refusal
from vouchsafe.domain.redemption import STREAM_START, Claim, Event, EventKind, Redemption
from vouchsafe.gate.attempts import Attempt, Standing
from vouchsafe.gate.checkout import Checkout
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.outbox import Outbox
from vouchsafe.settings import Settings

HOUR_MS = 3_600_000
PARTITIONS = 3
ORDER = Order(id="order", currency_code="EUR", lines=(Line(sku="sku-1", quantity=1, unit_price_minor=1_000),))
INSTALLATION = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class Step:
    """One request to redeem, with few enough values that histories collide with themselves."""

    request: int
    campaign: int
    code: int
    customer: int
    order: int

    @property
    def fingerprint(self) -> str:
        said = (self.campaign, self.code, self.customer, self.order)
        return hashlib.blake2b(repr(said).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class SetPaused:
    """An operator pauses or resumes."""

    campaign: int
    paused: bool


counts = st.none() | st.none() | st.integers(1, 3)
# Half of all campaigns have the two usual limits, so that those are reached often; the others have any mix.
limits = st.builds(Limits, total=st.none() | st.integers(1, 3), per_customer=st.none() | st.integers(1, 3)) | st.builds(
    Limits,
    total=counts,
    per_customer=counts,
    per_code=counts,
    distinct_customers=counts,
    budget_minor=st.none() | st.sampled_from([100, 199, 200, 350]),
    customer_budget_minor=st.none() | st.sampled_from([100, 150, 200]),
)
# Whole hours away from now, so that no history runs across an edge; the edges have tests of their own.
# Most campaigns are running: one that is closed from the start shows little.
starts = st.sampled_from([None, -HOUR_MS, -2 * HOUR_MS, -HOUR_MS, HOUR_MS])
ends = st.sampled_from([None, HOUR_MS, 2 * HOUR_MS, HOUR_MS, -HOUR_MS])
definitions = st.tuples(limits, starts, ends)
steps = st.builds(
    Step,
    request=st.integers(0, 30),
    campaign=st.integers(0, 1),
    code=st.integers(0, 2),
    customer=st.integers(0, 3),
    order=st.integers(0, 12),
)
histories = st.lists(
    st.one_of(
        steps,
        steps,
        steps,
        st.builds(SetPaused, campaign=st.integers(0, 1), paused=st.booleans()),
    ),
    min_size=10,
    max_size=60,
)


@given(
    definitions=st.tuples(definitions, definitions),
    # A code's own limit and what the rules object to are a matter of code and customer, not of the single request.
    code_limits=st.tuples(*[st.sampled_from([None, 1, 2])] * 3),
    objections=st.tuples(*[st.sampled_from([None, None, None, Reason.NO_EFFECT])] * 4),
    history=histories,
    batched=st.booleans(),
)
@settings(
    max_examples=150,
    deadline=None,
    # The fixtures hold connections only; every example makes campaigns and requests of its own.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_history_is_decided_as_the_model_decides_it(
    settings: Settings,
    definitions: tuple[tuple[Limits, int | None, int | None], ...],
    code_limits: tuple[int | None, ...],
    objections: tuple[Reason | None, ...],
    history: list[Step | SetPaused],
    batched: bool,
) -> None:
    asyncio.run(_compare(settings, definitions, code_limits, objections, history, batched))


async def _compare(
    settings: Settings,
    definitions: tuple[tuple[Limits, int | None, int | None], ...],
    code_limits: tuple[int | None, ...],
    objections: tuple[Reason | None, ...],
    history: list[Step | SetPaused],
    batched: bool,
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        gate = await Gate.connect(settings, PARTITIONS)
        stack.push_async_callback(gate.close)
        checkout = Checkout(gate, settings)
        stack.push_async_callback(checkout.close)
        outboxes = [Outbox(settings.valkey_url, partition, INSTALLATION, 1, 1_000) for partition in range(PARTITIONS)]
        for partition, outbox in enumerate(outboxes):
            stack.push_async_callback(outbox.close)
            assert await gate.open_partition(partition, INSTALLATION, 1)
            assert await gate.has_partition(partition, INSTALLATION, 1)
            await _drain(outbox)
        twins = Twins(gate, checkout, code_limits, objections)
        await twins.publish(definitions)
        for part in _parts(history, batched):
            if isinstance(part, SetPaused):
                await twins.set_paused(part)
            else:
                await twins.decide(part)
        await twins.check_counters()
        twins.check_events([event for outbox in outboxes for event in await _drain(outbox)])


def _parts(history: list[Step | SetPaused], batched: bool) -> Iterator[list[Step] | SetPaused]:
    """The history cut into what goes to the gate in one call: steps of one campaign, since one call serves one
    partition, and no request id twice, since the claims of both would race."""
    batch: list[Step] = []
    for entry in history:
        if isinstance(entry, SetPaused):
            yield batch
            yield entry
            batch = []
            continue
        if batch and (
            not batched or entry.campaign != batch[0].campaign or any(step.request == entry.request for step in batch)
        ):
            yield batch
            batch = []
        batch.append(entry)
    yield batch


class Twins:
    """Gate and model side by side, given the same requests."""

    def __init__(
        self,
        gate: Gate,
        checkout: Checkout,
        code_limits: tuple[int | None, ...],
        objections: tuple[Reason | None, ...],
    ) -> None:
        self._gate = gate
        self._checkout = checkout
        self._code_limits = code_limits
        self._objections = objections
        self._model = GateModel()
        self._run = uuid.uuid4().hex[:12]
        self._names = [f"c{index}-{self._run}" for index in range(2)]
        self._now_ms = int(time.time() * 1000)
        self._numbers: dict[str, int] = {}

    async def publish(self, definitions: tuple[tuple[Limits, int | None, int | None], ...]) -> None:
        for name, (limit, start, end) in zip(self._names, definitions, strict=True):
            definition = Definition(
                display_name=name,
                effects=percent(1_000),
                limits=limit,
                start_time_ms=None if start is None else self._now_ms + start,
                end_time_ms=None if end is None else self._now_ms + end,
            )
            await self._gate.publish(Campaign(name, 1, definition, self._now_ms))
            self._model.campaigns[name] = CampaignModel(definition)

    async def set_paused(self, entry: SetPaused) -> None:
        name = self._names[entry.campaign]
        status = await (self._gate.pause if entry.paused else self._gate.resume)(name, "because")
        self._model.set_paused(name, entry.paused)
        assert status is not None
        assert status.paused == entry.paused

    async def decide(self, batch: list[Step]) -> None:
        """Decides the batch in one function call, and expects of each item what the model says, in order."""
        attempts = [self._attempt(step) for step in batch]
        before = await _validate(self._checkout, attempts[0]) if len(batch) == 1 else None
        claims = await asyncio.gather(
            *(self._checkout.claim(attempt.claim) for attempt in attempts), return_exceptions=True
        )
        answers = await asyncio.gather(*map(_redeem, repeat(self._checkout), attempts, claims))
        for attempt, answer in zip(attempts, answers, strict=True):
            known = attempt.claim.request_id in self._model.requests
            expected = self._expected(attempt)
            assert _plain(answer, self._numbers) == expected, attempt
            if before is not None and not known:
                # What Validate said just before is what redeeming then did.
                assert before == (expected if expected[0] == "refused" else "yes")

    async def check_counters(self) -> None:
        for name, campaign in self._model.campaigns.items():
            (status,) = await self._gate.describe([name])
            assert status is not None
            assert status.redeemed_count == campaign.used

    def check_events(self, events: list[Event]) -> None:
        for name in self._names:
            mine = [(event.kind.value, name) for event in events if event.campaign_id == name]
            assert mine == [event for event in self._model.events if event[1] == name]
        assert sum(event.kind is EventKind.REDEEMED for event in events) == self._model.redemptions

    def _attempt(self, step: Step) -> Attempt:
        code, objection = f"CODE{step.code}", self._objections[step.customer]
        campaign = Campaign(
            self._names[step.campaign], 1, self._model.campaigns[self._names[step.campaign]].definition, 0
        )
        shopper, basket = Customer(id=f"customer-{step.customer}"), Basket(ORDER)
        # What the rules say of the time, and how long it is true; what else they object to is made up.
        verdict = Evaluator(campaign).evaluate(shopper, basket, CodeEntry(code, campaign.id, None), self._now_ms)
        refusal = verdict.outcome if isinstance(verdict.outcome, Refusal) else None
        if refusal is None and objection is not None:
            refusal = Refusal(objection, code)
        claim = Claim(
            request_id=f"r{step.request}-{self._run}",
            fingerprint=step.fingerprint,
            campaign_id=self._names[step.campaign],
            campaign_version=1,
            code=code,
            customer_id=f"customer-{step.customer}",
            order_id=f"order-{step.order}",
            currency_code="EUR",
            order_amount_minor=1_000,
            discount=a_discount(100),
        )
        entry = CodeEntry(code, campaign.id, self._code_limits[step.code])
        takes = takes_of(campaign.definition.limits, entry, shopper, 100, self._now_ms)
        return Attempt(claim, takes, refusal, verdict.from_ms, verdict.until_ms)

    def _expected(self, attempt: Attempt) -> Answer:
        claim = attempt.claim
        return self._model.redeem(
            request_id=claim.request_id,
            fingerprint=claim.fingerprint,
            campaign_id=claim.campaign_id,
            code=claim.code,
            code_limit=self._code_limits[int(claim.code.removeprefix("CODE"))],
            customer=claim.customer_id,
            order=claim.order_id,
            objection=attempt.objection.reason if attempt.objection else None,
            discount=100,
            now_ms=self._now_ms,
        )


async def _drain(outbox: Outbox) -> list[Event]:
    events = await outbox.read(STREAM_START, 1_000, 0)
    if events:
        await outbox.trim(events[-1].position.stream_id)
    return events


async def _validate(checkout: Checkout, attempt: Attempt) -> Answer:
    answer = await checkout.validate(attempt)
    return ("refused", answer.reason) if isinstance(answer, Refusal) else "yes"


async def _redeem(checkout: Checkout, attempt: Attempt, claimed: object) -> object:
    if claimed is not None:
        return claimed
    try:
        return await checkout.redeem(attempt)
    except RequestIdReused as error:
        return error


def _plain(answer: object, numbers: dict[str, int]) -> Answer:
    """The answer in the model's words; redemptions are numbered in the order in which they are met."""
    match answer:
        case Redemption():
            return ("redeemed", numbers.setdefault(str(answer.position), len(numbers)))
        case Refusal(reason=reason):
            return ("refused", reason)
        case Standing(position):
            return ("standing", numbers[str(position)])
        case RequestIdReused():
            return "reused"
    raise AssertionError(answer)
