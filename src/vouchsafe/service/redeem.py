"""Redeeming: the use case that checkouts call."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

from vouchsafe.domain.campaign import Campaign, CodeEntry
from vouchsafe.domain.discount import discount_minor
from vouchsafe.domain.errors import NotFound, Unavailable
from vouchsafe.domain.order import Customer, Order
from vouchsafe.domain.reasons import Reason, Refusal
from vouchsafe.domain.redemption import Claim, EventKind, Position, Redemption
from vouchsafe.gate.checkout import Attempt, Checkout, Stale, Standing
from vouchsafe.ledger.ledger import Ledger

# A definition may change between reading and deciding; more often than this in a row, something is wrong.
MAX_ROUNDS = 5
CACHED_CODES = 100_000
CACHED_CAMPAIGNS = 10_000

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class RedeemRequest:
    """What a checkout asks. `code` is normalised; `fingerprint` is 32 hex digits over everything but the request id."""

    request_id: str
    fingerprint: str
    code: str
    customer: Customer
    order: Order


@dataclass(frozen=True, slots=True)
class Offer:
    """What a redemption would give now. Amounts in minor units of `currency_code`."""

    code: str
    campaign_id: str
    campaign_version: int
    currency_code: str
    order_amount_minor: int
    discount_minor: int


class Redeem:
    """Validates and redeems. Every method raises Unavailable or Overloaded as the gate does."""

    def __init__(self, checkout: Checkout, ledger: Ledger) -> None:
        self._checkout = checkout
        self._ledger = ledger
        self._codes = _Cache[CodeEntry](CACHED_CODES)
        self._campaigns = _Cache[Campaign](CACHED_CAMPAIGNS)

    async def redeem(self, request: RedeemRequest) -> Redemption | Refusal:
        """Takes the use, or says why not. Raises RequestIdReused.

        Repeating a request gives its first answer again. The one exception is an unknown code: no campaign decides
        it, so nothing remembers it.
        """
        entry = await self._resolve(request.code)
        if entry is None:
            return Refusal(Reason.CODE_UNKNOWN, request.code)
        claimed = False
        for _ in range(MAX_ROUNDS):
            attempt = await self._attempt(request, entry)
            if not claimed:
                await self._checkout.claim(attempt.claim)
                claimed = True
            answer = await self._checkout.redeem(attempt)
            match answer:
                case Stale():
                    self._campaigns.discard(entry.campaign_id)
                case Standing(position):
                    return await self.get(position)
                case _:
                    return answer
        raise Unavailable(f"the definition of campaign {entry.campaign_id} keeps changing; try again")

    async def validate(self, request: RedeemRequest) -> Offer | Refusal:
        """What `redeem` would answer now. Takes nothing; the request id is not looked at."""
        entry = await self._resolve(request.code)
        if entry is None:
            return Refusal(Reason.CODE_UNKNOWN, request.code)
        for _ in range(MAX_ROUNDS):
            attempt = await self._attempt(request, entry)
            answer = await self._checkout.validate(attempt)
            match answer:
                case Stale():
                    self._campaigns.discard(entry.campaign_id)
                case Refusal():
                    return answer
                case _:
                    claim = attempt.claim
                    return Offer(
                        code=claim.code,
                        campaign_id=claim.campaign_id,
                        campaign_version=claim.campaign_version,
                        currency_code=claim.currency_code,
                        order_amount_minor=claim.order_amount_minor,
                        discount_minor=claim.discount_minor,
                    )
        raise Unavailable(f"the definition of campaign {entry.campaign_id} keeps changing; try again")

    async def get(self, position: Position) -> Redemption:
        """The redemption at a position. Raises NotFound.

        The outbox is read before the ledger: an event leaves the one only when the other holds it. While the gate is
        away, the ledger alone can say yes, but not no.
        """
        unavailable: Unavailable | None = None
        try:
            event = await self._checkout.event(position)
        except Unavailable as error:
            event, unavailable = None, error
        if event is not None and event.kind is EventKind.REDEEMED:
            return Redemption.from_event(event)
        redemption = await self._ledger.get_redemption(position)
        if redemption is not None:
            return redemption
        raise unavailable or NotFound(f"there is no redemption {position}")

    async def _resolve(self, code: str) -> CodeEntry | None:
        entry = self._codes.get(code)
        if entry is None:
            entry = await self._checkout.resolve(code)
            # A code leads to its campaign for ever. One that is used once is not worth keeping.
            if entry is not None and entry.use_limit is None:
                self._codes.put(code, entry)
        return entry

    async def _attempt(self, request: RedeemRequest, entry: CodeEntry) -> Attempt:
        campaign = self._campaigns.get(entry.campaign_id)
        if campaign is None:
            campaign = await self._checkout.definition(entry.campaign_id)
            if campaign is None:
                raise Unavailable(f"campaign {entry.campaign_id} is being published; try again")
            self._campaigns.put(campaign.id, campaign)
        discount = discount_minor(campaign.definition, request.order, request.code)
        objection = discount if isinstance(discount, Refusal) else None
        claim = Claim(
            request_id=request.request_id,
            fingerprint=request.fingerprint,
            campaign_id=campaign.id,
            campaign_version=campaign.version,
            code=request.code,
            customer_id=request.customer.id,
            order_id=request.order.id,
            currency_code=request.order.currency_code,
            order_amount_minor=request.order.amount_minor,
            discount_minor=0 if isinstance(discount, Refusal) else discount,
        )
        return Attempt(claim, entry.use_limit, objection)


class _Cache(Generic[Value]):
    """The values used last, bounded in number."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[str, Value] = OrderedDict()

    def get(self, key: str) -> Value | None:
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: str, value: Value) -> None:
        self._values[key] = value
        if len(self._values) > self._size:
            self._values.popitem(last=False)

    def discard(self, key: str) -> None:
        self._values.pop(key, None)
