"""What has to be true in the end, of the history and of the ledger."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.torture.book import Book, Event
from tests.torture.campaigns import Contested
from tests.torture.history import Call, History
from tests.torture.losses import Loss
from vouchsafe.client import Redemption, Reservation, Rollback
from vouchsafe.domain.redemption import Position

# Refusals to confirm that tell how a reservation has ended: it is no redemption afterwards.
ENDED = {"RESERVATION_EXPIRED", "RESERVATION_RELEASED", "RESERVATION_REPLACED"}

Ends = defaultdict[tuple[str, str], list[Event]]


@dataclass
class Findings:
    """`problems` are what must not be. `allowed` counts what must not be either, but for a loss of Valkey's data and a
    contract that does not cover it. `counts` are for people."""

    problems: list[str] = field(default_factory=list)
    allowed: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)


class Checker:
    """Holds history and ledger against each other. With `may_lose` the contract lets a loss of Valkey's data take what
    had not reached the ledger."""

    def __init__(
        self,
        history: History,
        book: Book,
        campaigns: Sequence[Contested],
        losses: Sequence[Loss],
        *,
        may_lose: bool,
    ) -> None:
        self._history = history
        self._book = book
        self._campaigns = {one.id: one for one in campaigns}
        self._losses = losses
        self._may_lose = may_lose
        self._found = Findings()
        self._by_key: defaultdict[tuple[str, str], list[Call]] = defaultdict(list)
        for call in history.calls:
            self._by_key[call.request.key].append(call)

    def check(self) -> Findings:
        """All of it."""
        self._check_outcomes()
        self._check_limits()
        self._check_acknowledged()
        self._check_sent()
        self._check_orders()
        self._check_whole()
        self._check_rollbacks()
        self._check_reservations()
        self._check_same_answers()
        self._check_pauses()
        return self._found

    # -- what may be lost ----------------------------------------------------------------------------------------------

    def _is_lost(self, told_id: str) -> bool:
        """Whether a loss may have taken the redemption or rollback with this id, which says when it was decided."""
        if not self._may_lose:
            return False
        place = Position.parse(told_id)
        return any(loss.may_lack(place.stream_id.ms, place.partition) for loss in self._losses)

    def _is_lost_between(self, begin: float, end: float) -> bool:
        """The same of what was decided somewhere within a call."""
        begin_ms, end_ms = self._history.ms(begin), self._history.ms(end)
        return self._may_lose and any(
            begin_ms <= loss.at_ms and any(since_ms <= end_ms for since_ms in loss.since_ms.values())
            for loss in self._losses
        )

    def _wrong(self, what: str, *, allowed: bool = False) -> None:
        if allowed:
            self._found.allowed[what.partition(":")[0]] += 1
        else:
            self._found.problems.append(what)

    # -- one after the other -------------------------------------------------------------------------------------------

    def _check_outcomes(self) -> None:
        """Nothing went wrong in a way that nobody is told of, and what was made is found again."""
        for call in self._history.calls:
            self._found.counts[f"{call.request.what} {call.reason or call.outcome}"] += 1
            if call.outcome == "error":
                self._wrong(f"error: {_line(call)}")
            elif call.outcome == "not_found":
                self._wrong(f"not found: {_line(call)}", allowed=self._may_be_gone(call))

    def _may_be_gone(self, call: Call) -> bool:
        """Of a redemption: one to be rolled back, or one of which an order has a part that was not lost."""
        request = call.request
        if request.what == "roll_back":
            return self._is_lost(request.of)
        if request.what == "redeem":
            return self._is_lost(call.error.rpartition(" ")[2])
        made = [one for one in self._by_key["reserve", request.of] if one.told_id == request.id]
        return any(self._is_lost_between(one.begin, one.end) for one in made)

    def _check_limits(self) -> None:
        """No counter was ever beyond its cap, in the order in which the gate has decided."""
        taken: defaultdict[str, Counter[str]] = defaultdict(Counter)
        highest: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for event, counter, amount in self._moves():
            now, most = taken[event.campaign_id], highest[event.campaign_id]
            now[counter] += amount
            most[counter] = max(most[counter], now[counter])
        self._check_caps(highest)
        for campaign in self._campaigns.values():
            for counter, cap in (("uses", campaign.total), ("money", campaign.budget_minor)):
                if cap is not None:
                    self._found.counts[f"{campaign.id}: {counter} {highest[campaign.id][counter]} of {cap}"] += 1
        self._check_limits_by_answers()

    def _check_caps(self, counted: Mapping[str, Counter[str]]) -> None:
        for campaign_id, counters in counted.items():
            campaign = self._campaigns[campaign_id]
            caps = {
                "uses": campaign.total,
                "money": campaign.budget_minor,
                "customer": campaign.per_customer,
                "code": campaign.per_code,
            }
            for counter, value in counters.items():
                cap = caps[counter.partition(":")[0]]
                if cap is not None and value > cap:
                    self._wrong(f"oversold: {campaign_id} {counter} went to {value}, its cap is {cap}")

    def _moves(self) -> Iterator[tuple[Event, str, int]]:
        """Every event that moves counters, which, and by how much. What was reserved counts from when it was held; if
        that was lost and the redemption was not, from then."""
        held = set()
        for event in self._book.events:
            part = event.reservation_id, event.code
            sign = 0
            if event.kind == "held":
                held.add(part)
                sign = 1
            elif event.kind == "redeemed" and part not in held:
                sign = 1
            elif event.kind == "returned" or (event.kind in ("released", "expired") and part in held):
                sign = -1
            if sign:
                for counter, amount in event.takes.items():
                    yield event, counter, sign * amount

    def _check_limits_by_answers(self) -> None:
        """What was acknowledged, not lost, and has not come back is within the caps, whatever the ledger says."""
        taken: defaultdict[str, Counter[str]] = defaultdict(Counter)
        acknowledged = {call.told_id: call.answer for call in self._answered(Redemption)}
        for id_, redemption in acknowledged.items():
            assert isinstance(redemption, Redemption)
            for applied in redemption.applied_codes if not self._is_lost(id_) else ():
                now = taken[applied.campaign_id]
                now["uses"] += 1
                now["money"] += applied.discount_minor
                now[f"customer:{redemption.customer_id}"] += 1
                now[f"code:{applied.code}"] += 1
        for event in self._book.events:
            if event.kind == "returned" and event.redemption_id in acknowledged:
                taken[event.campaign_id].subtract(event.takes)
        self._check_caps(taken)

    def _check_acknowledged(self) -> None:
        """What was acknowledged is in the ledger, once, as it was told."""
        for id_, call in {call.told_id: call for call in self._answered(Redemption)}.items():
            assert isinstance(call.answer, Redemption)
            parts = self._book.parts.get(id_)
            if not parts:
                self._wrong(f"lost: {_line(call)}", allowed=self._is_lost(id_))
                continue
            told = sorted((one.campaign_id, one.code, one.discount_minor) for one in call.answer.applied_codes)
            kept = sorted((one.campaign_id, one.code, one.minor) for one in parts)
            if told != kept:
                self._wrong(f"not as told: {_line(call)}: {told}, the ledger has {kept}", allowed=self._is_lost(id_))
            if any((one.order_id, one.customer_id) != (call.answer.order_id, call.answer.customer_id) for one in parts):
                self._wrong(f"another's: {_line(call)}")
        rows = Counter(self._book.rows)
        rows.subtract(event.id for event in self._book.events if event.kind == "redeemed")
        for id_, count in rows.items():
            if count:
                self._wrong(f"rows: {count:+} of {id_}, by the events")
        for request_id, ids in self._book.decisions.items():
            if len(ids) > 1:
                self._wrong(f"decided twice: request {request_id} as {sorted(ids)}")

    def _check_sent(self) -> None:
        """The ledger has nothing that nobody has asked for."""
        for event in self._book.events:
            if event.kind in ("redeemed", "combined", "held", "rolled_back"):
                what = {"rolled_back": "roll_back", "held": "reserve"}.get(event.kind, "redeem")
                what = "reserve" if event.reservation_id else what
                asked = self._by_key.get((what, event.request_id))
                if asked is None and event.combined_id:
                    # What was held of a part was lost, and it was redeemed by the decision.
                    asked = self._by_key.get(("reserve", event.request_id))
                if not asked or (event.order_id and asked[0].request.order_id != event.order_id):
                    self._wrong(f"never asked for: {event}")
                confirmed = event.kind in ("redeemed", "combined") and event.reservation_id
                if confirmed and ("confirm", event.reservation_id) not in self._by_key:
                    self._wrong(f"never confirmed: {event}")

    def _check_orders(self) -> None:
        """No order has a code twice at a time."""
        has: Counter[tuple[str, str]] = Counter()
        for event in self._book.events:
            if event.kind == "redeemed":
                has[event.order_id, event.code] += 1
                if has[event.order_id, event.code] > 1:
                    self._wrong(f"twice: order {event.order_id} has {event.code} by {event.id}")
            has[event.order_id, event.code] -= event.uses_returned

    def _check_whole(self) -> None:
        """No order has a part of the codes that it asked for together."""
        for event in self._book.events:
            if event.kind == "combined" and len(self._book.parts[event.id]) != event.size:
                found = [one.code for one in self._book.parts[event.id]]
                self._wrong(f"half: {event.id} of {event.size} codes has {found}", allowed=self._is_lost(event.id))
            if event.kind == "redeemed" and event.combined_id and event.combined_id not in self._book.by_id:
                self._wrong(
                    f"a part of nothing: {event.id} is of {event.combined_id}", allowed=self._is_lost(event.combined_id)
                )

    def _check_rollbacks(self) -> None:
        """What was acknowledged has come back, once, of every code; and never more than was given."""
        came_back: defaultdict[str, list[Event]] = defaultdict(list)
        of: Counter[tuple[str, str]] = Counter()
        orphaned: set[str] = set()
        for event in self._book.events:
            if event.kind == "returned":
                came_back[event.rollback_id].append(event)
                of[event.redemption_id, event.code] += event.money_returned
                if event.rollback_id not in self._book.by_id and self._is_lost(event.rollback_id):
                    orphaned.add(event.redemption_id)
        for id_, call in {call.told_id: call for call in self._answered(Rollback)}.items():
            assert isinstance(call.answer, Rollback)
            told = sorted((one.code, one.discount_minor) for one in call.answer.codes)
            kept = sorted((event.code, event.money_returned) for event in came_back[id_])
            if told != kept:
                # What has come back already by a rollback that was lost comes back no more.
                lost = self._is_lost(id_) or call.answer.redemption_id in orphaned
                self._wrong(f"not back: {_line(call)}: {told}, the ledger has {kept}", allowed=lost)
        for (redemption_id, code), minor in of.items():
            given = sum(part.minor for part in self._book.parts.get(redemption_id, ()) if part.code == code)
            if minor > given:
                # A rollback that was lost, of which a code had come back already, can be decided anew.
                lost = self._is_lost(redemption_id) or redemption_id in orphaned
                self._wrong(f"too much back: {minor} of {given} of {redemption_id} {code}", allowed=lost)

    def _check_reservations(self) -> None:
        """What was held has one end, and what was released or has expired was not redeemed."""
        ends: Ends = defaultdict(list)
        for event in self._book.events:
            if event.reservation_id and event.kind not in ("combined", "held"):
                ends[event.reservation_id, event.code].append(event)
        held = {(event.reservation_id, event.code) for event in self._book.events if event.kind == "held"}
        for part in held:
            if len(ends[part]) != 1:
                self._wrong(f"held for ever, or ended twice: {part} {[event.kind for event in ends[part]]}")
        for call in self._history.calls:
            if call.request.what == "reserve" and call.told_id:
                if self._is_promised(call) and not held.issuperset((call.told_id, code) for code in call.request.codes):
                    first = min(self._by_key[call.request.key], key=lambda one: one.begin)
                    lost = self._is_lost_between(first.begin, call.end)
                    self._wrong(f"not held: {_line(call)}", allowed=lost)
            elif call.outcome == "reservation" or (call.request.what == "confirm" and call.reason in ENDED):
                self._check_not_redeemed(call, ends)

    def _is_promised(self, call: Call) -> bool:
        """Whether the reservation that was told still stood: of one whose time is over, which who asks again is told as
        well, nothing is held any more, and what was held may be lost."""
        assert isinstance(call.answer, Reservation)
        return call.answer.expire_time.ToMilliseconds() > self._history.ms(call.end)

    def _check_not_redeemed(self, call: Call, ends: Ends) -> None:
        for code in call.request.codes:
            if any(event.kind == "redeemed" for event in ends[call.request.id, code]):
                self._wrong(
                    f"redeemed after its end: {_line(call)}", allowed=self._is_lost_between(call.begin, call.end)
                )

    def _check_same_answers(self) -> None:
        """Whoever asks again is told the same; only refusals, which the gate alone remembers, may be gone with it."""
        for (what, _), calls in self._by_key.items():
            if what not in ("redeem", "reserve", "roll_back", "confirm"):
                continue
            told = [call for call in calls if call.answer is not None]
            if what == "confirm":  # a refusal is no end of a reservation that stands
                told = [call for call in told if isinstance(call.answer, Redemption)]
            for first, then in itertools.pairwise(told):
                if first.answer != then.answer:
                    self._wrong(
                        f"another answer: {_line(first)}; then {_line(then)}", allowed=self._may_differ(first, then)
                    )

    def _may_differ(self, first: Call, then: Call) -> bool:
        begin_ms, end_ms = self._history.ms(first.begin), self._history.ms(then.end)
        if not any(begin_ms <= loss.at_ms <= end_ms for loss in self._losses):
            return False
        if first.reason:
            return True
        if isinstance(first.answer, Reservation):
            return self._is_lost_between(first.begin, first.end)
        return self._is_lost(first.told_id)

    def _check_pauses(self) -> None:
        """Nothing of a campaign is redeemed while it is paused: by the order of events, and by what was told when."""
        paused: dict[str, str] = {}
        for event in self._book.events:
            if event.kind in ("paused", "archived"):
                paused[event.campaign_id] = event.id
            elif event.kind == "resumed":
                paused.pop(event.campaign_id, None)
            elif event.kind == "redeemed" and event.campaign_id in paused:
                self._wrong(f"redeemed while paused: {event.id} behind {paused[event.campaign_id]}")
        first_asked = self._first_asked()
        by_campaign: defaultdict[str, list[Call]] = defaultdict(list)
        for id_, call in first_asked.items():
            for part in self._book.parts.get(id_, ()):
                by_campaign[part.campaign_id].append(call)
        for pause, until in self._pauses():
            for call in by_campaign[pause.request.codes[0]]:
                if call.begin > pause.end and call.end < until:
                    lost = self._is_lost_between(pause.begin, pause.end)
                    self._wrong(f"redeemed while paused: {_line(call)}", allowed=lost)

    def _pauses(self) -> Iterator[tuple[Call, float]]:
        """Each pause that was acknowledged, and when somebody began to end it."""
        stopped: dict[str, Call] = {}
        for call in sorted(self._history.calls, key=lambda one: one.begin):
            if call.request.what == "pause" and call.outcome == "campaign":
                stopped[call.request.codes[0]] = call
            elif call.request.what == "resume" and call.request.codes[0] in stopped:
                yield stopped.pop(call.request.codes[0]), call.begin

    def _first_asked(self) -> dict[str, Call]:
        """For each redemption that was told of, when it was first asked for and when first told."""
        found: dict[str, Call] = {}
        for calls in self._by_key.values():
            for call in calls:
                if isinstance(call.answer, Redemption):
                    first = min(calls, key=lambda one: one.begin)
                    earlier = found.get(call.told_id, call)
                    begin, end = min(first.begin, earlier.begin), min(call.end, earlier.end)
                    found[call.told_id] = Call(call.request, begin, end, call.outcome, call.answer)
        return found

    def _answered(self, kind: type[Redemption | Reservation | Rollback]) -> Iterable[Call]:
        return (call for call in self._history.calls if isinstance(call.answer, kind))


def _line(call: Call) -> str:
    request = call.request
    told = call.told_id or call.reason or call.error or call.outcome
    return f"{request.what} {request.id} of order {request.order_id} {','.join(request.codes)}: {told}"
