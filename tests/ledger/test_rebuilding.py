"""What was decided and not carried out when Valkey lost everything: it is carried out, once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import msgspec
import pytest

from tests.gate.test_transactions import LIMITS, ONE, OTHER, PARTITIONS, Rig
from tests.opened import seen
from tests.valkeys import on_every_node
from tests.values import a_definition
from vouchsafe.domain.errors import Unavailable
from vouchsafe.domain.limits import Limits
from vouchsafe.domain.partitions import Finding
from vouchsafe.domain.reasons import Reason, Refusal
from vouchsafe.domain.redemption import Event, Redemption
from vouchsafe.domain.reservation import Reservation
from vouchsafe.domain.rollback import Kept, Left, ReturnedCode, Rollback, RollbackClaim
from vouchsafe.gate.attempts import Gone, Held, Standing
from vouchsafe.gate.checkout import Checkout
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.holds import Note, Pin, Reserve
from vouchsafe.gate.keys import Keys
from vouchsafe.gate.outbox import Outbox
from vouchsafe.gate.returns import RollingBack
from vouchsafe.gate.states import States
from vouchsafe.gate.transactions import Part, new_reservation_id
from vouchsafe.ledger.ledger import Installation, Ledger
from vouchsafe.service import rebuild
from vouchsafe.service.publish import publish
from vouchsafe.service.rebuild import Rebuild, open_verified
from vouchsafe.service.recover import Recovery
from vouchsafe.service.rollback import give_back
from vouchsafe.settings import Settings


@dataclass
class World:
    """Both stores, two campaigns of one use each in two partitions, and whoever recovers them."""

    settings: Settings
    gate: Gate
    ledger: Ledger
    installation: Installation
    recovery: Recovery
    rig: Rig

    async def persist(self, partitions: tuple[int, ...] = (0, 1)) -> None:
        """What waits in the outboxes goes to the ledger."""
        for partition in partitions:
            state = await self.ledger.partition(partition)
            epoch = self.gate.epoch(partition)
            outbox = Outbox(self.gate.connections(), partition, self.installation.id, epoch)
            try:
                entries = await outbox.read(state.offset, 1_000, 0)
                if events := [entry for entry in entries if isinstance(entry, Event)]:
                    await self.ledger.persist(partition, state.epoch, state.offset, events)
                    await outbox.trim(events[-1].position.stream_id)
            finally:
                await outbox.close()

    async def lose(self) -> None:
        """Valkey loses everything, and it is rebuilt."""
        await on_every_node(self.gate, ("FLUSHALL",))
        assert await self.recovery.look() == {}


@pytest.fixture
async def world(settings: Settings, ledger: Ledger) -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        installation = await ledger.bootstrap(PARTITIONS)
        gate = await Gate.connect(settings, PARTITIONS)
        stack.push_async_callback(gate.close)
        recovery = Recovery(gate, ledger, installation, Rebuild(gate, ledger, installation.id, settings))
        assert await recovery.look() == {}
        for campaign in (ONE, OTHER):
            definition = a_definition(campaign, limits=LIMITS)
            await publish(gate, ledger, await ledger.create_campaign(campaign, definition, []))
        checkout = Checkout(gate, settings)
        stack.push_async_callback(checkout.close)
        yield World(settings, gate, ledger, installation, recovery, Rig(gate, checkout, []))


async def test_a_redemption_of_several_codes_that_was_decided_gets_all_its_parts(
    world: World, sql: asyncpg.Connection
) -> None:
    rig = world.rig
    for campaign in (ONE, OTHER):
        assert isinstance(await rig.hold(campaign), Held)
    decided = await rig.decide()
    assert isinstance(decided, Redemption)
    await rig.checkout.holds.settle(rig.part(ONE), decided.id)
    await world.persist()  # one part is in the ledger, the other was held only
    await world.lose()
    assert await rig.uses() == [1, 1]
    assert await rig.checkout.redeem(rig.attempt(OTHER)) == Standing(decided.position)
    # Both are full to everybody else, and the second part has an event now.
    for campaign in (ONE, OTHER):
        refused = await rig.checkout.redeem(rig.attempt(campaign, 1))
        assert isinstance(refused, Refusal)
        assert refused.reason is Reason.CAMPAIGN_LIMIT_REACHED
    await world.persist()
    rows = await sql.fetch("select campaign_id, combined_id from redemptions order by 1")
    assert [tuple(row) for row in rows] == [(ONE, decided.id), (OTHER, decided.id)]
    # Nothing is done twice by losing everything again.
    await world.lose()
    assert await rig.uses() == [1, 1]
    assert await sql.fetchval("select count(*) from events where kind = 'redeemed'") == 2


async def test_what_was_held_and_not_decided_is_free_again(world: World) -> None:
    rig = world.rig
    for campaign in (ONE, OTHER):
        assert isinstance(await rig.hold(campaign), Held)
    await world.persist()
    await world.lose()
    assert await rig.uses() == [0, 0]
    assert isinstance(await rig.checkout.redeem(rig.attempt(ONE, 1)), Redemption)


async def test_what_was_never_persisted_is_lost_and_nothing_else_is(world: World) -> None:
    rig = world.rig
    assert isinstance(await rig.checkout.redeem(rig.attempt(ONE)), Redemption)
    await world.persist()
    assert isinstance(await rig.checkout.redeem(rig.attempt(OTHER)), Redemption)
    await world.lose()
    assert await rig.uses() == [1, 0]


async def reserve(world: World, number: int = 0) -> Reservation:
    rig = world.rig
    attempts = [rig.attempt(campaign, number) for campaign in (ONE, OTHER)]
    id_ = new_reservation_id(rig.checkout.home(f"request-{number}"), f"h-{number}")
    held = [
        answer
        for one in attempts
        for answer in await rig.checkout.holds.reserve(Reserve([one.reserved_by(id_)], id_, 60_000))
    ]
    assert all(isinstance(one, Held) for one in held)
    claim = msgspec.structs.replace(rig.combined(number), reservation_id=id_)
    reservation = Reservation(id_, max(one.expire_ms for one in held if isinstance(one, Held)), claim)
    await rig.checkout.holds.note(Note(reservation, "f" * 32, 60_000))
    return reservation


async def test_a_reservation_that_was_being_confirmed_is_confirmed_once(world: World, sql: asyncpg.Connection) -> None:
    rig = world.rig
    reservation = await reserve(world)
    for campaign in (ONE, OTHER):
        part = Part(campaign, rig.attempt(campaign).order_and_code, reservation.id)
        pinned = await rig.checkout.holds.pin(Pin(part, rig.transaction(), rig.checkout.now_ms() + 60_000))
        assert isinstance(pinned, Held)
    decided = await rig.decide(claim=reservation.claim)
    assert isinstance(decided, Redemption)
    await world.persist()
    await world.lose()
    status = await rig.status(OTHER)
    assert (status.redeemed_count, status.held_count, status.held_minor) == (1, 0, 0)
    noted = await rig.checkout.holds.noted(reservation.id)
    assert noted is not None
    assert (noted.reservation, noted.end) == (reservation, Standing(decided.position))
    await world.persist()
    assert await sql.fetchval("select count(*) from redemptions where combined_id = $1", decided.id) == 2


async def test_a_part_whose_hold_never_reached_the_ledger_counts_from_its_redemption(
    world: World, sql: asyncpg.Connection
) -> None:
    rig = world.rig
    reservation = await reserve(world)
    for campaign in (ONE, OTHER):
        part = Part(campaign, rig.attempt(campaign).order_and_code, reservation.id)
        assert isinstance(
            await rig.checkout.holds.pin(Pin(part, rig.transaction(), rig.checkout.now_ms() + 60_000)), Held
        )
    decided = await rig.decide(claim=reservation.claim)
    assert isinstance(decided, Redemption)
    # The decision is in the ledger; of the other partition nothing is, not even that it was held.
    await world.persist((decided.position.partition,))
    await world.lose()
    for campaign in (ONE, OTHER):
        status = await rig.status(campaign)
        assert (status.redeemed_count, status.held_count, status.discount_minor) == (1, 0, 100)
    await world.persist()
    await world.lose()
    for campaign in (ONE, OTHER):
        status = await rig.status(campaign)
        assert (status.redeemed_count, status.held_count, status.discount_minor) == (1, 0, 100)
    assert await sql.fetchval("select count(*) from redemptions where combined_id = $1", decided.id) == 2


async def restart(world: World) -> None:
    """What a restart of Valkey does to its partitions: another process knows nothing of them."""
    await world.gate._execute_all([("SET", Keys(partition).run, "an earlier one") for partition in range(PARTITIONS)])
    await on_every_node(world.gate, ("FUNCTION", "FLUSH"))


async def test_a_restart_opens_again_only_what_the_ledger_holds_all_of(world: World) -> None:
    assert isinstance(await world.rig.checkout.redeem(world.rig.attempt(ONE)), Redemption)
    await restart(world)
    assert await world.recovery.look() == dict.fromkeys(range(PARTITIONS), Finding.AT_OR_AHEAD)
    state = await world.ledger.partition(0)
    outbox = Outbox(world.gate.connections(), 0, world.installation.id, state.epoch)
    try:
        events = await outbox.read(state.offset, 10, 0)
        await world.ledger.persist(0, state.epoch, state.offset, events)  # type: ignore[arg-type]  # they are events
    finally:
        await outbox.close()
    assert await world.recovery.look() == {}
    assert await world.rig.uses() == [1, 0]
    assert [world.gate.epoch(partition) for partition in range(PARTITIONS)] == [2, 2]


async def test_a_restart_without_the_last_moment_redeems_the_parts_that_were_lost_with_it(world: World) -> None:
    rig = world.rig
    for campaign in (ONE, OTHER):
        assert isinstance(await rig.hold(campaign), Held)
    decided = await rig.decide()
    assert isinstance(decided, Redemption)
    await rig.checkout.holds.settle(rig.part(ONE), decided.id)
    await world.persist()
    # The end of the append-only file is cut off: the other's hold with it.
    keys = Keys(1)
    await world.gate._execute_all(
        [("DEL", keys.orders(OTHER), keys.pending), ("HSET", keys.counters(OTHER), "uses", 0, "money", 0, "held", 0)]
    )
    await restart(world)
    assert await world.recovery.look() == {}
    assert await rig.uses() == [1, 1]
    refused = await rig.checkout.redeem(rig.attempt(OTHER, 1))
    assert isinstance(refused, Refusal)
    assert await rig.checkout.redeem(rig.attempt(OTHER)) == Standing(decided.position)


async def test_a_restart_settles_what_is_still_held(world: World) -> None:
    rig = world.rig
    for campaign in (ONE, OTHER):
        assert isinstance(await rig.hold(campaign), Held)
    decided = await rig.decide()
    assert isinstance(decided, Redemption)
    await world.persist()
    await restart(world)
    assert await world.recovery.look() == {}
    for campaign in (ONE, OTHER):
        status = await rig.status(campaign)
        assert (status.redeemed_count, status.held_count, status.held_minor) == (1, 0, 0)
    assert await world.gate._execute(("ZCARD", Keys(1).pending)) == 0


async def test_a_reservation_is_known_again_and_ends_by_its_time(world: World) -> None:
    rig = world.rig
    reservation = await reserve(world)
    await world.persist()
    await world.lose()
    noted = await rig.checkout.holds.noted(reservation.id)
    assert noted is not None
    assert (noted.reservation, noted.end) == (reservation, None)
    assert [(await rig.status(one)).held_count for one in (ONE, OTHER)] == [1, 1]
    part = Part(ONE, rig.attempt(ONE).order_and_code, reservation.id)
    assert isinstance(await rig.checkout.holds.release(part, is_end=True), Gone)
    assert isinstance(await rig.checkout.redeem(rig.attempt(ONE, 1)), Redemption)


async def test_a_rollback_that_was_decided_comes_back_once(world: World, sql: asyncpg.Connection) -> None:
    rig = world.rig
    for campaign in (ONE, OTHER):
        assert isinstance(await rig.hold(campaign), Held)
    decided = await rig.decide()
    assert isinstance(decided, Redemption)
    for campaign in (ONE, OTHER):
        await rig.checkout.holds.settle(rig.part(campaign), decided.id)
    rollback = await roll_back(world, decided)
    back = rollback.claim.codes
    assert await rig.checkout.returns.give_back(msgspec.structs.replace(back[0], rollback_id=rollback.id)) is None
    await world.persist()
    await world.lose()
    assert await rig.uses() == [0, 1]
    (left,) = await world.gate.returning()
    assert left == rollback
    for _ in range(2):
        await give_back(rig.checkout, left)
        assert await rig.uses() == [0, 0]
    assert await world.gate.returning() == []
    await world.persist()
    assert await sql.fetchval("select count(*) from returns") == 2
    # Taking back again finds nothing left.
    assert Kept.from_json(await rig.checkout.returns.rolled(decided.position)) == rollback.claim.kept


async def roll_back(world: World, redeemed: Redemption) -> Rollback:
    rig = world.rig
    codes = tuple(
        ReturnedCode(
            campaign_id=campaign,
            code=campaign.upper(),
            order_id=redeemed.claim.order_id,
            customer_id=redeemed.claim.customer_id,
            redemption_id=redeemed.id,
            discount_minor=100,
            left_minor=0,
            takes=rig.attempt(campaign).claim.takes,
            taken_ms=redeemed.at_ms,
            place=redeemed.id,
            uses=1,
            is_ended=True,
        )
        for campaign in (ONE, OTHER)
    )
    kept = Kept((Left(is_ended=True), Left(is_ended=True)))
    claim = RollbackClaim(
        request_id="back",
        fingerprint="b" * 32,
        redemption_id=redeemed.id,
        order_id=redeemed.claim.order_id,
        currency_code="EUR",
        reason="",
        codes=codes,
        left_minor=0,
        kept=kept,
    )
    rollback = await rig.checkout.returns.roll_back(RollingBack(claim, redeemed.position, b"", kept.to_json()))
    assert isinstance(rollback, Rollback)
    return rollback


async def test_a_pause_that_was_acknowledged_stands(world: World) -> None:
    await States(world.gate).pause(ONE, "stock is gone")
    await world.persist()
    await world.lose()
    status = await world.rig.status(ONE)
    assert (status.campaign.kept, status.pause_reason) == ("paused", "stock is gone")


async def test_one_partition_alone_is_rebuilt_beside_others_that_go_on(world: World) -> None:
    rig = world.rig
    assert isinstance(await rig.checkout.redeem(rig.attempt(ONE)), Redemption)
    assert isinstance(await rig.checkout.redeem(rig.attempt(OTHER)), Redemption)
    await world.persist()
    epochs = [world.gate.epoch(partition) for partition in range(PARTITIONS)]
    await world.gate._execute(("DEL", Keys(0).meta, Keys(0).counters(ONE)))
    with pytest.raises(Unavailable):
        await rig.checkout.redeem(rig.attempt(ONE, 1))
    assert await world.recovery.look() == {}
    assert await rig.uses() == [1, 1]
    assert [world.gate.epoch(partition) for partition in range(PARTITIONS)] == [epochs[0] + 1, epochs[1]]


async def test_4_that_find_it_lost_rebuild_it_once(world: World, sql: asyncpg.Connection) -> None:
    assert isinstance(await world.rig.checkout.redeem(world.rig.attempt(ONE)), Redemption)
    await world.persist()
    gates = [await Gate.connect(world.settings, PARTITIONS) for _ in range(4)]
    rebuilds = [Rebuild(gate, world.ledger, world.installation.id, world.settings) for gate in gates]
    recoveries = [
        Recovery(gate, world.ledger, world.installation, one) for gate, one in zip(gates, rebuilds, strict=True)
    ]
    try:
        await on_every_node(world.gate, ("FLUSHALL",))
        async with asyncio.timeout(20):
            while any(await asyncio.gather(*(recovery.look() for recovery in recoveries))):
                pass
        found = await sql.fetch("select finding, events, events_read, ended_at is not null from recoveries")
        assert [tuple(row) for row in found] == [(Finding.LOST.value, 1, 1, True)]
        assert await world.recovery.look() == {}
        assert await world.rig.uses() == [1, 0]
    finally:
        await asyncio.gather(*(gate.close() for gate in gates))


async def test_who_rebuilds_late_writes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that rebuild the same, as when the first stood still and lost its lock, the later alone writes."""
    await world.ledger.create_campaign("another", a_definition("Another", limits=Limits()), [])
    assert isinstance(await world.rig.checkout.redeem(world.rig.attempt(ONE)), Redemption)
    await world.persist()
    await on_every_node(world.gate, ("FLUSHALL",))
    late = Rebuild(world.gate, world.ledger, world.installation.id, world.settings)
    states = (await world.ledger.installation() or world.installation).partitions
    lost = list(zip(states, await seen(world.gate), strict=True))
    epochs: list[int] = []

    async def stand_still(*args: Any) -> list[int]:
        if not epochs:
            monkeypatch.setattr(rebuild, "open_verified", open_verified)
            assert await world.recovery.look() == {}
            epochs.extend(world.gate.epoch(partition) for partition in range(PARTITIONS))
        return await open_verified(*args)

    monkeypatch.setattr(rebuild, "open_verified", stand_still)
    await late(lost)
    assert await world.recovery.look() == {}
    assert [world.gate.epoch(partition) for partition in range(PARTITIONS)] == epochs
    assert await world.rig.uses() == [1, 0]
