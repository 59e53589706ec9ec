"""Transactions over several codes, step by step: whatever comes between, nothing is half done or taken twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import msgspec
import pytest

from tests.opened import INSTALLATION, open_all, seen
from tests.values import a_claim, a_definition, attempt_of
from vouchsafe.domain.campaign import Campaign, CampaignStatus
from vouchsafe.domain.errors import Unavailable
from vouchsafe.domain.limits import Limits
from vouchsafe.domain.reasons import Reason, Refusal
from vouchsafe.domain.redemption import STREAM_START, AppliedCode, Claim, CombinedClaim, Event, EventKind, Redemption
from vouchsafe.domain.rollback import ReturnedCode
from vouchsafe.domain.trail import UNKNOWN
from vouchsafe.gate.attempts import Attempt, Held, Redeemable, Standing, Undone, Waiting
from vouchsafe.gate.checkout import Checkout
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.holds import Decision, Hold
from vouchsafe.gate.outbox import Outbox
from vouchsafe.gate.returns import NOTHING
from vouchsafe.gate.states import States, _Step
from vouchsafe.gate.transactions import Part, transaction_id
from vouchsafe.settings import Settings

PARTITIONS = 2
# One in each partition.
ONE, OTHER = "a-campaign", "b-campaign"
LIMITS = Limits(total=1)


@dataclass
class Rig:
    """A gate with two campaigns of one use each, and what checkouts ask of it."""

    gate: Gate
    checkout: Checkout
    outboxes: list[Outbox]

    @property
    def states(self) -> States:
        return States(self.gate)

    def attempt(self, campaign: str, number: int = 0) -> Attempt:
        return attempt_of(a_claim(number, campaign, code=campaign.upper()), limits=LIMITS)

    def transaction(self, number: int = 0, name: str = "x") -> str:
        return transaction_id(self.checkout.home(f"request-{number}"), f"{name}-{number}")

    async def hold(self, campaign: str, number: int = 0, *, ms: int = 60_000, name: str = "x") -> object:
        deadline_ms = self.checkout.now_ms() + ms
        hold = Hold([self.attempt(campaign, number)], self.transaction(number, name), deadline_ms)
        (answer,) = await self.checkout.holds.hold(hold)
        return answer

    def combined(self, number: int = 0) -> CombinedClaim:
        claims = [self.attempt(campaign, number).claim for campaign in (ONE, OTHER)]
        return CombinedClaim(
            request_id=claims[0].request_id,
            fingerprint=claims[0].fingerprint,
            customer_id=claims[0].customer_id,
            order_id=claims[0].order_id,
            currency_code="EUR",
            order_amount_minor=1_000,
            applied=tuple(AppliedCode(one.code, one.campaign_id, 1, one.discount, one.takes, 1) for one in claims),
        )

    async def decide(
        self,
        number: int = 0,
        *,
        ms: int = 60_000,
        name: str = "x",
        claim: CombinedClaim | None = None,
        epochs: Mapping[int, int] | None = None,
    ) -> object:
        deadline_ms = self.checkout.now_ms() + ms
        decision = Decision(claim or self.combined(number), self.transaction(number, name), deadline_ms, epochs or {})
        return await self.checkout.holds.decide(decision)

    def part(self, campaign: str, number: int = 0, name: str = "x") -> Part:
        return Part(campaign, self.attempt(campaign, number).order_and_code, self.transaction(number, name))

    async def status(self, campaign: str) -> CampaignStatus:
        (status,) = await self.gate.describe([campaign])
        assert status is not None
        return status

    async def uses(self) -> list[int]:
        """What counts: redeemed or held."""
        found = [await self.status(campaign) for campaign in (ONE, OTHER)]
        return [status.redeemed_count + status.held_count for status in found]

    async def events(self) -> list[Event]:
        entries = [entry for outbox in self.outboxes for entry in await outbox.read(STREAM_START, 100, 0)]
        events = [entry for entry in entries if isinstance(entry, Event)]
        assert len(events) == len(entries)
        return events


@pytest.fixture
async def rig(settings: Settings) -> AsyncIterator[Rig]:
    async with contextlib.AsyncExitStack() as stack:
        gate = await Gate.connect(settings, PARTITIONS)
        stack.push_async_callback(gate.close)
        outboxes = [Outbox(gate.connections(), partition, INSTALLATION, 1) for partition in range(PARTITIONS)]
        for outbox in outboxes:
            stack.push_async_callback(outbox.close)
        await open_all(gate)
        assert {gate.partition_of(campaign) for campaign in (ONE, OTHER)} == {0, 1}
        for campaign in (ONE, OTHER):
            await gate.publish(Campaign(campaign, 1, a_definition(campaign, limits=LIMITS), 0))
        checkout = Checkout(gate, settings)
        stack.push_async_callback(checkout.close)
        yield Rig(gate, checkout, outboxes)


@pytest.mark.parametrize("held", [1, 2])
async def test_what_was_held_before_a_partition_was_opened_again_is_not_decided(rig: Rig, held: int) -> None:
    """It may be lost, and whoever opened the partition again has not reckoned with it."""
    first, second = [await rig.hold(campaign) for campaign in (ONE, OTHER)]
    assert isinstance(first, Held)
    assert isinstance(second, Held)
    assert (first.epoch, second.epoch) == (1, 1)
    home, other = rig.checkout.home("request-0"), rig.checkout.home(OTHER)
    # The partition of the other campaign has begun its second epoch, and later somebody says that it was the first.
    for epoch in (2, 1):
        epochs = [epoch if partition == other else 1 for partition in range(PARTITIONS)]
        assert home in await rig.gate.fence(await seen(rig.gate), epochs)
    decided = await rig.decide(epochs={rig.checkout.home(ONE): 1, other: held})
    assert isinstance(decided, Undone if held == 1 else Redemption)


async def test_a_partition_that_was_opened_again_meanwhile_is_not_fenced(rig: Rig) -> None:
    before = await seen(rig.gate)
    await open_all(rig.gate, epoch=2)
    with pytest.raises(Unavailable, match="opened again"):
        await rig.gate.fence(before, [1] * PARTITIONS)
    assert len(await rig.gate.fence(await seen(rig.gate), [1] * PARTITIONS)) == PARTITIONS


async def test_a_part_counts_once_however_often_it_is_held(rig: Rig) -> None:
    assert isinstance(await rig.hold(ONE), Held)
    assert isinstance(await rig.hold(ONE), Held)
    assert await rig.uses() == [1, 0]
    # To everybody else the campaign is full.
    refused = await rig.hold(ONE, 1)
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.CAMPAIGN_LIMIT_REACHED
    await rig.checkout.holds.settle(rig.part(ONE), "")
    assert await rig.uses() == [0, 0]
    assert isinstance(await rig.hold(ONE, 1), Held)


async def test_an_order_in_flight_is_waited_for_by_everything_else_it_asks(rig: Rig) -> None:
    assert isinstance(await rig.hold(ONE), Held)
    assert isinstance(await rig.hold(ONE, name="another"), Waiting)
    assert isinstance(await rig.checkout.redeem(rig.attempt(ONE)), Waiting)
    assert isinstance(await rig.checkout.validate(rig.attempt(ONE)), Waiting)
    assert await rig.uses() == [1, 0]
    # What another transaction says of the part is not heeded.
    await rig.checkout.holds.settle(rig.part(ONE, name="another"), "")
    assert await rig.uses() == [1, 0]


async def test_the_whole_is_one_redemption_and_each_part_names_it(rig: Rig) -> None:
    for campaign in (ONE, OTHER):
        assert isinstance(await rig.hold(campaign), Held)
    decided = await rig.decide()
    assert isinstance(decided, Redemption)
    for campaign in (ONE, OTHER, ONE, OTHER):  # twice
        await rig.checkout.holds.settle(rig.part(campaign), decided.id)
    assert await rig.uses() == [1, 1]
    events = await rig.events()
    parts = [Claim.from_json(event.body) for event in events if event.kind is EventKind.REDEEMED]
    assert sorted((part.campaign_id, part.combined_id) for part in parts) == [(ONE, decided.id), (OTHER, decided.id)]
    assert [event.position for event in events if event.kind is EventKind.COMBINED] == [decided.position]
    # The order has its code by that redemption, whatever it asks.
    assert await rig.checkout.redeem(rig.attempt(ONE)) == Standing(decided.position)
    assert isinstance(await rig.checkout.validate(rig.attempt(ONE)), Redeemable)
    # And deciding again answers the same.
    assert await rig.decide() == decided


async def test_a_pause_undoes_what_is_not_decided(rig: Rig) -> None:
    for campaign in (ONE, OTHER):
        assert isinstance(await rig.hold(campaign), Held)
    status = await rig.states.pause(ONE, "stop")
    assert status is not None
    assert (status.campaign.kept, status.redeemed_count) == ("paused", 0)
    assert isinstance(await rig.decide(), Undone)
    await rig.checkout.holds.settle(rig.part(OTHER), "")
    assert await rig.uses() == [0, 0]
    assert [event.kind for event in await rig.events()] == [EventKind.PAUSED]


async def test_a_pause_settles_what_is_decided_before_it_is_answered(rig: Rig) -> None:
    for campaign in (ONE, OTHER):
        assert isinstance(await rig.hold(campaign), Held)
    decided = await rig.decide()
    assert isinstance(decided, Redemption)
    status = await rig.states.pause(ONE, "stop")
    assert status is not None
    assert (status.campaign.kept, status.redeemed_count) == ("paused", 1)
    mine = [event.kind for event in await rig.events() if event.campaign_id == ONE]
    assert mine == [EventKind.REDEEMED, EventKind.PAUSED]


async def test_while_a_pause_settles_nothing_new_is_admitted(rig: Rig) -> None:
    assert isinstance(await rig.hold(ONE), Held)
    # The first step only, as when the server that pauses dies behind it.
    found = await rig.states._take(_Step(EventKind.PAUSED, ONE, "stop", UNKNOWN))
    assert found == [rig.part(ONE)]
    assert (await rig.status(ONE)).campaign.kept == "paused"
    await rig.checkout.holds.settle(rig.part(ONE), "")
    refused = await rig.checkout.redeem(rig.attempt(ONE, 1))
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.CAMPAIGN_PAUSED
    # Whoever pauses again writes it down; whoever resumes instead opens it.
    again = await rig.states.pause(ONE, "stop")
    assert again is not None
    assert [event.kind for event in await rig.events()] == [EventKind.PAUSED]
    await rig.states.resume(ONE, "")
    assert isinstance(await rig.checkout.redeem(rig.attempt(ONE, 2)), Redemption)


async def test_what_is_left_behind_undecided_is_undone_and_cannot_be_decided_late(rig: Rig) -> None:
    for campaign in (ONE, OTHER):
        assert isinstance(await rig.hold(campaign, ms=50), Held)
    assert await rig.gate.overdue(10) == []
    await asyncio.sleep(0.06)
    overdue = await rig.gate.overdue(10)
    assert sorted(part.campaign_id for part in overdue) == [ONE, OTHER]
    assert await rig.gate.settle(overdue) == 2
    assert await rig.uses() == [0, 0]
    assert isinstance(await rig.decide(), Undone)
    assert await rig.gate.settle(overdue) == 0
    assert await rig.gate.overdue(10) == []
    assert isinstance(await rig.checkout.redeem(rig.attempt(ONE)), Redemption)


async def test_a_decision_behind_its_deadline_is_none_even_if_nobody_has_undone_it(rig: Rig) -> None:
    assert isinstance(await rig.hold(ONE, ms=50), Held)
    assert isinstance(await rig.decide(ms=-1), Undone)


async def test_what_is_left_behind_decided_is_finished(rig: Rig) -> None:
    for campaign in (ONE, OTHER):
        assert isinstance(await rig.hold(campaign, ms=50), Held)
    decided = await rig.decide()
    assert isinstance(decided, Redemption)
    await asyncio.sleep(0.06)
    assert await rig.gate.settle(await rig.gate.overdue(10)) == 2
    assert await rig.uses() == [1, 1]
    assert await rig.checkout.redeem(rig.attempt(OTHER)) == Standing(decided.position)


async def test_16_who_settle_at_once_settle_once(rig: Rig) -> None:
    for campaign in (ONE, OTHER):
        assert isinstance(await rig.hold(campaign), Held)
    parts = [rig.part(ONE), rig.part(OTHER)]
    deciding = asyncio.create_task(rig.decide())
    settled = await asyncio.gather(*(rig.gate.settle(parts) for _ in range(16)))
    decided = await deciding
    assert sum(settled) == 2
    await rig.gate.settle(parts)
    assert await rig.uses() == ([1, 1] if isinstance(decided, Redemption) else [0, 0])
    redeemed = [event for event in await rig.events() if event.kind is EventKind.REDEEMED]
    assert len(redeemed) == (2 if isinstance(decided, Redemption) else 0)


async def test_a_request_that_was_refused_cannot_be_decided(rig: Rig) -> None:
    claim = rig.attempt(ONE).claim
    refusal = Refusal(Reason.CAMPAIGN_PAUSED, "X", {"a": "b"}, "Not now.")
    assert await rig.checkout.claim_id(claim.request_id, claim.fingerprint) is None
    await rig.checkout.holds.remember(claim.request_id, claim.fingerprint, refusal)
    assert await rig.checkout.claim_id(claim.request_id, claim.fingerprint) == refusal
    assert isinstance(await rig.hold(ONE), Held)
    assert await rig.decide() == refusal


async def test_what_is_decided_and_not_settled_is_settled_before_it_comes_back(rig: Rig) -> None:
    for campaign in (ONE, OTHER):
        assert isinstance(await rig.hold(campaign), Held)
    decided = await rig.decide()
    assert isinstance(decided, Redemption)
    for campaign in (ONE, OTHER):
        attempt = rig.attempt(campaign)
        returned = ReturnedCode(
            campaign_id=campaign,
            code=attempt.claim.code,
            order_id=attempt.claim.order_id,
            customer_id=attempt.claim.customer_id,
            redemption_id=decided.id,
            discount_minor=100,
            left_minor=0,
            takes={"uses": 1},
            place=decided.id,
            uses=1,
            is_ended=True,
            rollback_id="rollback",
        )
        for _ in range(3):
            waiting = await rig.checkout.returns.give_back(returned)
            if waiting is not None:
                assert isinstance(waiting, Waiting)
                assert waiting.transaction_id == rig.transaction()
                await rig.checkout.settle_by_decision(rig.part(campaign))
        assert waiting is None
    assert await rig.uses() == [0, 0]
    kinds = [event.kind for event in await rig.events()]
    assert (kinds.count(EventKind.REDEEMED), kinds.count(EventKind.RETURNED)) == (2, 2)
    # And the order has nothing of it any more: it is free to redeem again.
    claim = msgspec.structs.replace(rig.attempt(ONE).claim, request_id="another")
    assert isinstance(await rig.checkout.redeem(attempt_of(claim, limits=LIMITS)), Redemption)


async def test_what_has_come_back_does_not_come_back_by_another_rollback(rig: Rig) -> None:
    """The first may be lost while this has happened, where its partition lost its newest data."""
    redemption = await rig.checkout.redeem(rig.attempt(ONE))
    assert isinstance(redemption, Redemption)
    returned = ReturnedCode(
        campaign_id=ONE,
        code=ONE.upper(),
        order_id=rig.attempt(ONE).claim.order_id,
        customer_id="c-0",
        redemption_id=redemption.id,
        discount_minor=100,
        left_minor=0,
        takes={"uses": 1},
        place=redemption.id.partition("-")[2],
        uses=1,
        is_ended=True,
        rollback_id="lost",
    )
    assert await rig.checkout.returns.give_back(returned) is None
    again = msgspec.structs.replace(returned, rollback_id="again")
    assert await rig.checkout.returns.give_back(again) is NOTHING
    # Another order has the only use by now; the first one may not make room for a third.
    assert isinstance(await rig.checkout.redeem(rig.attempt(ONE, 1)), Redemption)
    assert await rig.checkout.returns.give_back(again) is NOTHING
    assert await rig.uses() == [1, 0]
    # That it is over is told all the same.
    nothing = msgspec.structs.replace(again, takes={}, uses=0, discount_minor=0)
    assert await rig.checkout.returns.give_back(nothing) is None
    assert await rig.uses() == [1, 0]
    assert [event.kind for event in await rig.events()].count(EventKind.RETURNED) == 2
