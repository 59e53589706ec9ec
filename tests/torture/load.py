"""Shoppers and operators: what they want, how they ask, and that they ask again until they know."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace

from tests.torture.campaigns import Contested, customers
from tests.torture.history import Answer, Call, History, Request
from vouchsafe.client import (
    Client,
    ClientError,
    Customer,
    Order,
    OrderLine,
    Redemption,
    Reservation,
    ReturnedLine,
)
from vouchsafe.local import LocalService

SHOPPERS = 32
# About this long a shopper thinks between two wishes.
THINKS_S = 0.15
PATIENCE_S = 2.0
TTL_S = 1.5
RESOLVE_S = 60.0
RESOLVED_AT_ONCE = 200
AMOUNTS_MINOR = (1_000, 2_500, 5_000, 7_900)


class Load:
    """Calls a service until that is over; `unresolved` are the requests whose outcome nobody knows yet."""

    def __init__(
        self, service: LocalService, history: History, seed: int, campaigns: list[Contested], seconds: float
    ) -> None:
        self._service = service
        self._history = history
        self._seed = seed
        self._campaigns = campaigns
        self._customers = customers(seconds)
        self._single = deque(next(one.codes for one in campaigns if one.per_code))
        self.unresolved: dict[tuple[str, str], Request] = {}

    async def run(self, over: asyncio.Event) -> None:
        """Shoppers and operators at once."""
        async with (
            self._service.client(timeout_s=PATIENCE_S, channels=16) as client,
            asyncio.TaskGroup() as everybody,
        ):
            for number in range(SHOPPERS):
                shopper = _Shopper(self, client, number, random.Random(f"{self._seed} {number}"))
                everybody.create_task(shopper.shop(over))
            everybody.create_task(self._stop_and_go(client, over))
            everybody.create_task(self._rewrite(client, over))

    async def resolve(self) -> None:
        """Asks for everything that is not known, again and again until it is, or until nothing has become known for
        `RESOLVE_S`."""
        known_at = time.monotonic()
        async with self._service.client(timeout_s=10, channels=16) as client:
            while self.unresolved and time.monotonic() < known_at + RESOLVE_S:
                asked = list(self.unresolved.values())[:RESOLVED_AT_ONCE]
                calls = await asyncio.gather(*(self.ask(client, request) for request in asked))
                if any(call.outcome != "unknown" for call in calls):
                    known_at = time.monotonic()

    async def ask(self, client: Client, request: Request) -> Call:
        """One call, kept in the history."""
        call = await self._history.call(request, lambda: _send(client, request))
        if call.outcome == "unknown":
            self.unresolved[request.key] = request
        else:
            self.unresolved.pop(request.key, None)
        return call

    def choose(self, dice: random.Random) -> str:
        """A code; single-use ones are handed out twice, and once used up they come again from the first."""
        campaign = dice.choice(self._campaigns)
        if not campaign.per_code:
            return campaign.codes[0]
        self._single.rotate(-dice.randrange(2))
        return self._single[0]

    def customer(self, dice: random.Random) -> str:
        """One of them."""
        return f"c-{dice.randrange(self._customers)}"

    async def _stop_and_go(self, client: Client, over: asyncio.Event) -> None:
        """Pauses campaigns for a while and resumes them, each time until it is known that it is so."""
        dice = random.Random(f"{self._seed} operator")
        for number in itertools.count():
            if over.is_set():
                return
            campaign = dice.choice(("paused", "paused", "budget", "endless"))
            await asyncio.sleep(dice.uniform(0.3, 1.5))
            for what in ("pause", "resume"):
                request = Request(what, f"{campaign} {number}", codes=(campaign,))
                while (await self.ask(client, request)).outcome == "unknown":
                    pass
                if what == "pause":
                    await asyncio.sleep(dice.uniform(0.2, 1.5))

    async def _rewrite(self, client: Client, over: asyncio.Event) -> None:
        """Puts a new version in the place of a definition now and then. Whether it stands does not matter."""
        dice = random.Random(f"{self._seed} writer")
        for number in itertools.count(1):
            await asyncio.sleep(dice.uniform(0.5, 2))
            if over.is_set():
                return
            campaign = dice.choice(self._campaigns)
            try:
                await client.update_campaign(campaign.id, campaign.definition(number))
            except ClientError as error:
                self._history.note("not updated", campaign=campaign.id, error=str(error))


class _Shopper:
    """One of many, with habits of its own."""

    def __init__(self, load: Load, client: Client, number: int, dice: random.Random) -> None:
        self._load = load
        self._client = client
        self._name = f"s{number}"
        self._dice = dice
        self._numbers = itertools.count(1)
        self._redeemed: deque[Redemption] = deque(maxlen=20)

    async def shop(self, over: asyncio.Event) -> None:
        """Until it is over."""
        wishes = (self._redeem, self._redeem, self._redeem_two, self._reserve, self._reserve, self._roll_back)
        while not over.is_set():
            await self._dice.choice(wishes)()
            await asyncio.sleep(self._dice.uniform(0, 2 * THINKS_S))

    async def _redeem(self) -> None:
        await self._take(self._wish("redeem", (self._load.choose(self._dice),)))

    async def _redeem_two(self) -> None:
        await self._take(self._wish("redeem", self._two()))

    async def _take(self, request: Request) -> None:
        """Redeems; then, sometimes, asks for the same again, or for the same order under another id and perhaps with
        other contents; or did so at the same moment."""
        whim = self._dice.random()
        other = replace(request, id=self._new_id(), amount_minor=self._dice.choice(AMOUNTS_MINOR))
        if whim < 0.1:
            await asyncio.gather(self._ask(request), self._ask(request))
        elif whim < 0.2:
            await asyncio.gather(self._ask(request), self._ask(other))
        else:
            answer = await self._ask(request)
            if whim < 0.35:
                await self._ask(request)
            elif whim < 0.45:
                await self._ask(other)
            elif whim < 0.5 and isinstance(answer, Redemption) and await self._ask(self._whole(answer)):
                # Back as a whole, the order may have it once more.
                await self._ask(other)

    async def _reserve(self) -> None:
        codes = self._two() if self._dice.random() < 0.5 else (self._load.choose(self._dice),)
        request = self._wish("reserve", codes)
        held = await self._ask(request)
        if not isinstance(held, Reservation):
            return
        confirm = Request("confirm", held.id, request.order_id, codes, request.customer_id, of=request.id)
        release = Request("release", held.id, request.order_id, codes, request.customer_id, of=request.id)
        whim = self._dice.random()
        if whim < 0.1:
            return  # and it ends by its time
        if whim < 0.2:
            await asyncio.sleep(TTL_S * self._dice.uniform(0.9, 1.2))
            await self._ask(confirm)
        elif whim < 0.4:
            await self._ask(release)
        elif whim < 0.5:
            await asyncio.gather(self._ask(confirm), self._ask(release))
        else:
            await self._ask(confirm)
            if whim < 0.6:
                await self._ask(confirm)
        if self._dice.random() < 0.2:
            await self._ask(request)

    async def _roll_back(self) -> None:
        if not self._redeemed:
            return
        redemption = self._dice.choice(self._redeemed)
        whim = self._dice.random()
        if whim < 0.4:
            request = self._whole(redemption)
        else:
            part = "quantity 1" if whim < 0.7 else f"minor {self._dice.randrange(1, 60)}"
            request = Request("roll_back", self._new_id(), redemption.order_id, of=redemption.id, part=part)
        await self._ask(request)
        if self._dice.random() < 0.2:
            await self._ask(request)

    async def _ask(self, request: Request) -> Answer | None:
        """Until there is an answer; or once in a while not, and the request is left to be asked for in the end."""
        call = await self._load.ask(self._client, request)
        while call.outcome == "unknown" and self._dice.random() < 0.8:
            call = await self._load.ask(self._client, request)
        if isinstance(call.answer, Redemption):
            self._redeemed.append(call.answer)
        return call.answer

    def _wish(self, what: str, codes: tuple[str, ...]) -> Request:
        order_id = f"o-{self._name}-{next(self._numbers)}"
        customer_id, amount_minor = self._load.customer(self._dice), self._dice.choice(AMOUNTS_MINOR)
        return Request(what, self._new_id(), order_id, codes, customer_id, amount_minor)

    def _whole(self, redemption: Redemption) -> Request:
        return Request("roll_back", self._new_id(), redemption.order_id, of=redemption.id)

    def _two(self) -> tuple[str, ...]:
        first, second = self._load.choose(self._dice), self._load.choose(self._dice)
        return (first, second) if first != second else (first,)

    def _new_id(self) -> str:
        return f"{self._name}-{next(self._numbers)}"


async def _send(client: Client, request: Request) -> Answer:
    return await _WAYS[request.what](client, request)


async def _redeem(client: Client, request: Request) -> Answer:
    customer, order = Customer(id=request.customer_id), _order(request)
    if len(request.codes) == 1:
        return await client.redeem(request.codes[0], customer, order, request_id=request.id)
    response = await client.redeem_codes(request.codes, customer, order, request_id=request.id)
    return response.redemption if response.HasField("redemption") else response.refusal


async def _reserve(client: Client, request: Request) -> Answer:
    customer, order = Customer(id=request.customer_id), _order(request)
    response = await client.reserve(request.codes, customer, order, ttl_s=TTL_S, request_id=request.id)
    return response.reservation if response.HasField("reservation") else response.refusal


async def _roll_back(client: Client, request: Request) -> Answer:
    what, _, amount = request.part.partition(" ")
    lines = []
    if what == "quantity":
        lines = [ReturnedLine(line_index=0, quantity=int(amount))]
    elif what == "minor":
        lines = [ReturnedLine(line_index=0, discount_minor=int(amount))]
    return await client.roll_back(request.of, lines=lines, request_id=request.id)


_WAYS: dict[str, Callable[[Client, Request], Awaitable[Answer]]] = {
    "redeem": _redeem,
    "reserve": _reserve,
    "confirm": lambda client, request: client.confirm(request.id),
    "release": lambda client, request: client.release(request.id),
    "roll_back": _roll_back,
    "pause": lambda client, request: client.pause_campaign(request.codes[0], request.id),
    "resume": lambda client, request: client.resume_campaign(request.codes[0], request.id),
}


def _order(request: Request) -> Order:
    """One line of two pieces."""
    lines = [OrderLine(sku="shirt", quantity=2, unit_price_minor=request.amount_minor)]
    return Order(id=request.order_id, currency_code="EUR", lines=lines)
