"""Slows down who guesses codes, and says no more than it must to callers who are not trusted."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Container, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import structlog
from msgspec.structs import replace

from vouchsafe import telemetry
from vouchsafe.domain.access import Principal
from vouchsafe.domain.errors import Throttled
from vouchsafe.domain.guessing import Bucket, Kind, Rate, source_name
from vouchsafe.domain.reasons import GUESSED, HIDDEN, Reason, Refusal
from vouchsafe.domain.secret import Purpose, derived_key
from vouchsafe.gate.checkout import Checkout
from vouchsafe.gate.guesses import Taking
from vouchsafe.service.combined import Answer
from vouchsafe.service.judge import RedeemRequest
from vouchsafe.service.offers import Offer, Validation
from vouchsafe.service.reserve import ReserveAnswer
from vouchsafe.service.turnstile import Turnstile
from vouchsafe.settings import Settings

log = structlog.get_logger()

# Finding that there is no such code takes less time than finding that it is another's: a caller who is not trusted
# hears of neither any sooner than this.
EVEN_S = 0.05
# How often a worker says in its log that somebody guesses.
WARNING_INTERVAL_S = 60.0

AnyAnswer = TypeVar("AnyAnswer", Answer, ReserveAnswer, Validation)


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, and where the shopper is, as far as it is known: an address, or whatever the caller tells shoppers'
    devices apart by."""

    principal: Principal
    source: str


class Entry(NamedTuple):
    """A request that is let through: the buckets that its failed codes are counted in, those of them that have to have
    a token for each code before it is looked up, and how many codes there are."""

    buckets: Sequence[Bucket]
    closing: Sequence[Bucket]
    codes: int


class Guessing:
    """`validate` says what is wrong with a code on its own."""

    def __init__(
        self, checkout: Checkout, validate: Callable[[RedeemRequest], Awaitable[Validation]], settings: Settings
    ) -> None:
        self._guesses = checkout.guesses
        self._validate = validate
        self._key = derived_key(settings.secret, Purpose.BUCKETS)
        self._rates = {
            Kind.CUSTOMER: Rate(settings.guess_customer_burst, settings.guess_customer_interval_ms),
            Kind.SOURCE: Rate(settings.guess_source_burst, settings.guess_source_interval_ms),
            Kind.PRINCIPAL: Rate(settings.guess_principal_burst, settings.guess_principal_interval_ms),
        }
        self._turnstile = Turnstile(self._rates, checkout.now_ms, settings.max_waiting)
        self._warn_at = 0.0

    async def ask(self, asker: Asker, request: RedeemRequest, answer: Callable[[], Awaitable[AnyAnswer]]) -> AnyAnswer:
        """What `answer` answers, with failed codes counted. Raises Throttled: before the look-up while a bucket is
        empty, but for the principal's of a caller who is trusted; behind it when a failed code finds one empty."""
        started = time.monotonic()
        entry = _entry(asker, request)
        try:
            await self._turnstile.enter(entry.closing, entry.codes)
        except Throttled as throttled:
            telemetry.THROTTLED.labels(throttled.by).inc()
            raise
        try:
            found = await answer()
            if request.discreet:
                found = await self._discreet(request, found)
            failed: set[str] = _failed(found, (Reason.CODE_NOT_USABLE,) if request.discreet else GUESSED)
            throttled_by = await self._count(entry.buckets, len(failed))
        finally:
            self.let_out(entry)
        if failed and request.discreet:
            await asyncio.sleep(started + EVEN_S - time.monotonic())
        # What was taken has to be told, though; it has cost its tokens.
        if throttled_by is not None and isinstance(found.outcome, Refusal | Offer):
            telemetry.THROTTLED.labels(throttled_by.by).inc()
            raise throttled_by
        return found

    def let_in(self, asker: Asker, request: RedeemRequest) -> Entry | None:
        """Lets a request to the look-up that has not to wait for it, by a caller who is trusted; `let_out` has to
        follow, and if `has_guessed`, it has to be asked for. None for others."""
        if request.discreet:
            return None
        entry = _entry(asker, request)
        return entry if self._turnstile.let_in(entry.closing, entry.codes) else None

    def let_out(self, entry: Entry) -> None:
        """What came of its codes is known, and noted."""
        self._turnstile.leave(entry.closing, entry.codes)

    async def _count(self, buckets: Sequence[Bucket], failed: int) -> Throttled | None:
        """Takes a token for each failed code from every bucket; answers what to raise when one had not as many."""
        if not failed:
            return None
        telemetry.FAILED_CODES.inc(failed)
        takings = [Taking(self._hash(bucket), self._rates[bucket.kind], failed) for bucket in buckets]
        answers = await asyncio.gather(*map(self._guesses.take, takings))
        found = []
        for bucket, taken in zip(buckets, answers, strict=True):
            self._turnstile.note(bucket, taken.full_ms)
            if taken.count < failed:
                found.append(self._turnstile.throttled(bucket, failed))
                if bucket.kind is Kind.PRINCIPAL:
                    self._warn(bucket.name)
        return max(found, key=lambda throttled: throttled.retry_ms, default=None)

    async def _discreet(self, request: RedeemRequest, answer: AnyAnswer) -> AnyAnswer:
        """The answer without what only somebody trusted is told, in the same form whatever that is."""
        seen: list[Refusal] = [await self._alone(request, refusal) for refusal in answer.skipped]
        inapplicable: list[Refusal] = [_hidden(one) for one in (*answer.inapplicable, *seen) if one.reason in HIDDEN]
        inapplicable += [one for one in answer.inapplicable if one.reason not in HIDDEN]
        inapplicable.sort(key=lambda refusal: request.codes.index(refusal.code))
        outcome = answer.outcome
        if isinstance(outcome, Refusal):
            outcome = min((*inapplicable, _hidden(outcome)), key=lambda refusal: refusal.reason)
        skipped = tuple(one for one in seen if one.reason not in HIDDEN)
        return replace(answer, outcome=outcome, inapplicable=tuple(inapplicable), skipped=skipped)

    async def _alone(self, request: RedeemRequest, skipped: Refusal) -> Refusal:
        """What is wrong with a code that others keep out, if nobody may know it: that it does not combine may only be
        told of a code that the shopper could use."""
        alone = (await self._validate(replace(request, codes=(skipped.code,)))).outcome
        return alone if isinstance(alone, Refusal) and alone.reason in HIDDEN else skipped

    def _hash(self, bucket: Bucket) -> str:
        """What the store is told of a bucket: nobody reads a customer out of it who has not the secret."""
        return hashlib.blake2b(f"{bucket.kind} {bucket.name}".encode(), key=self._key, digest_size=16).hexdigest()

    def _warn(self, principal: str) -> None:
        now = time.monotonic()
        if now >= self._warn_at:
            self._warn_at = now + WARNING_INTERVAL_S
            log.warning("somebody guesses codes", principal=principal)


