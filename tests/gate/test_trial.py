"""A trial is answered as a plain validation is when that time has come, and leaves no trace."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from tests.gate import choices
from tests.gate.choices import BEGINS, DAY_MS, HOUR_MS, SECOND_MS
from tests.gate.stage import CAMPAIGNS, CODES, Stage
from tests.gate.twins import CUSTOMERS, Cart, fingerprint_of, order_of
from tests.opened import enter
from tests.service import a_backlog
from tests.valkeys import clients
from tests.values import a_definition, percent
from vouchsafe.domain.campaign import Campaign, CodeEntry, CombineMode, Definition, Stacking
from vouchsafe.domain.combine import Combining, Coverage, Sequencing
from vouchsafe.domain.conditions import CelExpression
from vouchsafe.domain.kill_switch import EVERYTHING, Engaged
from vouchsafe.domain.limits import HonourQuoted, Limits
from vouchsafe.domain.reasons import Reason, Refusal
from vouchsafe.domain.schedule import Blackout, Schedule, Weekday, WeeklyWindow
from vouchsafe.gate.gate import Clock
from vouchsafe.gate.states import States
from vouchsafe.gate.stops import Stops
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.service.committed import Committed
from vouchsafe.service.judge import RedeemRequest
from vouchsafe.service.offers import Offer, Trial, Validation
from vouchsafe.service.redeem import Redeem
from vouchsafe.settings import Settings

pytestmark = pytest.mark.usefixtures("moved_clock")

EXAMPLES = 100
FOR_EVER_MS = 1_000 * DAY_MS
SECRET = "a secret of the tests"  # noqa: S105  # nothing is kept under it
# Given to a customer: how long they are good is counted from then.
GIVEN = {"A1", "C1"}
SCHEDULES = [
    *[None] * 5,
    Schedule(time_zone="Europe/Berlin", weekly=(WeeklyWindow(start_time="08:00", end_time="18:00"),)),
    Schedule(
        time_zone="America/New_York",
        weekly=(WeeklyWindow(weekdays=(Weekday.FRIDAY, Weekday.WEDNESDAY), start_time="22:00", end_time="02:00"),),
        blackouts=(Blackout(first_date="2026-07-10", last_date="2026-07-12"),),
    ),
]
JOINT = Stacking(mode=CombineMode.JOINT)
EXPRESSIONS = [*[None] * 5, CelExpression(text='now > timestamp("2026-07-08T14:00:00Z")')]
OFFSETS_MS = [0, 1, -1, SECOND_MS - 1, SECOND_MS, HOUR_MS, 7 * HOUR_MS]
OFFSETS_MS += [-DAY_MS, DAY_MS - 1, DAY_MS, 7 * DAY_MS, 31 * DAY_MS]

ALONE = Combining()

definitions = st.builds(
    Definition,
    display_name=st.just("Sale"),
    effects=st.sampled_from([percent(1_000), percent(2_500)]),
    limits=st.just(Limits())
    | choices.limits
    | choices.limits
    | st.builds(
        Limits,
        budget_minor=st.sampled_from([100, 160, 330]),
        partial_budget=st.booleans(),
        honour_quoted=st.sampled_from([None, HonourQuoted(within_ms=HOUR_MS, overdraft_uses=1)]),
    ),
    start_time_ms=st.sampled_from([None] * 12 + [begin_ms + SECOND_MS for begin_ms in BEGINS]),
    end_time_ms=st.sampled_from([None] * 12 + [begin_ms + DAY_MS for begin_ms in BEGINS]),
    schedule=st.sampled_from(SCHEDULES),
    expression=st.sampled_from(EXPRESSIONS),
    code_validity_ms=st.sampled_from([None, HOUR_MS]),
    stacking=st.sampled_from([Stacking(), JOINT, JOINT, JOINT]),
)


@dataclass(frozen=True)
class Wish:
    """Codes for a cart."""

    codes: tuple[str, ...]
    cart: Cart
    combining: Combining = ALONE

    def request(self, number: int) -> RedeemRequest:
        customer, order = CUSTOMERS[self.cart.order % len(CUSTOMERS)], order_of(self.cart)
        fingerprint = fingerprint_of(self.codes, self.cart)
        return RedeemRequest(f"r-{number}", fingerprint, self.codes, customer, order, self.combining)


wishes = st.builds(
    Wish,
    choices.several.map(tuple),
    choices.carts,
    st.builds(Combining, sequencing=st.sampled_from(Sequencing), coverage=st.sampled_from(Coverage)),
)


@dataclass(frozen=True)
class Scene:
    """What has happened, at moments as far from the begin as they say, and what is tried then."""

    begin_ms: int
    definitions: tuple[Definition, ...]
    history: Sequence[tuple[int, Wish, bool]]
    paused: Sequence[str]
    at_ms: int
    wish: Wish


scenes = st.builds(
    Scene,
    begin_ms=st.sampled_from(BEGINS),
    definitions=st.tuples(*[definitions] * len(CAMPAIGNS)),
    history=st.lists(st.tuples(st.sampled_from(OFFSETS_MS), wishes, st.booleans()), max_size=8),
    paused=st.lists(choices.campaigns, max_size=1),
    at_ms=st.sampled_from(OFFSETS_MS),
    wish=wishes,
)


class Still(Clock):
    """As the moved clock of the store: no time passes between two calls."""

    def __init__(self) -> None:
        super().__init__()
        self._now_ms = 0

    def set(self, now_ms: int) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms


class House:
    """The service on a stage, without a server."""

    def __init__(self, stage: Stage, ledger: Ledger, settings: Settings) -> None:
        self.stage, self.gate = stage, stage.gate
        self._ledger, self._settings = ledger, settings
        self.redeem: Redeem

    async def open(self, now_ms: int, definitions: Sequence[Definition]) -> None:
        await self.stage.clear(now_ms)
        for campaign_id, definition in zip(CAMPAIGNS.values(), definitions, strict=True):
            await self.gate.publish(Campaign(campaign_id, 1, definition, 0))
        holders = {code: (CUSTOMERS[0].id, now_ms) if code in GIVEN else ("", None) for code in CODES}
        await enter(self.gate, *(CodeEntry(code, CAMPAIGNS[code[0]], None, *holders[code]) for code in CODES))
        self.restart()

    def restart(self) -> None:
        """A server that has read nothing yet."""
        committed = Committed(self._ledger, self._settings)
        backlog = a_backlog(self.gate, self._settings)
        self.redeem = Redeem(self.stage.checkout, self._ledger, backlog, committed, hold_ms=5_000, secret=SECRET)

    def everything(self) -> dict[bytes, tuple[Any, Any]]:
        """Every key with its value and its time to live."""
        return {
            key: (client.dump(key), client.pexpiretime(key))
            for client in clients(self._settings.valkey_url)
            for key in client.scan_iter(count=1_000)
        }


@asynccontextmanager
async def a_house(settings: Settings) -> AsyncIterator[House]:
    stage = await Stage.connect(settings)
    stage.gate.clock = Still()
    ledger = await Ledger.connect(settings.postgres_url, pool_size=1, timeout_ms=30_000)
    try:
        yield House(stage, ledger, settings)
    finally:
        await ledger.close()
        await stage.close()


@pytest.fixture
def patient(settings: Settings) -> Settings:
    return settings.model_copy(update={"gate_timeout_ms": 60_000})


async def play(house: House, scene: Scene) -> Validation:
    """Tries, comes to that time, asks plainly, and answers what both were told."""
    await house.open(scene.begin_ms, scene.definitions)
    for number, (off_ms, wish, is_held) in enumerate(scene.history):
        await house.stage.move_to(scene.begin_ms + off_ms)
        request = wish.request(number)
        if is_held:
            await house.redeem.reservations.reserve(request, FOR_EVER_MS)
        else:
            await house.redeem.redeem(request)
    await house.stage.move_to(scene.begin_ms)
    house.restart()
    for campaign_id in scene.paused:
        await States(house.gate).pause(campaign_id, "because")
    request, at_ms = scene.wish.request(-1), scene.begin_ms + scene.at_ms

    before = house.everything()
    trial = Trial(at_ms)
    tried = await house.redeem.validate(request, explain=True, trial=trial)
    assert house.everything() == before
    assert house.gate.clock.now_ms() == scene.begin_ms
    assert trial.inactive <= set(scene.paused)

    for campaign_id in scene.paused:
        await States(house.gate).resume(campaign_id, "because")
    await house.stage.move_to(at_ms)
    plain = await house.redeem.validate(request, explain=True)
    if isinstance(plain.outcome, Offer):
        plain = msgspec.structs.replace(plain, outcome=msgspec.structs.replace(plain.outcome, quote_token=""))
    assert tried == plain
    return plain


@pytest.mark.timeout(600)
def test_a_trial_answers_as_that_time_will_and_changes_no_key(patient: Settings) -> None:
    met: Counter[str] = Counter()
    with asyncio.Runner() as runner:
        context = a_house(patient)
        house = runner.run(context.__aenter__())

        @bounds(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(scene=scenes)
        def prove(scene: Scene) -> None:
            outcome = runner.run(play(house, scene)).outcome
            met[outcome.reason.name if isinstance(outcome, Refusal) else "OFFER"] += 1

        try:
            prove()
        finally:
            runner.run(context.__aexit__(None, None, None))
    # Chance has been everywhere.
    assert met["OFFER"] >= EXAMPLES // 20, met
    assert len(met) >= 6, met


@pytest.mark.parametrize("later_ms", [0, HOUR_MS])
async def test_a_trial_gives_back_no_reservation_whose_time_is_over(patient: Settings, later_ms: int) -> None:
    begin_ms = BEGINS[0]
    async with a_house(patient) as house:
        await house.open(begin_ms, [a_definition(limits=Limits(total=1))] * 3)
        await house.redeem.reservations.reserve(Wish(("A0",), Cart(1, 1_000)).request(1), SECOND_MS)
        await house.stage.move_to(begin_ms + HOUR_MS)
        # Not even where it has to read the campaign first.
        house.restart()
        before = house.everything()
        asked = Wish(("A0",), Cart(2, 1_000)).request(2)
        tried = await house.redeem.validate(asked, trial=Trial(begin_ms + HOUR_MS + later_ms))
        assert isinstance(tried.outcome, Refusal)
        assert tried.outcome.reason is Reason.CAMPAIGN_LIMIT_REACHED
        assert house.everything() == before
        assert isinstance((await house.redeem.validate(asked)).outcome, Offer)
        assert house.everything() != before


async def test_a_trial_takes_inactive_campaigns_for_active_and_says_so(patient: Settings) -> None:
    begin_ms = BEGINS[0]
    async with a_house(patient) as house:
        await house.open(begin_ms, [msgspec.structs.replace(a_definition(), stacking=JOINT)] * 3)
        asked = Wish(("A0", "B0"), Cart(1, 1_000)).request(1)
        keys = house.stage.keys_of(CAMPAIGNS["B"])
        # Whatever word stands there.
        for state in (b"paused", b"pausing", b"of a later release"):
            await house.gate._execute(("HSET", keys.campaign(CAMPAIGNS["B"]), "state", state))
            trial = Trial(begin_ms)
            assert isinstance((await house.redeem.validate(asked, trial=trial)).outcome, Offer)
            assert trial.inactive == {CAMPAIGNS["B"]}
            plain = await house.redeem.validate(asked)
            assert isinstance(plain.outcome, Refusal)
            assert plain.outcome.reason is Reason.CAMPAIGN_PAUSED


async def test_a_kill_switch_of_now_refuses_a_trial_too(patient: Settings) -> None:
    begin_ms = BEGINS[0]
    async with a_house(patient) as house:
        await house.open(begin_ms, [a_definition()] * 3)
        await Stops(house.gate).engage(EVERYTHING, Engaged("because", begin_ms))
        tried = await house.redeem.validate(Wish(("A0",), Cart(1, 1_000)).request(1), trial=Trial(begin_ms + DAY_MS))
        assert isinstance(tried.outcome, Refusal)
        assert tried.outcome.reason is Reason.KILL_SWITCH_ENGAGED


async def test_a_trial_offers_no_quote_and_its_time_is_nobody_elses(patient: Settings) -> None:
    begin_ms = BEGINS[0]
    limits = Limits(total=9, honour_quoted=HonourQuoted(within_ms=HOUR_MS, overdraft_uses=1))
    definition = msgspec.structs.replace(a_definition(limits=limits), start_time_ms=begin_ms + DAY_MS)
    async with a_house(patient) as house:
        await house.open(begin_ms, [definition] * 3)
        asked = Wish(("A0",), Cart(1, 1_000)).request(1)
        times = [begin_ms, begin_ms + DAY_MS, begin_ms + DAY_MS - 1, begin_ms + 2 * DAY_MS]
        # In one call to the store, each at its own time.
        found = await asyncio.gather(*(house.redeem.validate(asked, trial=Trial(at_ms)) for at_ms in times))
        assert [isinstance(one.outcome, Offer) for one in found] == [False, True, False, True]
        assert all(one.outcome.quote_token == "" for one in found if isinstance(one.outcome, Offer))
        outcome = (await house.redeem.redeem(asked)).outcome
        assert isinstance(outcome, Refusal)
        assert outcome.reason is Reason.CAMPAIGN_NOT_STARTED
