"""Gate and model side by side: whatever is asked of the one is asked of the other, and they answer the same."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tests.gate.books import Books
from tests.gate.model import UNDONE, GateModel
from tests.gate.model_uses import IDENTITY_KEY, Answer, Ask, Spot, Use
from tests.gate.stage import Stage
from vouchsafe.domain.campaign import Campaign, CampaignStatus, CodeEntry, Definition
from vouchsafe.domain.errors import Changed, NotAllowed, RequestIdReused
from vouchsafe.domain.evaluator import Evaluator
from vouchsafe.domain.order import Customer, Line, Order
from vouchsafe.domain.plans import Turn
from vouchsafe.domain.pricing import Basket, Discount
from vouchsafe.domain.reasons import Refusal
from vouchsafe.domain.redemption import AppliedCode, Claim, CombinedClaim, EventKind, Position, Redemption
from vouchsafe.domain.rollback import Rollback
from vouchsafe.domain.takes import behind
from vouchsafe.domain.trail import UNKNOWN
from vouchsafe.gate.attempts import (
    Attempt,
    Gone,
    Held,
    Moved,
    Redeemable,
    Released,
    Reserved,
    Stale,
    Standing,
    Undone,
    Waiting,
)
from vouchsafe.gate.states import States, _Step
from vouchsafe.gate.transactions import Part

Result = TypeVar("Result")

# As what a campaign is shown while it is being stopped.
SHOWN = {"pausing": "paused", "archiving": "archived"}
NOTHING = Discount(0, 0)


@dataclass(frozen=True)
class Cart:
    """An order as the shopper has it now; with another price it has other contents."""

    order: int
    price: int


@dataclass(frozen=True)
class Judged:
    """By which version of the campaign and for which time a caller has judged: the wrong ones now and then."""

    is_stale: bool = False
    off_ms: int = 0


RIGHT = Judged()


async def unless_refused(step: Awaitable[Result]) -> Result | None:
    """What a step of a campaign's life answers; None when it cannot be taken."""
    try:
        return await step
    except (NotAllowed, Changed):
        return None


@dataclass(frozen=True)
class Wish:
    """One code for one cart."""

    code: str
    cart: Cart
    judged: Judged = RIGHT


# Two of them share a card, and two a device.
CUSTOMERS = (
    Customer(id="ann", email="ann@x.test", card_fingerprint="card-1", device_id="d-1", attributes={"store": "n"}),
    Customer(id="bob", email="bob@x.test", card_fingerprint="card-1", device_id="d-2", attributes={"store": "s"}),
    Customer(id="cy", email="cy@x.test", card_fingerprint="card-3", device_id="d-2", attributes={"store": "s"}),
)
CODE_LIMITS = {"A0": 2, "B0": 1}


