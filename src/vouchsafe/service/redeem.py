"""Redeeming: the use case that checkouts call."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from vouchsafe.domain.combine import Candidate, Combination, Coverage
from vouchsafe.domain.errors import NotFound, Unavailable
from vouchsafe.domain.evaluator import TraceEntry
from vouchsafe.domain.limits import Limits
from vouchsafe.domain.pricing import Discount
from vouchsafe.domain.quotes import Quotes, with_quote
from vouchsafe.domain.reasons import Refusal
from vouchsafe.domain.redemption import Claim, Position, Redemption
from vouchsafe.domain.rest import Rest, Rests, rest_of
from vouchsafe.domain.secret import Purpose, derived_key
from vouchsafe.domain.takes import behind
from vouchsafe.gate.attempts import Attempt, Moved, Stale, Standing, Waiting
from vouchsafe.gate.checkout import Checkout
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.service.backlog import Backlog
from vouchsafe.service.combined import Answer, Combined, Plan
from vouchsafe.service.committed import Committed
from vouchsafe.service.judge import Judge, RedeemRequest
from vouchsafe.service.offers import Answered, Offer, Trace, Trial, Validation
from vouchsafe.service.reserve import Reservations
from vouchsafe.service.rollback import Rollbacks
from vouchsafe.service.transactions import Patience, Transactions

# A definition may change between reading and deciding, and so may the answer of the clock; more often than this in a
# row, something is wrong.
MAX_ROUNDS = 5
NOTHING = Discount(0, 0)


class Prepared(NamedTuple):
    """A request that waits for nothing but the gate's decision."""

    request: RedeemRequest
    candidate: Candidate
    attempt: Attempt