def _entry(asker: Asker, request: RedeemRequest) -> Entry:
    """Buckets of fewer come first: who waits for one of them is in nobody else's way."""
    name, source = asker.principal.name, asker.source
    closing = [Bucket(Kind.CUSTOMER, f"{name} {request.customer.id}")]
    if source:
        closing.append(Bucket(Kind.SOURCE, f"{name} {source_name(source)}"))
    buckets = [*closing, Bucket(Kind.PRINCIPAL, name)]
    # Whoever guesses through a shop must not close it to all its customers.
    return Entry(buckets, buckets if request.discreet else closing, len(request.codes))


def has_guessed(answer: Answer) -> bool:
    """Whether a code of a caller who is trusted has failed."""
    return isinstance(answer.outcome, Refusal) and bool(_failed(answer, GUESSED))


def told_to(principal: Principal, answer: Answer) -> Answer:
    """An answer about a reservation, which is no guess, without what only somebody trusted is told."""
    if principal.is_trusted or not isinstance(answer.outcome, Refusal):
        return answer
    return Answer(_hidden(answer.outcome))


def _hidden(refusal: Refusal) -> Refusal:
    return Refusal(Reason.CODE_NOT_USABLE, refusal.code) if refusal.reason in HIDDEN else refusal


def _failed(answer: Answer | ReserveAnswer | Validation, reasons: Container[Reason]) -> set[str]:
    """The codes of an answer that are refused for one of the reasons."""
    refusals = (*answer.inapplicable, *answer.skipped)
    if isinstance(answer.outcome, Refusal):
        refusals = (*refusals, answer.outcome)
    return {refusal.code for refusal in refusals if refusal.reason in reasons}