class Twins:
    """The gate on its stage, the model, and what the callers of both know."""

    def __init__(self, stage: Stage, now_ms: int) -> None:
        self.stage = stage
        self.gate = stage.gate
        self.states = States(stage.gate)
        self.checkout = stage.checkout
        self.model = GateModel(now_ms)
        self.positions: list[Position] = []
        self.redemptions: dict[int, Redemption] = {}
        self._numbers: dict[Position, int] = {}
        self._evaluators: dict[tuple[str, int], Evaluator] = {}
        self._books = Books(stage, self.model, self.positions)

    # -- answers -----------------------------------------------------------------------------------------------------

    async def asked(self, asking: Awaitable[object]) -> Answer | None:
        """What the gate answers, in the model's words."""
        try:
            return self._plain(await asking)
        except RequestIdReused as error:
            return self._plain(error)

    async def asked_of_each(self, asking: Awaitable[Sequence[object]]) -> list[Answer | None]:
        """What the gate answers about each of several, in the model's words."""
        return [self._plain(answer) for answer in await asking]

    def _plain(self, answer: object) -> Answer | None:
        match answer:
            case RequestIdReused():
                return ("reused",)
            case None:
                return None
            case Redemption() | Rollback() | Standing():
                return ("decided", self._number(answer))
            case Refusal(reason=reason, metadata=found) if "redemption_id" in found:
                return ("refused", reason, self._numbers[Position.parse(found["redemption_id"])])
            case Moved(now_ms):
                # The answer has set the clock right.
                assert 0 <= self.gate.clock.now_ms() - now_ms < 60_000
        return words_of(answer)

    def _number(self, answer: Redemption | Rollback | Standing) -> int:
        """Decisions are numbered in the order in which they are met."""
        position = answer.position
        if position not in self._numbers:
            assert not isinstance(answer, Standing)
            self._numbers[position] = len(self.positions)
            self.positions.append(position)
            assert answer.at_ms == self.model.now_ms
            if isinstance(answer, Redemption):
                self.redemptions[self._numbers[position]] = answer
        return self._numbers[position]

    async def compare(self) -> None:
        """Holds all that the gate has written against the model."""
        await self._books.compare()

    # -- campaigns and time ------------------------------------------------------------------------------------------

    async def publish(self, campaign_id: str, version: int, definition: Definition) -> None:
        campaign = Campaign(campaign_id, version, definition, 0)
        self._evaluators.setdefault((campaign_id, version), Evaluator(campaign, IDENTITY_KEY))
        await self.gate.publish(campaign)
        self.model.publish(campaign_id, version, definition)

    def definition(self, campaign_id: str, version: int) -> Definition:
        return self._evaluators[campaign_id, version].campaign.definition

    async def move_to(self, now_ms: int) -> None:
        self.model.now_ms = now_ms
        await self.stage.move_to(now_ms)

    async def describe(self) -> None:
        found = await self.gate.describe(list(self.model.campaigns))
        for (campaign_id, campaign), status in zip(self.model.campaigns.items(), found, strict=True):
            self.model.look_at(campaign_id)
            counters = self.model.counters(campaign_id)
            uses, money, held, held_minor = (counters.get(name, 0) for name in ("uses", "money", "held", "held_money"))
            assert status is not None
            assert (status.campaign.version, status.campaign.definition) == (campaign.version, campaign.definition)
            assert status.campaign.kept == SHOWN.get(campaign.state, campaign.state)
            assert (status.redeemed_count + status.held_count, status.held_count) == (uses, held)
            assert (status.discount_minor + status.held_minor, status.held_minor) == (money, held_minor)
            assert status.customer_count == counters.get("?distinct")
            assert status.now_ms == self.model.now_ms

    async def pause(self, campaign_id: str) -> None:
        await self._stop(campaign_id, self.states.pause, "paused")

    async def archive(self, campaign_id: str) -> None:
        await self._stop(campaign_id, self.states.archive, "archived")

    async def _stop(
        self, campaign_id: str, stop: Callable[[str, str], Awaitable[CampaignStatus | None]], stopped: str
    ) -> None:
        status = await unless_refused(stop(campaign_id, "because"))
        if parts := self.model.begin_stop(campaign_id, stopped):
            self.model.settle_by_decision(parts)
            assert self.model.begin_stop(campaign_id, stopped) == []
        # Whatever was settled does not let it go on.
        assert (status is None) == (self.model.begin_stop(campaign_id, stopped) is None)
        assert status is None or status.campaign.kept == stopped

    async def begin_pause(self, campaign_id: str) -> None:
        """Only the first step, as when the server dies behind it."""
        found = await unless_refused(self.states._take(_Step(EventKind.PAUSED, campaign_id, "because", UNKNOWN)))
        parts = self.model.begin_stop(campaign_id, "paused")
        assert (found is None) == (parts is None)
        assert (found if isinstance(found, list) else []) == [part_of(use) for use in parts or ()]

    async def resume(self, campaign_id: str) -> None:
        status = await unless_refused(self.states.resume(campaign_id, "because"))
        assert (status is not None) == self.model.resume(campaign_id)
        assert status is None or status.campaign.kept == "active"

    async def take_turn(self, campaign_id: str, kind: str, turn: Turn) -> None:
        """A planned change is carried out, maybe again."""
        step = self.states.pause if kind == "paused" else self.states.resume
        status = await unless_refused(step(campaign_id, "because", turn=turn))
        if kind == "resumed":
            is_done = self.model.resume(campaign_id, turn)
        else:
            parts = self.model.begin_stop(campaign_id, kind, turn)
            is_done = parts is not None
            if parts:
                self.model.settle_by_decision(parts)
                assert self.model.begin_stop(campaign_id, kind, turn) == []
        assert (status is not None) == is_done
        state = self.model.campaigns[campaign_id].state
        assert status is None or status.campaign.kept == SHOWN.get(state, state)

    # -- one code ----------------------------------------------------------------------------------------------------

    def ask(self, wish: Wish, request: str, kind: str, earlier: Counter[str] | None = None) -> tuple[Attempt, Ask]:
        """What a caller makes of a wish, for the gate and for the model; for the gate behind the takes of others."""
        campaign_id = self.stage.campaign_of(wish.code)
        version = self.model.campaigns[campaign_id].version
        if wish.judged.is_stale and version > 1:
            version -= 1
        judged_ms = self.model.now_ms + wish.judged.off_ms
        # A caller whose clock is wrong.
        self.gate.clock.set(judged_ms)
        evaluator, limit = self._evaluators[campaign_id, version], CODE_LIMITS.get(wish.code)
        customer, order = CUSTOMERS[wish.cart.order % len(CUSTOMERS)], order_of(wish.cart)
        entry = CodeEntry(wish.code, campaign_id, limit)
        verdict = evaluator.evaluate(customer, Basket(order), entry, judged_ms)
        discount, objection = (
            (NOTHING, verdict.outcome) if isinstance(verdict.outcome, Refusal) else (verdict.outcome, None)
        )
        takes = evaluator.taker.takes(customer, order, entry, discount.applied_minor, judged_ms)
        claim = Claim(
            request_id=request,
            fingerprint=fingerprint_of(kind, wish.code, wish.cart),
            campaign_id=campaign_id,
            campaign_version=version,
            code=wish.code,
            customer_id=customer.id,
            order_id=order.id,
            currency_code="EUR",
            order_amount_minor=order.amount_minor,
            discount=discount,
            takes={take.field: take.amount for take in takes},
        )
        if earlier is not None:
            takes = behind(takes, earlier)
        attempt = Attempt(claim, takes, objection, verdict.from_ms, verdict.until_ms)
        minor = wish.cart.price // 10
        spot = (campaign_id, attempt.order_and_code)
        return attempt, Ask(request, claim.fingerprint, spot, limit, customer, order, minor, version, judged_ms)

    async def validate(self, wishes: Sequence[Wish]) -> None:
        """Those of one campaign for one cart are to be taken together: each counts behind those before it."""
        earlier: defaultdict[tuple[Cart, str], Counter[str]] = defaultdict(Counter)
        asks = [self.ask(wish, "", "redeem", earlier[wish.cart, wish.code[0]]) for wish in wishes]
        together = [
            [other for other, _ in enumerate(wishes) if (asks[other][1].order, asks[other][1].spot[0]) == about]
            for about in ((ask.order, ask.spot[0]) for _, ask in asks)
        ]
        answers = await answered(
            self.checkout.validate(attempt, [wishes[other].code for other in beside if wishes[other] != wish])
            for wish, (attempt, _), beside in zip(wishes, asks, together, strict=True)
        )
        for index, answer in enumerate(answers):
            first = [asks[other][1] for other in together[index] if other < index]
            then = [asks[other][1] for other in together[index] if other > index]
            expected = self.model.validate(asks[index][1], first, then)
            found = self._plain(answer)
            # Behind others, what is used and the limit are told without them.
            assert found == expected or (first and found and found[:2] == expected[:2])

    async def redeem(self, wishes: Sequence[tuple[Wish, str]]) -> None:
        """Requests, each with its id, in as few calls as the gate needs; on a cluster one by one, as claims and
        decisions lie in calls to several nodes there, which nobody brings into an order."""
        asks = [self.ask(wish, request, "redeem") for wish, request in wishes]
        if self.gate.routes.is_cluster:
            for one in asks:
                await self._redeem([one])
        else:
            await self._redeem(asks)

    async def _redeem(self, asks: Sequence[tuple[Attempt, Ask]]) -> None:
        answers = await answered(self.checkout.redeem(attempt) for attempt, _ in asks)
        # One call decides all that lies in one partition, and looks at its campaigns first.
        calls: defaultdict[int, list[tuple[Ask, object]]] = defaultdict(list)
        for (_, ask), answer in zip(asks, answers, strict=True):
            calls[self.gate.partition_of(ask.spot[0])].append((ask, answer))
        for partition, decided in calls.items():
            elsewhere = [self.checkout.home(ask.request) != partition for ask, _ in decided]
            for (ask, _), is_claimed in zip(decided, elsewhere, strict=True):
                # On a cluster, another request's is not even asked about.
                is_asked = not (self.gate.routes.is_cluster and is_claimed)
                if is_asked or self.model.claim(ask.request, ask.fingerprint) != ("reused",):
                    self.model.look_at(ask.spot[0])
            for (ask, answer), is_claimed in zip(decided, elsewhere, strict=True):
                assert self._plain(answer) == self.model.redeem(ask, is_claimed=is_claimed)

    # -- what is left behind -----------------------------------------------------------------------------------------

    async def settle_overdue(self) -> None:
        parts, uses = await self.gate.overdue(1_000), self.model.overdue()
        assert {part_of(use) for use in uses} == set(parts)
        # As the gate has them: partition by partition.
        uses.sort(key=lambda use: parts.index(part_of(use)))
        assert await self.gate.settle(parts) == self.model.settle_by_decision(uses)

    async def expire(self) -> None:
        assert await self.gate.expire(1_000) == self.model.expire()

    async def settle(self, spots: Sequence[Spot], transaction: str, number: int) -> None:
        redemption = "" if number == UNDONE else str(self.positions[number])
        for spot in spots:
            await self.checkout.holds.settle(Part(*spot, transaction), redemption)
            self.model.settle(spot, transaction, number)