class Redeem:
    """Validates and redeems. Every method raises Unavailable or Overloaded as the gate does. `backlog` says whether new
    uses may be taken; OutboxFull is raised while they may not."""

    def __init__(
        self,
        checkout: Checkout,
        ledger: Ledger,
        backlog: Backlog,
        committed: Committed,
        *,
        hold_ms: int,
        secret: str,
    ) -> None:
        self._checkout = checkout
        self._backlog = backlog
        self._ledger = ledger
        self._committed = committed
        self._judge = Judge(checkout, derived_key(secret, Purpose.IDENTITIES))
        self._quotes = Quotes(secret)
        transactions = Transactions(checkout, committed, hold_ms)
        self._combined = Combined(checkout, transactions, self._plan, self.get)
        self.reservations = Reservations(checkout, transactions, backlog, committed, self._plan, self.get)
        self.rollbacks = Rollbacks(checkout, ledger, committed, self._judge, self.get)

    async def redeem(self, request: RedeemRequest) -> Answer:
        """Takes the uses, or says why not. Raises RequestIdReused.

        Repeating a request gives its first answer again. The one exception is an unknown code: no campaign decides
        it, so nothing remembers it.
        """
        self.check()
        if len(request.codes) > 1:
            answer = await self._combined.redeem(request)
        else:
            answer = Answer(await self._redeem_one(request))
        await self.keep(answer)
        return answer

    def check(self) -> None:
        """Raises OutboxFull, Overloaded or Unavailable when no new use may be taken."""
        self._backlog.check()
        self._committed.check()

    def prepare(self, request: RedeemRequest) -> Prepared | None:
        """What to ask the gate for a request, when all that this takes is at hand; None when it is not, or one question
        will not do: then `redeem` says what becomes of it."""
        if len(request.codes) > 1 or request.discreet or not self._checkout.is_one_node:
            return None
        candidate = self._judge.known(request.codes[0])
        if candidate is None or _limits(candidate).partial_budget:
            return None
        attempt = self._attempt(request, candidate, self._judge.combine(request, [candidate]))
        return Prepared(request, candidate, attempt)

    async def redeem_each(self, prepared: Sequence[Prepared]) -> list[Answer | Exception | None]:
        """What `redeem` would answer to each, but that nobody has waited for the ledger; None where `redeem` has to be
        asked after all, since the gate did not decide, or has decided before."""
        answers = await self._checkout.redeem_each([one.attempt for one in prepared])
        found: list[Answer | Exception | None] = []
        for one, answer in zip(prepared, answers, strict=True):
            if isinstance(answer, Redemption):
                found.append(Answer(answer))
            elif isinstance(answer, Refusal):
                found.append(Answer(self._told(one.request, one.candidate, answer)))
            elif isinstance(answer, Exception):
                found.append(answer)
            else:
                self._must_judge_again([one.attempt], [answer])
                found.append(None)
        return found

    async def keep(self, answer: Answer) -> None:
        """Returns once an answer is as safe as was promised. Raises Unavailable when that takes too long."""
        await self._committed.wait(answer.outcome)

    @property
    def is_kept_at_once(self) -> bool:
        """Whether what the gate answers is as safe as was promised."""
        return not self._committed.is_asked_for

    async def _redeem_one(self, request: RedeemRequest) -> Redemption | Refusal:
        entries, unknown = await self._judge.resolve(request.codes)
        if unknown:
            if request.discreet:
                # As for a code that there is: what became of the request id must not tell.
                await self._checkout.claim_id(request.request_id, request.fingerprint)
            return unknown[0]
        patience = Patience()
        rounds = 0
        while rounds < MAX_ROUNDS:
            rounds += 1
            (candidate,) = await self._judge.candidates(entries)
            if _limits(candidate).partial_budget:
                # In one step the first refusal would be final; a part that is held can be asked for again, for less.
                return (await self._combined.redeem(request)).outcome
            combination = self._judge.combine(request, [candidate])
            attempt = self._attempt(request, candidate, combination)
            answer = await self._checkout.redeem(attempt)
            if isinstance(answer, Standing):
                return await self.get(answer.position)
            if isinstance(answer, Waiting):
                await patience.wait()
                rounds = 0
            if isinstance(answer, Stale | Moved | Waiting):
                self._must_judge_again([attempt], [answer])
                continue
            return self._told(request, candidate, answer) if isinstance(answer, Refusal) else answer
        raise Unavailable("the campaign keeps changing; try again")

    async def validate(
        self, request: RedeemRequest, *, explain: bool = False, trial: Trial | None = None
    ) -> Validation:
        """What redeeming would answer now, or in a trial at its time by the counters of now. Takes nothing; the request
        id is not looked at."""
        validation, _, _ = await self._judged(request, explain=explain, trial=trial)
        offer = validation.outcome
        if trial is not None:
            # Nothing that a redemption could come with: its time is none of the gate's.
            return validation
        if not isinstance(offer, Offer) or all(_limits(one.candidate).honour_quoted is None for one in offer.applied):
            return validation
        codes = [one.candidate.code.code for one in offer.applied]
        token = self._quotes.token(self._checkout.now_ms(), request.customer.id, request.order.id, codes)
        return msgspec.structs.replace(validation, outcome=msgspec.structs.replace(offer, quote_token=token))

    async def _plan(self, request: RedeemRequest) -> Plan | Answer:
        """What to redeem of several codes, or why not."""
        validation, combination, standing = await self._judged(request)
        if isinstance(validation.outcome, Refusal) and not standing:
            return Answer(validation.outcome, validation.inapplicable, validation.skipped)
        # What stands was redeemed for just this: the gate answers with that redemption.
        wanted = standing or [one.candidate for one in combination.applied]
        attempts = tuple(self._attempt(request, candidate, combination) for candidate in wanted)
        return Plan(attempts, validation.inapplicable, validation.skipped, combination.is_best)

    async def _judged(
        self, request: RedeemRequest, *, explain: bool = False, trial: Trial | None = None
    ) -> tuple[Validation, Combination, list[Candidate]]:
        """What the rules and the gate say now or in a trial, and how the codes go together; and those that do not apply
        any more, but that the order has redeemed with the same contents when they did."""
        entries, unknown = await self._judge.resolve(request.codes)
        refused = {refusal.code: refusal for refusal in unknown}
        rests: dict[str, Rest] = {}
        rounds, patience = 0, Patience()
        while rounds < MAX_ROUNDS:
            rounds += 1
            candidates = await self._judge.candidates(entries)
            traces: dict[str, list[TraceEntry]] | None = {} if explain else None
            asked = [candidate for candidate in candidates if candidate.code.code not in refused]
            at_ms = None if trial is None else trial.at_ms
            combination = self._judge.combine(request, asked, traces, rests, at_ms)
            left_out = {refusal.code for refusal in combination.inapplicable}
            tried = [one.candidate for one in combination.applied]
            tried += [candidate for candidate in asked if candidate.code.code in left_out]
            earlier: defaultdict[str, Counter[str]] = defaultdict(Counter)
            attempts = [
                self._attempt(request, candidate, combination, earlier[candidate.code.campaign_id])
                for candidate in tried
            ]
            answers = await asyncio.gather(
                *(self._answer(attempt, _others(attempt, combination), trial) for attempt in attempts)
            )
            if any(isinstance(answer, Waiting) for answer in answers):
                await patience.wait()
                rounds = 0
            if self._must_judge_again(attempts, answers):
                rests.clear()
                continue
            if less := _less(tried, answers, rests):
                # Less than was asked for, or than somebody left a moment ago: this ends when the budget does.
                rests |= less
                rounds = 0
                continue
            told = {
                answer.code: self._told(request, candidate, answer)
                for candidate, answer in zip(tried, answers, strict=True)
                if isinstance(answer, Refusal)
            }
            refused |= told
            if len(told) > len(combination.inapplicable):
                # What the gate refuses takes no part any more, and what it was in the way of gets its turn.
                rounds = 0
                continue
            standing = [
                candidate
                for candidate, answer in zip(tried, answers, strict=True)
                if candidate.code.code in left_out and not isinstance(answer, Refusal)
            ]
            return _validation(request, candidates, combination, refused, traces), combination, standing
        raise Unavailable("a campaign keeps changing; try again")

    async def _answer(self, attempt: Attempt, others: Sequence[str], trial: Trial | None) -> Answered:
        if trial is None:
            return await self._checkout.validate(attempt, others)
        return await trial.ask(self._checkout, attempt, others)

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
        redemption = None if event is None else Redemption.from_event(event)
        if redemption is not None:
            return redemption
        redemption = await self._ledger.get_redemption(position)
        if redemption is not None:
            return redemption
        raise unavailable or NotFound(f"there is no redemption {position}")

    def _must_judge_again(self, attempts: Sequence[Attempt], answers: Sequence[object]) -> bool:
        """Whether the gate decided nothing, because a definition has changed or the time is another."""
        stale = [
            attempt.claim.campaign_id
            for attempt, answer in zip(attempts, answers, strict=True)
            if isinstance(answer, Stale)
        ]
        self._judge.forget(stale)
        return bool(stale) or any(isinstance(answer, Moved | Waiting) for answer in answers)

    def _attempt(
        self,
        request: RedeemRequest,
        candidate: Candidate,
        combination: Combination,
        earlier: Counter[str] | None = None,
    ) -> Attempt:
        """What the rules say of one code, for the gate to add what it knows; only for asking when it counts behind the
        takes of `earlier` codes."""
        campaign, entry = candidate.evaluator.campaign, candidate.code
        code = entry.code
        discount = next((one.discount for one in combination.applied if one.candidate is candidate), NOTHING)
        from_ms, until_ms, is_quoted = combination.from_ms, combination.until_ms, False
        expire_ms = self._quote_expire_ms(request, _limits(candidate))
        if expire_ms is not None:
            # By the gate's clock, as everything that time decides.
            is_quoted = combination.now_ms < expire_ms
            if is_quoted:
                until_ms = min(until_ms, expire_ms)
            else:
                from_ms = max(from_ms, expire_ms)
        takes = candidate.evaluator.taker.takes(
            request.customer, request.order, entry, discount.applied_minor, combination.now_ms, is_quoted=is_quoted
        )
        if earlier is not None:
            takes = behind(takes, earlier)
        claim = Claim(
            request_id=request.request_id,
            fingerprint=request.fingerprint,
            campaign_id=campaign.id,
            campaign_version=campaign.version,
            code=code,
            customer_id=request.customer.id,
            order_id=request.order.id,
            currency_code=request.order.currency_code,
            order_amount_minor=request.order.amount_minor,
            discount=discount,
            takes={take.field: take.amount for take in takes},
        )
        objection = next((refusal for refusal in combination.inapplicable if refusal.code == code), None)
        return Attempt(claim, takes, objection, from_ms, until_ms)

    def _quote_expire_ms(self, request: RedeemRequest, limits: Limits) -> int | None:
        """Until when the quote that came along is honoured by a campaign, None without one that is."""
        if limits.honour_quoted is None:
            return None
        issue_time_ms = self._quote_issue_time_ms(request)
        return None if issue_time_ms is None else issue_time_ms + limits.honour_quoted.within_ms

    def _quote_issue_time_ms(self, request: RedeemRequest) -> int | None:
        token = request.quote_token
        return (
            self._quotes.issue_time_ms(token, request.customer.id, request.order.id, request.codes) if token else None
        )

    def _told(self, request: RedeemRequest, candidate: Candidate, refusal: Refusal) -> Refusal:
        """A refusal of the gate, with what became of the quote that came along."""
        if not request.quote_token:
            return refusal
        return with_quote(refusal, _limits(candidate), self._quote_issue_time_ms(request))


