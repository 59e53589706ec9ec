"""The Lua functions held against a plain Python model, over random histories."""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from dataclasses import dataclass
from itertools import repeat

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gate.model import Answer, CampaignModel, GateModel
from vouchsafe.domain.campaign import Campaign, Definition, Limits, PercentDiscount
from vouchsafe.domain.errors import RequestIdReused
from vouchsafe.domain.reasons import Reason, Refusal
from vouchsafe.domain.redemption import STREAM_START, Claim, Event, EventKind, Redemption
from vouchsafe.gate.checkout import Attempt, Checkout, Standing
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.outbox import Outbox
from vouchsafe.settings import Settings

HOUR_MS = 3_600_000
PARTITIONS = 3
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


limits = st.builds(Limits, total=st.none() | st.integers(1, 6), per_customer=st.none() | st.integers(1, 3))
# Whole hours away from now, so that no history runs across an edge; the edges have tests of their own.
offsets = st.none() | st.sampled_from([-2 * HOUR_MS, -HOUR_MS, HOUR_MS, 2 * HOUR_MS])
definitions = st.tuples(limits, offsets, offsets)
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
    min_size=1,
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
    max_examples=300,
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
    run = uuid.uuid4().hex[:12]
    now_ms = int(time.time() * 1000)
    names = [f"c{index}-{run}" for index in range(2)]
    model = GateModel()
    numbers: dict[str, int] = {}
    gate = await Gate.connect(settings, PARTITIONS)
    checkout = Checkout(gate, settings)
    outboxes = [Outbox(settings.valkey_url, partition, INSTALLATION, 1, 1_000) for partition in range(PARTITIONS)]
    try:
        for partition in range(PARTITIONS):
            assert await gate.open_partition(partition, INSTALLATION, 1)
            await _drain(outboxes[partition])
        for name, (limit, start, end) in zip(names, definitions, strict=True):
            definition = Definition(
                display_name=name,
                discount=PercentDiscount(1_000),
                limits=limit,
                start_ms=None if start is None else now_ms + start,
                end_ms=None if end is None else now_ms + end,
            )
            await gate.publish(Campaign(name, 1, definition, now_ms))
            model.campaigns[name] = CampaignModel(definition)

        def attempt_of(step: Step) -> Attempt:
            code, objection = f"CODE{step.code}", objections[step.customer]
            claim = Claim(
                request_id=f"r{step.request}-{run}",
                fingerprint=step.fingerprint,
                campaign_id=names[step.campaign],
                campaign_version=1,
                code=code,
                customer_id=f"customer-{step.customer}",
                order_id=f"order-{step.order}",
                currency_code="EUR",
                order_amount_minor=1_000,
                discount_minor=100,
            )
            return Attempt(claim, code_limits[step.code], None if objection is None else Refusal(objection, code))

        async def decide(batch: list[Step]) -> None:
            """Decides the batch in one function call, and expects of each item what the model says, in order."""
            attempts = [attempt_of(step) for step in batch]
            before = [await _validate(checkout, attempts[0])] if len(batch) == 1 else []
            claims = await asyncio.gather(
                *(checkout.claim(attempt.claim) for attempt in attempts), return_exceptions=True
            )
            answers = await asyncio.gather(*map(_redeem, repeat(checkout), attempts, claims))
            for attempt, answer in zip(attempts, answers, strict=True):
                claim = attempt.claim
                known = claim.request_id in model.requests
                expected = model.redeem(
                    request_id=claim.request_id,
                    fingerprint=claim.fingerprint,
                    campaign_id=claim.campaign_id,
                    code=claim.code,
                    code_limit=attempt.code_use_limit,
                    customer=claim.customer_id,
                    order=claim.order_id,
                    objection=attempt.objection.reason if attempt.objection else None,
                    now_ms=now_ms,
                )
                assert _plain(answer, numbers) == expected, attempt
                if before and not known:
                    # What Validate said just before is what redeeming then did.
                    assert before == [expected if expected[0] == "refused" else "yes"]

        batch: list[Step] = []
        for entry in history:
            if isinstance(entry, SetPaused):
                await decide(batch)
                batch = []
                change = gate.pause if entry.paused else gate.resume
                status = await change(names[entry.campaign], "because")
                model.set_paused(names[entry.campaign], entry.paused)
                assert status is not None
                assert status.paused == entry.paused
                continue
            # One function call serves one partition; and the claims of one request id twice in a batch would race.
            if batch and (
                not batched
                or entry.campaign != batch[0].campaign
                or any(step.request == entry.request for step in batch)
            ):
                await decide(batch)
                batch = []
            batch.append(entry)
        await decide(batch)

        for name, campaign in model.campaigns.items():
            (status,) = await gate.describe([name])
            assert status is not None
            assert status.redeemed_count == campaign.used
        events = [event for outbox in outboxes for event in await _drain(outbox)]
        for name in names:
            mine = [(event.kind.value, name) for event in events if event.campaign_id == name]
            assert mine == [event for event in model.events if event[1] == name]
        assert sum(event.kind is EventKind.REDEEMED for event in events) == model.redemptions
    finally:
        await checkout.close()
        await gate.close()
        for outbox in outboxes:
            await outbox.close()


async def _drain(outbox: Outbox) -> list[Event]:
    events = await outbox.read(STREAM_START, 1_000, 0)
    if events:
        await outbox.trim(events[-1].position.stream_id)
    return events


async def _validate(checkout: Checkout, attempt: Attempt) -> Answer:
    answer = await checkout.validate(attempt)
    return ("refused", answer.reason) if isinstance(answer, Refusal) else "yes"


async def _redeem(checkout: Checkout, attempt: Attempt, claimed: BaseException | None) -> object:
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