async def answered(asking: Iterable[Awaitable[object]]) -> list[object]:
    """What is answered, and which request ids are another's."""
    answers = await asyncio.gather(*asking, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, RequestIdReused):
            raise answer
    return list(answers)


def order_of(cart: Cart) -> Order:
    line = Line(sku="sku-1", quantity=1, unit_price_minor=cart.price)
    return Order(id=f"o-{cart.order}", currency_code="EUR", lines=(line,), metadata={"store": "ns"[cart.order % 2]})


def fingerprint_of(*said: object) -> str:
    return hashlib.blake2b(repr(said).encode(), digest_size=16).hexdigest()


def words_of(answer: object) -> Answer:
    match answer:
        case Refusal(reason=reason, metadata=found) if "limit" in found:
            return ("refused", reason, int(found["limit"]), int(found["used"]))
        case Refusal(reason=reason):
            return ("refused", reason)
        case Held(taken_ms, expire_ms, _, replaced):
            return ("held", taken_ms, expire_ms, replaced)
        case Reserved(reservation_id):
            return ("reserved", reservation_id)
        case Waiting(transaction_id):
            return ("waiting", transaction_id)
        case Moved(now_ms):
            return ("moved", now_ms)
        case Gone(now_ms):
            return ("gone", now_ms)
        case Stale() | Redeemable() | Released() | Undone():
            return (type(answer).__name__.lower(),)
    raise AssertionError(answer)


def part_of(use: Use) -> Part:
    return Part(*use.ask.spot, use.transaction)


def combined(asks: Sequence[tuple[Attempt, Ask]], taken_ms: Sequence[int], fingerprint: str) -> CombinedClaim:
    """What is redeemed when all of it is held."""
    first = asks[0][0].claim
    return CombinedClaim(
        request_id=first.request_id,
        fingerprint=fingerprint,
        customer_id=first.customer_id,
        order_id=first.order_id,
        currency_code=first.currency_code,
        order_amount_minor=first.order_amount_minor,
        applied=tuple(
            AppliedCode(one.code, one.campaign_id, one.campaign_version, one.discount, one.takes, at)
            for one, at in zip((attempt.claim for attempt, _ in asks), taken_ms, strict=True)
        ),
    )
