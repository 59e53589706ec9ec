"""The steps of a sequence. What is chosen among what is there is counted from the newest backwards; where there is
nothing, nothing is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from tests.gate.choices import DAY_MS, HOUR_MS, Step
from tests.gate.flows import Flows, Transaction
from tests.gate.model_uses import window_ms
from tests.gate.stage import CAMPAIGNS, CODES, Stage
from tests.gate.twins import CUSTOMERS, Cart, Judged, Twins, Wish
from vouchsafe.domain.campaign import Definition
from vouchsafe.domain.plans import Turn

# The schedule of a campaign is worked out in stretches of time, and one ends this month.
LATEST_MS = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp() * 1000)

Thing = TypeVar("Thing")


class Steps:
    """One sequence: a method for each kind of step."""

    def __init__(self, stage: Stage, begin_ms: int) -> None:
        self._twins = Twins(stage, begin_ms)
        self._flows = Flows(self._twins)
        self._asked: list[tuple[Wish, str]] = []

        self._baskets: list[tuple[list[str], Cart]] = []

    async def begin(self, definitions: Sequence[Definition]) -> None:
        await self._twins.stage.clear(self._twins.model.now_ms)
        for campaign_id, definition in zip(CAMPAIGNS.values(), definitions, strict=True):
            await self._twins.publish(campaign_id, 1, definition)

    async def take(self, step: Step) -> None:
        """Takes the step, and holds everything against the model."""
        await getattr(self, step.what)(**step.said)
        await self._twins.compare()

    # -- one code ----------------------------------------------------------------------------------------------------

    async def redeem(self, asked: list[tuple[Wish, str]]) -> None:
        self._asked += asked
        await self._twins.redeem(asked)

    async def redeem_again(self, pick: int) -> None:
        for asked in chosen(self._asked, pick):
            await self._twins.redeem([asked])

    async def validate(self, codes: list[str], cart: Cart, like: int | None, judged: Judged) -> None:
        codes, cart = self._basket(codes, cart, like)
        await self._twins.validate([Wish(code, cart, judged) for code in codes])

    async def look_around(self) -> None:
        """Would each shopper get each code now, on an order of their own?"""
        await self._twins.validate(
            [Wish(code, Cart(len(CUSTOMERS) * 9 + shopper, 300)) for code in CODES for shopper in range(len(CUSTOMERS))]
        )

    # -- several codes -----------------------------------------------------------------------------------------------

    async def transact(
        self,
        codes: list[str],
        cart: Cart,
        like: int | None,
        judged: Judged,
        request: str,
        ttl_ms: int,
        then: str,
        dies_after: int,
    ) -> None:
        codes, cart = self._basket(codes, cart, like)
        begun = await self._flows.begin(codes, cart, judged, request, ttl_ms, dies_after)
        await self._go_on(begun, then)

    async def _go_on(self, transaction: Transaction | None, then: str) -> None:
        if transaction is None:
            return
        for what in then.split():
            await self._twins.compare()
            if what == "decide":
                await self._flows.decide(transaction)
            else:
                await self._flows.settle(transaction, transaction.spots)

    def _basket(self, codes: list[str], cart: Cart, like: int | None) -> tuple[list[str], Cart]:
        """What was asked for before, at the price of now, or what is asked for now."""
        for before, order in chosen(self._baskets, like) if like is not None else ():
            codes, cart = before, Cart(order.order, cart.price)
        self._baskets.append((codes, cart))
        return codes, cart

    async def decide(self, pick: int) -> None:
        # Whoever has given parts of a transaction back does not have it decided.
        open_ = [one for one in self._flows.transactions if one.number is None or one.number >= 0]
        for transaction in chosen(open_, pick):
            await self._flows.decide(transaction)

    async def settle(self, pick: int, part: slice) -> None:
        for transaction in chosen(self._flows.transactions, pick):
            await self._flows.settle(transaction, transaction.spots[part])

    async def settle_overdue(self) -> None:
        await self._twins.settle_overdue()

    # -- reservations ------------------------------------------------------------------------------------------------

    async def reserve(
        self, codes: list[str], cart: Cart, like: int | None, judged: Judged, request: str, ttl_ms: int, dies: bool
    ) -> None:
        codes, cart = self._basket(codes, cart, like)
        await self._flows.reserve(codes, cart, judged, request, ttl_ms, dies=dies)
        # What the order holds now is not in its way.
        await self._twins.validate([Wish(code, cart) for code in codes])

    async def confirm(self, pick: int, ttl_ms: int, then: str) -> None:
        for booking in chosen(self._flows.bookings, pick):
            await self._go_on(await self._flows.confirm(booking, ttl_ms), then)

    async def release(self, pick: int) -> None:
        for booking in chosen(self._flows.bookings, pick):
            await self._flows.release(booking)

    async def expire(self) -> None:
        await self._twins.expire()

    # -- rollbacks ---------------------------------------------------------------------------------------------------

    async def roll_back(self, pick: int, minor: int | None, request: str, is_stale: bool, then: str) -> None:
        for number in chosen(list(self._twins.redemptions), pick):
            decided = await self._flows.roll_back(number, minor, request, is_stale=is_stale)
            if decided is not None and then != "die":
                await self._twins.compare()
                await self._flows.give_back(decided, only_first=then == "give back the first")

    async def give_back(self, pick: int, only_first: bool) -> None:
        for number in chosen(list(self._flows.rollbacks), pick):
            await self._flows.give_back(number, only_first=only_first)

    async def return_left_behind(self) -> None:
        await self._flows.return_left_behind()

    # -- campaigns ---------------------------------------------------------------------------------------------------

    async def pause(self, pick: int) -> None:
        for use in chosen(self._twins.model.uses, pick):
            await self._twins.pause(use.ask.spot[0])

    async def archive(self, campaign_id: str) -> None:
        await self._twins.archive(campaign_id)

    async def take_turn(self, campaign_id: str, kind: str, plan: str | None, again: bool) -> None:
        campaign = self._twins.model.campaigns[campaign_id]
        number = max(campaign.turn, campaign.left_turn) + (not again)
        await self._twins.take_turn(campaign_id, kind, Turn(1, number, plan))

    async def begin_pause(self, pick: int) -> None:
        for use in chosen(self._twins.model.uses, pick):
            await self._twins.begin_pause(use.ask.spot[0])

    async def resume(self, pick: int) -> None:
        stopped = [id_ for id_, campaign in self._twins.model.campaigns.items() if campaign.state != "active"]
        for campaign_id in chosen(stopped, pick):
            await self._twins.resume(campaign_id)

    async def publish(self, campaign_id: str, definition: Definition) -> None:
        version = self._twins.model.campaigns[campaign_id].version + 1
        await self._twins.publish(campaign_id, version, definition)

    async def publish_late(self, campaign_id: str, back: int) -> None:
        version = max(1, self._twins.model.campaigns[campaign_id].version - back)
        await self._twins.publish(campaign_id, version, self._twins.definition(campaign_id, version))

    async def describe(self) -> None:
        await self._twins.describe()

    # -- time --------------------------------------------------------------------------------------------------------

    async def wait(self, ms: int) -> None:
        await self._twins.move_to(min(self._twins.model.now_ms + ms, LATEST_MS))

    async def wait_for_an_edge(self, pick: int, off_ms: int, then: str) -> None:
        """For one of the next moments at which something ends, or right beside it; then somebody looks."""
        now_ms = self._twins.model.now_ms
        coming = sorted({edge for edge in self._edges() if edge > now_ms})
        edge_ms = coming[pick % len(coming)]
        await self.wait(max(edge_ms + off_ms - now_ms, 0))
        await (self.decide(pick=0) if then == "decide" else getattr(self, then)())

    def _edges(self) -> Iterator[int]:
        model = self._twins.model
        for use in model.uses:
            if use.number is None:
                yield from (use.expire_ms, use.deadline_ms)
            for name in use.counts:
                if name.startswith("~"):
                    yield use.taken_ms + window_ms(name)
        for campaign in model.campaigns.values():
            yield from (campaign.definition.start_time_ms or 0, campaign.definition.end_time_ms or 0)
        # Midnight in UTC, in Berlin, and in New York.
        for hour in (-2, -1, 0, 4, 5):
            yield model.now_ms - model.now_ms % DAY_MS + DAY_MS + hour * HOUR_MS


def chosen(things: Sequence[Thing], pick: int) -> Sequence[Thing]:
    """One of the things, or none when there is none."""
    return [things[-1 - pick % len(things)]] if things else []
