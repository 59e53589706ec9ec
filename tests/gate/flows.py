"""What takes callers of the gate several calls: transactions, reservations and rollbacks. Each call can be the last:
whoever makes them may die, or be late."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

import msgspec

from tests.gate.model import UNDONE, Back
from tests.gate.model_uses import Answer, Ask, Spot
from tests.gate.stage import lying_in
from tests.gate.twins import Cart, Judged, Twins, Wish, combined, fingerprint_of
from vouchsafe.domain.reasons import Refusal
from vouchsafe.domain.redemption import Claim, Redemption
from vouchsafe.domain.reservation import Reservation
from vouchsafe.domain.rollback import Kept, ReturnedCode, ReturnedLine, RollbackClaim
from vouchsafe.domain.unwind import unwind, whole
from vouchsafe.gate.attempts import Attempt, Reserved
from vouchsafe.gate.holds import Decision, Hold, Note, Noted, Pin, Reserve
from vouchsafe.gate.returns import RollingBack
from vouchsafe.gate.transactions import Part, home_of, new_reservation_id, transaction_id


@dataclass(eq=False)
class Transaction:
    """All parts were held for it; `number` is what it was decided to be, None before that."""

    decision: Decision
    spots: Sequence[Spot]
    number: int | None = None


@dataclass(eq=False)
class Booking:
    """A reservation all parts of which were held; it is noted, or whoever made it died before."""

    reservation: Reservation
    spots: Sequence[Spot]
    is_noted: bool


@dataclass
class Flows:
    """What callers have begun."""

    twins: Twins
    transactions: list[Transaction] = field(default_factory=list)
    bookings: list[Booking] = field(default_factory=list)
    rollbacks: dict[int, list[tuple[ReturnedCode, Back]]] = field(default_factory=dict)
    _count: int = 0

    def _unique(self) -> str:
        self._count += 1
        return f"{self._count:03}"

    async def _claim(self, request: str, fingerprint: str) -> bool:
        """Whether the request is to be carried out: its id is its own, and it was told nothing yet."""
        told = await self.twins.asked(self.twins.checkout.claim_id(request, fingerprint))
        assert told == self.twins.model.claim(request, fingerprint)
        return told is None

    def _asks(
        self, codes: Sequence[str], cart: Cart, judged: Judged, request: str, kind: str
    ) -> list[list[tuple[Attempt, Ask]]]:
        """By campaign, in the order in which everybody holds them, with the fingerprint of the whole."""
        campaigns: dict[str, list[tuple[Attempt, Ask]]] = {}
        for code in codes:
            asked = self.twins.ask(Wish(code, cart, judged), request, f"{kind} {sorted(codes)}")
            campaigns.setdefault(asked[1].spot[0], []).append(asked)
        return [campaigns[campaign_id] for campaign_id in sorted(campaigns)]

    # -- several codes -----------------------------------------------------------------------------------------------

    async def begin(
        self, codes: Sequence[str], cart: Cart, judged: Judged, request: str, ttl_ms: int, dies_after: int
    ) -> Transaction | None:
        """Holds every code, or gives back those that it has; None then, and when somebody dies after so many
        campaigns."""
        twins, holds = self.twins, self.twins.checkout.holds
        asks = self._asks(codes, cart, judged, request, "combined")
        fingerprint = fingerprint_of("combined", sorted(codes), cart)
        if not await self._claim(request, fingerprint):
            return None
        id_ = transaction_id(twins.checkout.home(request), self._unique())
        deadline_ms = twins.model.now_ms + ttl_ms
        spots: list[Spot] = []
        taken_ms: list[int] = []
        for together in asks[:dies_after]:
            hold = Hold([attempt for attempt, _ in together], id_, deadline_ms)
            answers = twins.model.hold([ask for _, ask in together], id_, deadline_ms)
            assert await twins.asked_of_each(holds.hold(hold)) == answers
            if answers[-1][0] != "held":
                await twins.settle(spots, id_, UNDONE)
                await self._remember(request, fingerprint, answers[-1])
                return None
            spots += [ask.spot for _, ask in together]
            taken_ms += [answer[1] for answer in answers]
            # Again changes nothing.
            answers = twins.model.hold([ask for _, ask in together], id_, deadline_ms)
            assert await twins.asked_of_each(holds.hold(hold)) == answers
        if len(asks) > dies_after:
            return None
        claim = combined(list(chain.from_iterable(asks)), taken_ms, fingerprint)
        return self._held(Transaction(Decision(claim, id_, deadline_ms, {}), spots))

    def _held(self, transaction: Transaction) -> Transaction:
        self.transactions.append(transaction)
        return transaction

    async def _remember(self, request: str, fingerprint: str, answer: Answer) -> None:
        """A refusal, and that the order has a reservation already, are what the request is told from now on."""
        outcome: Refusal | Reserved
        if answer[0] == "reserved":
            outcome = Reserved(str(answer[1]))
        elif answer[0] == "refused" and len(answer) == 2:
            outcome = Refusal(answer[1], "CODE")
        else:
            return
        await self.twins.checkout.holds.remember(request, fingerprint, outcome)
        self.twins.model.remember(request, fingerprint, answer)

    async def decide(self, transaction: Transaction) -> None:
        one = transaction.decision
        answer = await self.twins.asked(self.twins.checkout.holds.decide(one))
        assert answer == self.twins.model.decide(
            one.transaction_id, one.claim.reservation_id or one.claim.request_id, one.claim.fingerprint, one.deadline_ms
        )
        transaction.number = answer[1] if answer[0] == "decided" else UNDONE

    async def settle(self, transaction: Transaction, spots: Sequence[Spot]) -> None:
        """Some parts, or all; of what was not decided all come back, and it never will be."""
        id_ = transaction.decision.transaction_id
        if transaction.number is None:
            transaction.number = UNDONE
        await self.twins.settle(spots, id_, transaction.number)
        if transaction.number != UNDONE and len(spots) == len(transaction.spots):
            await self.twins.checkout.holds.forget(id_)

    # -- reservations ------------------------------------------------------------------------------------------------

    async def reserve(
        self, codes: Sequence[str], cart: Cart, judged: Judged, request: str, ttl_ms: int, *, dies: bool
    ) -> None:
        """Holds every code, or gives back those that it has; whoever does may die before it is noted."""
        twins, holds = self.twins, self.twins.checkout.holds
        asks = self._asks(codes, cart, judged, request, "reserve")
        request_fingerprint = fingerprint_of("to reserve", ttl_ms, sorted(codes), cart)
        if not await self._claim(request, request_fingerprint):
            return
        id_ = new_reservation_id(twins.checkout.home(request), self._unique())
        spots: list[Spot] = []
        held: list[tuple[int, int, str]] = []
        for together in asks:
            reserve = Reserve([attempt.reserved_by(id_) for attempt, _ in together], id_, ttl_ms)
            answers = twins.model.reserve([ask for _, ask in together], id_, ttl_ms)
            assert await twins.asked_of_each(holds.reserve(reserve)) == answers
            if answers[-1][0] != "held":
                await self._release(spots, id_)
                await self._remember(request, request_fingerprint, answers[-1])
                return
            spots += [ask.spot for _, ask in together]
            held += [answer[1:] for answer in answers]
            # Again changes nothing.
            answers = twins.model.reserve([ask for _, ask in together], id_, ttl_ms)
            assert await twins.asked_of_each(holds.reserve(reserve)) == answers
        taken_ms = [taken_ms for taken_ms, _, _ in held]
        fingerprint = fingerprint_of("reserve", sorted(codes), cart)
        claim = combined(list(chain.from_iterable(asks)), taken_ms, fingerprint)
        claim = msgspec.structs.replace(claim, reservation_id=id_)
        booking = Booking(Reservation(id_, min(expire_ms for _, expire_ms, _ in held), claim), spots, is_noted=not dies)
        self.bookings.append(booking)
        if dies:
            return
        await holds.note(Note(booking.reservation, request_fingerprint, ttl_ms))
        twins.model.note(request, request_fingerprint, id_)
        # What else the reservations hold of which a part has given way.
        for other in self.bookings:
            if other.reservation.id in {replaced for _, _, replaced in held} and other.is_noted:
                await self._release(other.spots, other.reservation.id)

    async def _release(self, spots: Sequence[Spot], reservation: str) -> None:
        for spot in spots:
            answer = await self.twins.asked(self.twins.checkout.holds.release(Part(*spot, reservation), is_end=False))
            assert answer == self.twins.model.release(spot, reservation)

    async def _end_of(self, booking: Booking) -> Answer | None:
        """How a reservation has ended, None when it has not, or is not noted."""
        noted = await self.twins.checkout.holds.noted(booking.reservation.id)
        if not booking.is_noted:
            assert noted is None
            return None
        assert isinstance(noted, Noted)
        assert noted.reservation == booking.reservation
        _, expected = self.twins.model.requests.get(booking.reservation.id, ("", None))
        assert (await self.twins.asked(_ready(noted.end))) == expected
        return expected

    async def confirm(self, booking: Booking, ttl_ms: int) -> Transaction | None:
        """Makes all parts those of a transaction; None when that cannot be."""
        if await self._end_of(booking) or not booking.is_noted:
            return None
        twins, reservation = self.twins, booking.reservation
        id_ = transaction_id(home_of(reservation.id), self._unique())
        deadline_ms = twins.model.now_ms + ttl_ms
        pinned: list[Spot] = []
        for spot in booking.spots:
            pin = Pin(Part(*spot, reservation.id), id_, deadline_ms)
            answer = await twins.asked(twins.checkout.holds.pin(pin))
            assert answer == twins.model.pin(spot, reservation.id, id_, deadline_ms)
            if answer[0] != "held":
                await twins.settle(pinned, id_, UNDONE)
                return None
            pinned.append(spot)
            # Again changes nothing.
            assert await twins.asked(twins.checkout.holds.pin(pin)) == twins.model.pin(
                spot, reservation.id, id_, deadline_ms
            )
        return self._held(Transaction(Decision(reservation.claim, id_, deadline_ms, {}), pinned))

    async def release(self, booking: Booking) -> None:
        end = await self._end_of(booking)
        if booking.is_noted:
            reservation = booking.reservation
            end = await self.twins.asked(self.twins.checkout.holds.end_released(reservation))
            fingerprint = reservation.claim.fingerprint
            assert end == self.twins.model.remember(reservation.id, fingerprint, ("released",))
        if end is None or end == ("released",):
            await self._release(booking.spots, booking.reservation.id)

    # -- rollbacks ---------------------------------------------------------------------------------------------------

    async def roll_back(self, number: int, minor: int | None, request: str, *, is_stale: bool) -> int | None:
        """Takes so much of a redemption back, None for everything; answers which rollback it is."""
        twins, returns = self.twins, self.twins.checkout.returns
        redemption = twins.redemptions[number]
        fingerprint = fingerprint_of("rollback", number, minor)
        told = await twins.asked(twins.checkout.claim_id(request, fingerprint))
        expected = twins.model.claim(request, fingerprint)
        # What it was told is remembered where the redemption lies.
        assert told == expected or (told is None and expected is not None and expected[0] == "decided")
        if told is not None:
            return None
        seen = await returns.rolled(redemption.position)
        assert seen == twins.model.rolled.get(number, b"")
        before = Kept.from_json(seen) if seen else whole(redemption)
        lines = () if minor is None else (ReturnedLine(line=0, discount_minor=minor),)
        after = unwind(redemption, before, lines, None, ())
        if isinstance(after, Refusal):
            told = await twins.asked(twins.checkout.claim_id(request, fingerprint, redemption.position.partition))
            assert told == expected
            return None
        codes, backs = self._returned(redemption, before, after)
        rolling = RollingBack(
            RollbackClaim(
                request_id=request,
                fingerprint=fingerprint,
                redemption_id=redemption.id,
                order_id=redemption.claim.order_id,
                currency_code="EUR",
                reason="",
                codes=tuple(codes),
                left_minor=sum(left.total_minor for left in after.codes),
            ),
            redemption.position,
            b"{}" if is_stale else seen,
            after.to_json(),
        )
        answer = await twins.asked(returns.roll_back(rolling))
        assert answer == twins.model.roll_back(request, fingerprint, number, rolling.seen, rolling.kept, backs)
        if answer[0] != "decided":
            return None
        rollback: int = answer[1]
        id_ = str(twins.positions[rollback])
        named = [msgspec.structs.replace(code, rollback_id=id_) for code in codes]
        # Asked again it is the first decision that stands, whatever could be taken back now.
        self.rollbacks.setdefault(rollback, list(zip(named, backs, strict=True)))
        return rollback

    def _returned(self, redemption: Redemption, before: Kept, after: Kept) -> tuple[list[ReturnedCode], list[Back]]:
        codes, backs = [], []
        claim = redemption.claim
        for applied, was, left in zip(redemption.applied, before.codes, after.codes, strict=True):
            if was == left:
                continue
            policy = self.twins.model.campaigns[applied.campaign_id].definition.rollback
            minor = was.total_minor - left.total_minor
            place = redemption.id.partition("-")[2] if isinstance(claim, Claim) else redemption.id
            comes_back = left.is_ended and not policy.keeps_use
            codes.append(
                ReturnedCode(
                    campaign_id=applied.campaign_id,
                    code=applied.code,
                    order_id=claim.order_id,
                    customer_id=claim.customer_id,
                    redemption_id=redemption.id,
                    discount_minor=minor,
                    left_minor=left.total_minor,
                    takes=policy.given_back(applied.takes, minor, is_ended=left.is_ended),
                    taken_ms=applied.taken_ms,
                    uses=int(comes_back),
                    place=place,
                    is_ended=left.is_ended,
                )
            )
            spot = (applied.campaign_id, f"{claim.order_id} {applied.code}")
            backs.append(Back(spot, minor, left.is_ended, policy))
        return codes, backs

    async def give_back(self, number: int, *, only_first: bool = False) -> None:
        """What every code of a rollback has counted, or only the first: somebody dies then."""
        twins = self.twins
        codes = self.rollbacks[number]
        is_done = not only_first
        for code, back in codes[: 1 if only_first else None]:
            answer = await twins.asked(twins.checkout.returns.give_back(code))
            assert answer == twins.model.give_back(number, back)
            is_done = is_done and answer is None
        if is_done:
            await twins.checkout.returns.given_back(twins.positions[number], [code for code, _ in codes])
            twins.model.returning.discard(number)

    async def return_left_behind(self) -> None:
        twins = self.twins
        found = {str(rollback.position): rollback.claim.codes for rollback in await twins.gate.returning()}
        left = sorted(twins.model.returning)
        assert found == {
            str(twins.positions[number]): tuple(
                msgspec.structs.replace(code, rollback_id="") for code, _ in self.rollbacks[number]
            )
            for number in left
        }
        for number in left:
            await self.give_back(number)


async def _ready(answer: object) -> object:
    return answer


def request_id(number: int) -> str:
    """Their homes are all partitions in turn."""
    return lying_in(number % 3, f"r-{number}-")
