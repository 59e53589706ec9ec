"""Reservations: what a redemption would take is held while the order is paid for, then redeemed, given back, or, when
its time is over by the gate's clock, gone.

All parts are held before the reservation is noted and answered; what is held and not noted ends by its time. To confirm
is a transaction whose parts are held already: decided once, whoever asks how often.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog

from vouchsafe.domain.errors import NotFound, VouchsafeError
from vouchsafe.domain.evaluator import timestamp_text
from vouchsafe.domain.reasons import Reason, Refusal
from vouchsafe.domain.redemption import Position, Redemption
from vouchsafe.domain.reservation import Reservation
from vouchsafe.gate.attempts import Gone, Held, Reserved, Standing, Waiting, decode_place
from vouchsafe.gate.checkout import Checkout
from vouchsafe.gate.holds import Note, Noted, Pin, Reserve
from vouchsafe.gate.transactions import Part, home_of, new_reservation_id
from vouchsafe.service.backlog import Backlog
from vouchsafe.service.combined import Answer, Plan, answer_of, by_campaign, claim_of, remember
from vouchsafe.service.committed import Committed
from vouchsafe.service.judge import RedeemRequest
from vouchsafe.service.transactions import Patience, Problem, Step, Transactions

log = structlog.get_logger()

# So often a reservation that is held and not noted is waited for, a third of a second in all.
WAITS_FOR_NOTE = 6


class ReserveAnswer(msgspec.Struct, frozen=True):
    """What a request to reserve is answered, with the codes that were left out and why."""

    outcome: Reservation | Refusal
    inapplicable: tuple[Refusal, ...] = ()
    skipped: tuple[Refusal, ...] = ()


class Reservations:
    """`plan` says what the rules and the gate make of a request now, or why not; `get` reads a redemption; `backlog`
    says whether anything new may be held. Every method raises Unavailable and Overloaded as the gate does."""

    def __init__(
        self,
        checkout: Checkout,
        transactions: Transactions,
        backlog: Backlog,
        committed: Committed,
        plan: Callable[[RedeemRequest], Awaitable[Plan | Answer]],
        get: Callable[[Position], Awaitable[Redemption]],
    ) -> None:
        self._checkout = checkout
        self._transactions = transactions
        self._backlog = backlog
        self._committed = committed
        self._plan = plan
        self._get = get
        self._running: set[asyncio.Task[Noted | Part | Problem]] = set()

    async def reserve(self, request: RedeemRequest, ttl_ms: int) -> ReserveAnswer:
        """Holds every use for `ttl_ms`, or none and says why. Raises RequestIdReused.

        One order has one reservation of a code: with the same contents it is answered again, its time unchanged; with
        others it gives way, if the new one can be held.
        """
        self._backlog.check()
        self._committed.check()
        found = await self._reserve(request, ttl_ms)
        if isinstance(found, ReserveAnswer):
            return found
        # All that it holds is as safe as the note of it. One whose time is over promises nothing any more: what it held
        # may have been lost with the node that it was held on, and will never be confirmed.
        if self._checkout.now_ms() < found.reservation.expire_ms:
            await self._committed.wait_for([found.position, *map(Position.parse, found.reservation.held_at)])
        return _answer(found.reservation)

    async def _reserve(self, request: RedeemRequest, ttl_ms: int) -> Noted | ReserveAnswer:
        fingerprint = _fingerprint(request, ttl_ms)
        told = await self._checkout.claim_id(request.request_id, fingerprint)
        patience = Patience()
        while not isinstance(told, Refusal | Reserved):
            plan = await self._plan(request)
            if isinstance(plan, Answer):
                assert isinstance(plan.outcome, Refusal)
                standing = await remember(
                    self._checkout, request.request_id, fingerprint, plan.outcome, discreet=request.discreet
                )
                if standing is None or standing == plan.outcome:
                    return ReserveAnswer(plan.outcome, plan.inapplicable, plan.skipped)
                assert isinstance(standing, Refusal | Reserved)
                told = standing
                break
            found = await self._unbroken(self._hold(request, plan, ttl_ms, fingerprint))
            if isinstance(found, Noted):
                return found
            told = await self._told(request, fingerprint, found, patience)
        if isinstance(told, Refusal):
            return ReserveAnswer(told)
        return await self._noted(told.reservation_id)

    async def _told(
        self, request: RedeemRequest, fingerprint: str, found: Part | Problem, patience: Patience
    ) -> Refusal | Reserved | None:
        """What a request is answered that could not hold everything; None after a while, to try again."""
        match found:
            case Reserved() | Refusal(reason=Reason.ORDER_ALREADY_REDEEMED):
                told = found
            case Part() if patience.waits >= WAITS_FOR_NOTE:
                await self._checkout.holds.release(found, is_end=False)
                return None
            case Refusal(reason=Reason.BUDGET_EXHAUSTED | Reason.CUSTOMER_BUDGET_EXHAUSTED):
                return None  # as for redeeming several codes: at once again, for what is left
            case _:
                # Somebody was faster, or is about to note what is held, or the campaign or the time is another.
                await patience.wait()
                return None
        await self._checkout.holds.remember(request.request_id, fingerprint, told)
        return told

    async def confirm(self, id_: str) -> Answer:
        """Redeems what is held, once: the same answer however often this is asked. Raises NotFound."""
        self._committed.check()
        answer = await self._confirm(id_)
        await self._committed.wait(answer.outcome)
        return answer

    async def _confirm(self, id_: str) -> Answer:
        patience = Patience()
        while True:
            noted = await self._noted(id_)
            if noted.end is not None:
                return await self._ended(noted)
            match await self._carry_out(noted.reservation):
                case Redemption() as found:
                    return answer_of(found)
                case Gone(now_ms):
                    noted = await self._noted(id_)
                    if noted.end is not None:
                        return await self._ended(noted)
                    return Answer(_gone(noted.reservation, now_ms))
                case Refusal(reason=Reason.ORDER_ALREADY_REDEEMED) as found:
                    noted = await self._noted(id_)
                    return Answer(found) if noted.end is None else await self._ended(noted)
                case Refusal() as found:
                    return Answer(found)
                case _:
                    await patience.wait()

    async def release(self, id_: str) -> ReserveAnswer:
        """Gives back what is held; again changes nothing. Raises NotFound."""
        noted = await self._noted(id_)
        reservation, end = noted.reservation, noted.end
        if end is None:
            end = await self._checkout.holds.end_released(reservation)
        if isinstance(end, Standing):
            return ReserveAnswer(_refusal(Reason.RESERVATION_CONFIRMED, reservation, redemption_id=str(end.position)))
        await self._give_back(_parts(reservation), is_end=True)
        return ReserveAnswer(reservation)

    # -- steps -------------------------------------------------------------------------------------------------------

    async def _unbroken(self, work: Awaitable[Noted | Part | Problem]) -> Noted | Part | Problem:
        """Finishes what is begun even if the caller goes away: nobody would know what was held."""
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _hold(self, request: RedeemRequest, plan: Plan, ttl_ms: int, fingerprint: str) -> Noted | Part | Problem:
        id_ = new_reservation_id(self._checkout.home(request.request_id), uuid.uuid4().hex)
        held: dict[str, Held] = {}
        parts: list[Part] = []
        for campaign_id, attempts in by_campaign(plan):
            wanted = [Part(campaign_id, attempt.order_and_code, id_) for attempt in attempts]
            reserve = Reserve([attempt.reserved_by(id_) for attempt in attempts], id_, ttl_ms)
            try:
                answers = await self._checkout.holds.reserve(reserve)
            except VouchsafeError:
                await self._try_to_give_back([*parts, *wanted])
                raise
            for part, answer in zip(wanted, answers, strict=False):
                if not isinstance(answer, Held):
                    await self._try_to_give_back(parts)
                    return await self._explained(part, answer)
                held[part.order_and_code] = answer
            parts += wanted
        expire_ms = min(one.expire_ms for one in held.values())
        places = tuple(
            str(decode_place(self._checkout.home(attempt.claim.campaign_id), place))
            for attempt in plan.attempts
            if (place := held[attempt.order_and_code].place)
        )
        reservation = Reservation(id_, expire_ms, claim_of(request, plan, held, id_), places)
        noted = await self._checkout.holds.note(Note(reservation, fingerprint, ttl_ms))
        await self._end_replaced({one.replaced for one in held.values()} - {""})
        return noted

    async def _end_replaced(self, ids: set[str]) -> None:
        """What else the reservations hold of which a part has given way."""
        for id_ in ids:
            noted = await self._checkout.holds.noted(id_)
            if noted is not None:
                await self._try_to_give_back(_parts(noted.reservation))

    async def _explained(self, part: Part, answer: Problem) -> Problem | Part:
        """Why a part is not held. A reservation that the order has of it is the part itself, when it is not noted (yet,
        or any more)."""
        match answer:
            case Standing(position):
                code = part.order_and_code.split(" ")[1]
                return Refusal(Reason.ORDER_ALREADY_REDEEMED, code, {"redemption_id": str(position)})
            case Reserved(reservation_id):
                noted = await self._checkout.holds.noted(reservation_id)
                if noted is None or noted.end is not None:
                    return Part(part.campaign_id, part.order_and_code, reservation_id)
        return answer

    async def _carry_out(self, reservation: Reservation) -> Redemption | Problem:
        def step(part: Part) -> Step:
            async def pin(transaction_id: str, deadline_ms: int) -> Sequence[Held | Problem]:
                return [await self._checkout.holds.pin(Pin(part, transaction_id, deadline_ms))]

            return Step(part.campaign_id, [part.order_and_code], pin)

        return await self._transactions.carry_out(
            home_of(reservation.id),
            [step(part) for part in sorted(_parts(reservation), key=lambda part: part.campaign_id)],
            lambda _held: reservation.claim,
        )

    async def _noted(self, id_: str) -> Noted:
        noted = await self._checkout.holds.noted(id_)
        if noted is None:
            raise NotFound(f"there is no reservation {id_}; one is kept for a day after its end")
        return noted

    async def _ended(self, noted: Noted) -> Answer:
        """What a reservation has become."""
        if isinstance(noted.end, Standing):
            return answer_of(await self._get(noted.end.position))
        return Answer(_refusal(Reason.RESERVATION_RELEASED, noted.reservation))

    async def _give_back(self, parts: Sequence[Part], *, is_end: bool = False) -> None:
        patience = Patience()
        for part in parts:
            # One that is being confirmed is waited for: that comes to nothing now.
            while isinstance(await self._checkout.holds.release(part, is_end=is_end), Waiting):
                await patience.wait()

    async def _try_to_give_back(self, parts: Sequence[Part]) -> None:
        """Gives back what it can; the rest ends by its time."""
        try:
            await self._give_back(parts)
        except VouchsafeError as error:
            log.warning("a reservation that is not wanted ends by its time", error=str(error))


def _parts(reservation: Reservation) -> list[Part]:
    order_id = reservation.claim.order_id
    return [Part(one.campaign_id, f"{order_id} {one.code}", reservation.id) for one in reservation.applied]


def _answer(reservation: Reservation) -> ReserveAnswer:
    return ReserveAnswer(reservation, reservation.claim.inapplicable, reservation.claim.skipped)


def _gone(reservation: Reservation, now_ms: int) -> Refusal:
    """Why the order does not have the reservation any more, though nobody has given it back."""
    if now_ms >= reservation.expire_ms:
        return _refusal(Reason.RESERVATION_EXPIRED, reservation, expire_time=timestamp_text(reservation.expire_ms))
    return _refusal(Reason.RESERVATION_REPLACED, reservation)


def _refusal(reason: Reason, reservation: Reservation, **metadata: str) -> Refusal:
    code = reservation.applied[0].code if len(reservation.applied) == 1 else ""
    return Refusal(reason, code, {"reservation_id": reservation.id, **metadata})


def _fingerprint(request: RedeemRequest, ttl_ms: int) -> str:
    """That of the request to reserve: another than that of one to redeem the same."""
    return hashlib.blake2b(f"reserve {ttl_ms} {request.fingerprint}".encode(), digest_size=16).hexdigest()
