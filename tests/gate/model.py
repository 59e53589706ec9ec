"""What the gate should do, in plain Python: one dictionary per thing, no batching, no partitions.

Nothing is counted up and down: what is used is added up, whenever it is asked for, from the uses of which something
counts. Time is what the test says it is.

Answers are tuples of words: ("decided", n) for the n-th redemption or rollback of all, now or before, ("refused",
reason, and what belongs to it), ("held", since when, until when, the reservation that gave way), ("reserved", by which
reservation), ("waiting", for which transaction), ("moved", to which time), ("gone", when), ("stale",), ("redeemable",),
("released",), ("undone",), ("reused",).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.gate.model_campaigns import CampaignModel
from tests.gate.model_uses import Answer, Ask, Counters, Spot, Use, counted, counters, is_period, outlook, used
from vouchsafe.domain.campaign import Definition
from vouchsafe.domain.plans import Turn
from vouchsafe.domain.reasons import Reason
from vouchsafe.domain.rollback import RollbackPolicy

UNDONE = -1


@dataclass(frozen=True)
class Back:
    """What of one code comes back with a rollback, as its campaign had it when that was decided."""

    spot: Spot
    minor: int
    is_ended: bool
    policy: RollbackPolicy


@dataclass
class GateModel:
    """All that a gate holds."""

    now_ms: int
    campaigns: dict[str, CampaignModel] = field(default_factory=dict)
    uses: list[Use] = field(default_factory=list)  # of which something counts, or which an order has
    orders: dict[Spot, Use] = field(default_factory=dict)
    requests: dict[str, tuple[str, Answer | None]] = field(default_factory=dict)
    decided: list[int] = field(default_factory=list)  # when each redemption and rollback was
    transactions: dict[str, int] = field(default_factory=dict)  # the redemption, or UNDONE
    redemptions: dict[int, list[Use]] = field(default_factory=dict)
    holding: dict[str, int] = field(default_factory=dict)  # campaign -> when its first reservation ends, or before
    rolled: dict[int, bytes] = field(default_factory=dict)  # redemption -> what is kept of it
    rollbacks: dict[int, tuple[int, Sequence[Back]]] = field(default_factory=dict)
    returning: set[int] = field(default_factory=set)  # rollbacks
    came_back: set[tuple[int, Spot]] = field(default_factory=set)
    # Kind, and what tells the partition: a campaign, a transaction, or the redemption that is rolled back.
    events: list[tuple[str, str | int]] = field(default_factory=list)

    # -- requests ----------------------------------------------------------------------------------------------------

    def claim(self, request: str, fingerprint: str) -> Answer | None:
        """Makes sure that the id is this request's; what it was told, if anything."""
        first, answer = self.requests.setdefault(request, (fingerprint, None))
        return answer if first == fingerprint else ("reused",)

    def remember(self, request: str, fingerprint: str, answer: Answer) -> Answer:
        """Remembers an answer, if there is none; answers which stands."""
        known = self._told(request, fingerprint)
        if known is None:
            self.requests[request] = (fingerprint, answer)
        return known or answer

    def _told(self, request: str, fingerprint: str) -> Answer | None:
        first, answer = self.requests.get(request, (fingerprint, None))
        return answer if first == fingerprint else ("reused",)

    # -- one code ----------------------------------------------------------------------------------------------------

    def validate(self, ask: Ask, first: Sequence[Ask] = (), then: Sequence[Ask] = ()) -> Answer:
        """`first` and `then` are of the same campaign and order, to be taken together with this one, before and after
        it."""
        self.look_at(ask.spot[0])
        own = self._reservations(one.spot for one in (*first, ask, *then))
        objection = self._objection(ask, own, [Use(one, self.now_ms, self._counts(one)) for one in first])
        return ("redeemable",) if objection is None or objection[0] == "decided" else objection

    def redeem(self, ask: Ask, *, is_claimed: bool) -> Answer:
        """`is_claimed`: the id is claimed elsewhere first, even if nothing is decided then."""
        if is_claimed and self.claim(ask.request, ask.fingerprint) == ("reused",):
            return ("reused",)
        self.look_at(ask.spot[0])
        known = self._told(ask.request, ask.fingerprint)
        if known is not None:
            return known
        answer = self._objection(ask, self._reservations([ask.spot]))
        if answer is None:
            use = Use(ask, self.now_ms, self._counts(ask))
            self._enter(use)
            use.number = self._decide()
            self.redemptions[use.number] = [use]
            self.events.append(("redeemed", ask.spot[0]))
            answer = ("decided", use.number)
        if answer[0] in ("decided", "refused"):
            self.requests[ask.request] = (ask.fingerprint, answer)
        return answer

    def _reservations(self, spots: Iterable[Spot]) -> list[Use]:
        """What gives way when an order takes all of these."""
        return [use for spot in spots if (use := self.orders.get(spot)) is not None and use.is_reserved]

    def _objection(self, ask: Ask, own: Sequence[Use], beside: Sequence[Use] = ()) -> Answer | None:
        """What speaks against a use now, in order of precedence, when the order's own reservations give way and the
        uses beside it come."""
        campaign = self.campaigns[ask.spot[0]]
        standing = self.orders.get(ask.spot)
        if standing is not None and not standing.is_reserved:
            return _standing(standing, ask)
        if ask.version != campaign.version:
            return ("stale",)
        if campaign.state != "active":
            return ("refused", campaign.refusal)
        now_so = outlook(campaign.definition, self.now_ms)
        if now_so != outlook(campaign.definition, ask.judged_ms):
            return ("moved", self.now_ms)
        if isinstance(now_so, Reason):
            return ("refused", now_so)
        if ask.minor == 0:
            return ("refused", Reason.NO_EFFECT)
        return self._misfit(ask, [*(use for use in self._counting(ask.spot[0]) if use not in own), *beside])

    def _misfit(self, ask: Ask, others: Sequence[Use]) -> Answer | None:
        """The first limit that the use does not fit in beside the others."""
        for one in counted(self.campaigns[ask.spot[0]].definition, ask, self.now_ms):
            amount = used(others, one.field, self.now_ms)
            is_known = one.field.startswith("?") and any(one.field in use.counts for use in others)
            if one.cap is not None and amount + (0 if is_known else one.amount) > one.cap:
                return ("refused", one.reason, one.cap, amount)
        return None

    def _counts(self, ask: Ask) -> dict[str, int]:
        return {one.field: one.amount for one in counted(self.campaigns[ask.spot[0]].definition, ask, self.now_ms)}

    def _enter(self, use: Use) -> None:
        """The order has the use from now on, and its own reservation gives way."""
        for own in self._reservations([use.ask.spot]):
            self._end(own, "released")
        self.uses.append(use)
        self.orders[use.ask.spot] = use

    def _decide(self) -> int:
        self.decided.append(self.now_ms)
        return len(self.decided) - 1

    # -- what is used ------------------------------------------------------------------------------------------------

    def _counting(self, campaign_id: str) -> list[Use]:
        return [use for use in self.uses if use.ask.spot[0] == campaign_id]

    def counters(self, campaign_id: str) -> Counters:
        """All that is used of a campaign."""
        return counters(self._counting(campaign_id), self.now_ms)

    def _end(self, use: Use, kind: str) -> None:
        """What is held comes back."""
        self.uses.remove(use)
        del self.orders[use.ask.spot]
        if use.reservation:
            self.events.append((kind, use.ask.spot[0]))

    def look_at(self, campaign_id: str) -> None:
        """Whoever looks at a campaign finds those reservations given back whose time is over."""
        for use in self._reserved(campaign_id):
            if use.expire_ms <= self.now_ms:
                self._end(use, "expired")

    def _reserved(self, campaign_id: str) -> list[Use]:
        found = [use for use in self._counting(campaign_id) if use.is_reserved]
        return sorted(found, key=lambda use: (use.expire_ms, use.ask.spot))

    # -- several codes -----------------------------------------------------------------------------------------------

    def hold(self, asks: Sequence[Ask], transaction: str, deadline_ms: int) -> list[Answer]:
        """All of one campaign, or none; the last answer may be why."""

        def known(standing: Use, _ask: Ask) -> Answer | None:
            return standing.held() if standing.transaction == transaction else None

        return self._hold(asks, known, transaction=transaction, deadline_ms=deadline_ms)

    def _hold(self, asks: Sequence[Ask], known: Callable[[Use, Ask], Answer | None], **holder: Any) -> list[Answer]:
        self.look_at(asks[0].spot[0])
        told = {ask.spot: known(self.orders[ask.spot], ask) for ask in asks if ask.spot in self.orders}
        own = self._reservations(ask.spot for ask in asks if told.get(ask.spot) is None)
        fresh: list[Use] = []
        answers = []
        for ask in asks:
            answer = told.get(ask.spot) or self._objection(ask, own, fresh)
            if answer is None:
                fresh.append(Use(ask, self.now_ms, self._counts(ask), **holder))
                answer = fresh[-1].held(*(use.reservation for use in own if use.ask.spot == ask.spot))
            answers.append(answer)
            if answer[0] != "held":
                return answers
        for use in fresh:
            self._enter(use)
            if use.reservation:
                self._will_end(use)
                self.events.append(("held", use.ask.spot[0]))
        return answers

    def decide(self, transaction: str, request: str, fingerprint: str, deadline_ms: int) -> Answer:
        known = self._told(request, fingerprint)
        if known is not None:
            return known
        if transaction in self.transactions or self.now_ms >= deadline_ms:
            return ("undone",)
        number = self._decide()
        self.transactions[transaction] = number
        self.redemptions[number] = [use for use in self.uses if use.transaction == transaction]
        self.requests[request] = (fingerprint, ("decided", number))
        self.events.append(("combined", transaction))
        return ("decided", number)

    def settle(self, spot: Spot, transaction: str, number: int) -> int:
        """Settles a part by the redemption's number, or UNDONE; answers how many were held."""
        use = self.orders.get(spot)
        if use is None or use.number is not None or use.transaction != transaction:
            return 0
        if number != UNDONE:
            use.number = number
            self.events.append(("redeemed", spot[0]))
        elif use.reservation:
            use.transaction = ""
            self._will_end(use)
        else:
            self._end(use, "")
        return 1

    def pending(self, campaign_id: str | None = None) -> Iterator[tuple[int, str, Use]]:
        """Parts of transactions that are held, in order of their deadlines."""
        parts = []
        for (campaign, order), use in self.orders.items():
            if use.number is None and use.transaction and campaign_id in (None, campaign):
                parts.append((use.deadline_ms, f"{campaign} {order} {use.transaction}", use))
        return iter(sorted(parts, key=lambda part: part[:2]))

    def overdue(self) -> list[Use]:
        return [use for deadline_ms, _, use in self.pending() if deadline_ms <= self.now_ms]

    def settle_by_decision(self, uses: Sequence[Use]) -> int:
        """Settles parts as was decided; what was not decided is undone for ever."""
        found = [(use.ask.spot, use.transaction, self.transactions.setdefault(use.transaction, UNDONE)) for use in uses]
        return sum(self.settle(*part) for part in found)

    # -- reservations ------------------------------------------------------------------------------------------------

    def reserve(self, asks: Sequence[Ask], reservation: str, ttl_ms: int) -> list[Answer]:
        """All of one campaign, or none; the last answer may be why."""

        def known(standing: Use, ask: Ask) -> Answer | None:
            if standing.number is None and standing.reservation == reservation:
                return standing.held()
            if standing.is_reserved and standing.ask.fingerprint == ask.fingerprint:
                return ("reserved", standing.reservation)
            return None

        return self._hold(asks, known, reservation=reservation, expire_ms=self.now_ms + ttl_ms)

    def note(self, request: str, fingerprint: str, reservation: str) -> None:
        self.requests[request] = (fingerprint, ("reserved", reservation))
        self.events.append(("reserved", reservation))

    def _will_end(self, use: Use) -> None:
        campaign_id = use.ask.spot[0]
        self.holding[campaign_id] = min(use.expire_ms, self.holding.get(campaign_id, use.expire_ms))

    def pin(self, spot: Spot, reservation: str, transaction: str, deadline_ms: int) -> Answer:
        self.look_at(spot[0])
        use = self.orders.get(spot)
        if use is not None and use.number is not None:
            return ("refused", Reason.ORDER_ALREADY_REDEEMED, use.number)
        if use is None or use.reservation != reservation:
            return ("gone", self.now_ms)
        if use.transaction:
            return use.held() if use.transaction == transaction else ("waiting", use.transaction)
        campaign = self.campaigns[spot[0]]
        if campaign.state != "active":
            return ("refused", campaign.refusal)
        use.transaction, use.deadline_ms = transaction, deadline_ms
        return use.held()

    def release(self, spot: Spot, reservation: str) -> Answer:
        use = self.orders.get(spot)
        if use is not None and use.number is None and use.reservation == reservation:
            if use.transaction:
                return ("waiting", use.transaction)
            self._end(use, "released")
        return ("gone", self.now_ms)

    def expire(self) -> int:
        """Looks at all campaigns with reservations whose time is over; answers how many those are."""
        due = sorted((end_ms, campaign_id) for campaign_id, end_ms in self.holding.items() if end_ms <= self.now_ms)
        for _, campaign_id in due:
            self.look_at(campaign_id)
            left = self._reserved(campaign_id)
            del self.holding[campaign_id]
            if left:
                self.holding[campaign_id] = left[0].expire_ms
        return len(due)

    # -- campaigns ---------------------------------------------------------------------------------------------------

    def publish(self, campaign_id: str, version: int, definition: Definition) -> None:
        campaign = self.campaigns.setdefault(campaign_id, CampaignModel(definition, version))
        if version > campaign.version:
            campaign.version, campaign.definition = version, definition

    def begin_stop(self, campaign_id: str, stopped: str, turn: Turn | None = None) -> list[Use] | None:
        """Makes a campaign paused or archived; the parts of transactions that must be settled before that is written
        down, None when it cannot be done. A turn is taken once, and always written down."""
        campaign = self.campaigns[campaign_id]
        if turn is not None and turn.number <= campaign.turn:
            self.look_at(campaign_id)
            return []
        if campaign.leaves_alone(turn, stopped):
            return None
        if campaign.state.startswith("archiv") and stopped != "archived":
            return None
        if stopped == "archived" and self._is_running(campaign):
            return None
        plan = None if turn is None else turn.plan
        if campaign.state != stopped or turn is not None or plan != campaign.plan:
            campaign.plan = plan
            parts = [use for _, _, use in self.pending(campaign_id)] if campaign.state != stopped else []
            if parts:
                campaign.state = {"paused": "pausing", "archived": "archiving"}[stopped]
                return parts
            campaign.state, campaign.turn = stopped, campaign.turn if turn is None else turn.number
            self.events.append((stopped, campaign_id))
        self.look_at(campaign_id)
        return []

    def _is_running(self, campaign: CampaignModel) -> bool:
        start_ms, end_ms = campaign.definition.start_time_ms, campaign.definition.end_time_ms
        is_within = (start_ms is None or self.now_ms >= start_ms) and (end_ms is None or self.now_ms < end_ms)
        return campaign.state == "active" and is_within

    def resume(self, campaign_id: str, turn: Turn | None = None) -> bool:
        """Answers whether it can be done. A turn is taken once, and always written down."""
        campaign = self.campaigns[campaign_id]
        if turn is not None and turn.number <= campaign.turn:
            self.look_at(campaign_id)
            return True
        if campaign.leaves_alone(turn, "resumed"):
            return False
        if campaign.state.startswith("archiv"):
            return False
        if campaign.state != "active" or turn is not None:
            campaign.state, campaign.plan = "active", None
            campaign.turn = campaign.turn if turn is None else turn.number
            self.events.append(("resumed", campaign_id))
        self.look_at(campaign_id)
        return True

    # -- rollbacks ---------------------------------------------------------------------------------------------------

    def roll_back(
        self, request: str, fingerprint: str, redemption: int, seen: bytes, kept: bytes, back: Sequence[Back]
    ) -> Answer:
        known = self._told(request, fingerprint)
        if known is not None:
            return known
        if self.rolled.get(redemption, b"") != seen:
            return ("stale",)
        number = self._decide()
        self.rolled[redemption] = kept
        self.rollbacks[number] = (redemption, back)
        self.returning.add(number)
        self.requests[request] = (fingerprint, ("decided", number))
        self.events.append(("rolled_back", redemption))
        return ("decided", number)

    def give_back(self, rollback: int, back: Back) -> Answer | None:
        """What a code has counted comes back, once."""
        if (rollback, back.spot) in self.came_back:
            return None
        standing = self.orders.get(back.spot)
        if standing is not None and standing.number is None and standing.transaction:
            return ("waiting", standing.transaction)
        self.came_back.add((rollback, back.spot))
        redemption, _ = self.rollbacks[rollback]
        policy = back.policy
        for use in self.redemptions[redemption]:
            if use.ask.spot != back.spot:
                continue
            for name in list(use.counts):
                if name.partition(":")[0] == "money":
                    use.counts[name] -= 0 if policy.keeps_budget else back.minor
                elif back.is_ended and not (policy.keeps_periods if is_period(name) else policy.keeps_use):
                    del use.counts[name]
            if back.is_ended and not policy.keeps_use and self.orders.get(back.spot) is use:
                del self.orders[back.spot]
            use.is_whole = False
        self.events.append(("returned", back.spot[0]))
        return None


def _standing(use: Use, ask: Ask) -> Answer:
    """What who asks is told of what the order has of the code already."""
    if use.number is None:
        return ("waiting", use.transaction)
    if use.is_whole and use.ask.fingerprint == ask.fingerprint:
        return ("decided", use.number)
    return ("refused", Reason.ORDER_ALREADY_REDEEMED, use.number)
