"""What the rules say about a request: codes looked up, campaigns compiled, both kept."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

from vouchsafe.domain.best_deal import combine
from vouchsafe.domain.campaign import CodeEntry
from vouchsafe.domain.combine import Candidate, Combination, Combining
from vouchsafe.domain.errors import Unavailable
from vouchsafe.domain.evaluator import Evaluator, TraceEntry
from vouchsafe.domain.order import Customer, Order
from vouchsafe.domain.reasons import Reason, Refusal
from vouchsafe.domain.rest import NO_RESTS, Rests
from vouchsafe.gate.checkout import Checkout

CACHED_CODES = 100_000
CACHED_CAMPAIGNS = 10_000

Value = TypeVar("Value")


class RedeemRequest(msgspec.Struct, frozen=True):
    """What a checkout asks. `codes` are normalised and different; `fingerprint` is 32 hex digits over everything but
    the request id and the token of a quote, which is empty for none. `discreet`: whoever asks must not learn which
    codes there are that they cannot use."""

    request_id: str
    fingerprint: str
    codes: tuple[str, ...]
    customer: Customer
    order: Order
    combining: Combining
    quote_token: str = ""
    discreet: bool = False


class Judge:
    """Looks codes and campaigns up at the gate, once for each version, and asks the rules."""

    def __init__(self, checkout: Checkout, identity_key: bytes) -> None:
        self._checkout = checkout
        self._identity_key = identity_key
        self._codes = _Cache[CodeEntry](CACHED_CODES)
        self._evaluators = _Cache[Evaluator](CACHED_CAMPAIGNS)

    async def resolve(self, codes: Sequence[str]) -> tuple[list[CodeEntry], list[Refusal]]:
        """The codes that a campaign has, in the order given, and a refusal for each of the others."""
        found = (
            [await self._resolve(codes[0])]
            if len(codes) == 1
            else await asyncio.gather(*(self._resolve(code) for code in codes))
        )
        entries, unknown = [], []
        for code, entry in zip(codes, found, strict=True):
            if entry is None:
                unknown.append(Refusal(Reason.CODE_UNKNOWN, code))
            else:
                entries.append(entry)
        return entries, unknown

    def known(self, code: str) -> Candidate | None:
        """A code with its compiled campaign, if both are at hand."""
        entry = self._codes.get(code)
        evaluator = None if entry is None else self._evaluators.get(entry.campaign_id)
        return None if entry is None or evaluator is None else Candidate(entry, evaluator)

    async def candidates(self, entries: Sequence[CodeEntry]) -> list[Candidate]:
        """Codes with their compiled campaigns. Raises Unavailable when the gate lacks one."""
        return [Candidate(entry, await self._evaluator(entry.campaign_id)) for entry in entries]

    def combine(
        self,
        request: RedeemRequest,
        candidates: Sequence[Candidate],
        traces: dict[str, list[TraceEntry]] | None = None,
        rests: Rests = NO_RESTS,
        at_ms: int | None = None,
    ) -> Combination:
        """How the codes go together on the order at a time (None: now), when no more than these rests of budgets can be
        given."""
        now_ms = self._checkout.now_ms() if at_ms is None else at_ms
        return combine(request.customer, request.order, candidates, now_ms, request.combining, traces, rests)

    def forget(self, campaign_ids: Sequence[str]) -> None:
        """These campaigns have changed; they are read again when they are needed."""
        for campaign_id in campaign_ids:
            self._evaluators.discard(campaign_id)

    async def newest(self, campaign_ids: Sequence[str]) -> list[Evaluator]:
        """The campaigns as they are defined now, compiled. Raises Unavailable when the gate lacks one."""
        found = await asyncio.gather(*(self._checkout.definition(campaign_id) for campaign_id in campaign_ids))
        for campaign in found:
            cached = campaign and self._evaluators.get(campaign.id)
            if campaign and cached and cached.campaign.version != campaign.version:
                self.forget([campaign.id])
        return [await self._evaluator(campaign_id) for campaign_id in campaign_ids]

    async def _resolve(self, code: str) -> CodeEntry | None:
        entry = self._codes.get(code)
        if entry is None:
            entry = await self._checkout.resolve(code)
            # A code leads to its campaign for ever. One that is used once is not worth keeping.
            if entry is not None and entry.use_limit is None and not entry.holder_id:
                self._codes.put(code, entry)
        return entry

    async def _evaluator(self, campaign_id: str) -> Evaluator:
        evaluator = self._evaluators.get(campaign_id)
        if evaluator is None:
            campaign = await self._checkout.definition(campaign_id)
            if campaign is None:
                raise Unavailable(f"campaign {campaign_id} is being published; try again")
            evaluator = Evaluator(campaign, self._identity_key)
            self._evaluators.put(campaign_id, evaluator)
        return evaluator


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