def _others(attempt: Attempt, combination: Combination) -> list[str]:
    """The other codes of its campaign that are to be taken together with a code."""
    claim, entries = attempt.claim, [one.candidate.code for one in combination.applied]
    return [one.code for one in entries if one.campaign_id == claim.campaign_id and one.code != claim.code]


def _limits(candidate: Candidate) -> Limits:
    return candidate.evaluator.campaign.definition.limits


def _less(tried: Sequence[Candidate], answers: Sequence[object], rests: Rests) -> dict[str, Rest]:
    """By campaign, the rests of budgets that can be given instead of refusals, as far as they are news."""
    found = {}
    for candidate, answer in zip(tried, answers, strict=True):
        rest = rest_of(_limits(candidate), answer) if isinstance(answer, Refusal) else None
        known = rests.get(candidate.code.campaign_id)
        if rest is not None and (known is None or rest.minor < known.minor):
            found[candidate.code.campaign_id] = rest
    return found


def _validation(
    request: RedeemRequest,
    candidates: Sequence[Candidate],
    combination: Combination,
    refused: Mapping[str, Refusal],
    traces: Mapping[str, Sequence[TraceEntry]] | None,
) -> Validation:
    inapplicable = tuple(refused[code] for code in request.codes if code in refused)
    reasons = (*inapplicable, *combination.skipped)
    outcome: Offer | Refusal
    if reasons and (request.combining.coverage is Coverage.ALL_OR_NOTHING or not combination.applied):
        outcome = min(reasons, key=lambda refusal: refusal.reason)
    else:
        order = request.order
        outcome = Offer(combination.applied, order.currency_code, order.amount_minor, combination.is_best)
    by_code = {candidate.code.code: candidate for candidate in candidates}
    told = (
        () if traces is None else tuple(Trace(code, by_code.get(code), traces.get(code, ())) for code in request.codes)
    )
    return Validation(outcome, inapplicable, combination.skipped, told)
