"""After a start and after a crash: what may be opened is opened, and what the gate lacks is published."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
import structlog

from tests.ledger.events import SUMMER
from tests.opened import INSTALLATION, seen
from tests.valkeys import on_every_node
from tests.values import a_claim, attempt_of
from vouchsafe.domain.campaign import Campaign, CodeEntry
from vouchsafe.domain.errors import Unavailable
from vouchsafe.domain.partitions import Finding
from vouchsafe.domain.redemption import Redemption, StreamId
from vouchsafe.embedded import EmbeddedPostgres
from vouchsafe.gate.checkout import Checkout
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.keys import Keys
from vouchsafe.gate.outbox import Outbox
from vouchsafe.gate.states import States
from vouchsafe.ledger.ledger import Installation, Ledger
from vouchsafe.ledger.migrate import migrate
from vouchsafe.service.publish import publish, reconcile_forever, republish
from vouchsafe.service.recover import Recovery
from vouchsafe.settings import Settings

PARTITIONS = 4


@pytest.fixture
async def installation(ledger: Ledger) -> Installation:
    return await ledger.bootstrap(PARTITIONS)


@pytest.fixture
async def gate(settings: Settings) -> AsyncIterator[Gate]:
    connected = await Gate.connect(settings, PARTITIONS)
    try:
        yield connected
    finally:
        await connected.close()


async def create(ledger: Ledger, campaign_id: str, codes: int = 1) -> Campaign:
    entries = [CodeEntry(f"{campaign_id}-{number}".upper(), campaign_id, None) for number in range(codes)]
    return await ledger.create_campaign(campaign_id, SUMMER, entries)


async def redeem(gate: Gate, settings: Settings, campaign: Campaign) -> None:
    claim = a_claim(campaign_id=campaign.id)
    checkout = Checkout(gate, settings)
    try:
        assert isinstance(await checkout.redeem(attempt_of(claim)), Redemption)
    finally:
        await checkout.close()


async def used(gate: Gate, campaign: Campaign) -> int | None:
    (status,) = await gate.describe([campaign.id])
    return status.redeemed_count if status else None


async def test_new_partitions_are_opened_and_found_open_from_then_on(
    ledger: Ledger, gate: Gate, installation: Installation, settings: Settings
) -> None:
    assert await Recovery(gate, ledger, installation).look() == {}
    found = await ledger.installation()
    assert found is not None
    assert all(state.opened and state.epoch == 1 for state in found.partitions)
    restarted = await Gate.connect(settings, PARTITIONS)
    try:
        assert await Recovery(restarted, ledger, found).look() == {}
        assert await ledger.installation() == found
    finally:
        await restarted.close()


async def test_4_starting_at_once_open_everything_once(
    ledger: Ledger, installation: Installation, settings: Settings
) -> None:
    gates = [await Gate.connect(settings, PARTITIONS) for _ in range(4)]
    recoveries = [Recovery(gate, ledger, installation) for gate in gates]
    try:
        async with asyncio.timeout(10):
            while any(await asyncio.gather(*(recovery.look() for recovery in recoveries))):
                pass
        assert {state.epoch for state in (await ledger.installation() or installation).partitions} == {1}
    finally:
        await asyncio.gather(*(gate.close() for gate in gates))


async def test_a_process_that_died_between_opening_and_noting_it_is_made_up_for(
    ledger: Ledger, gate: Gate, installation: Installation
) -> None:
    assert await gate.open_partition((await seen(gate))[2], installation.id, 1, [], {})
    assert await Recovery(gate, ledger, installation).look() == {}
    assert (await ledger.partition(2)).opened


async def test_a_partition_whose_data_is_gone_stays_closed_until_it_is_rebuilt(
    ledger: Ledger, gate: Gate, installation: Installation
) -> None:
    recovery = Recovery(gate, ledger, installation)
    assert await recovery.look() == {}
    await gate._execute(("DEL", Keys(1).meta))
    assert await recovery.look() == {1: Finding.LOST}
    await on_every_node(gate, ("FLUSHALL",))
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            assert await recovery.look() == dict.fromkeys(range(PARTITIONS), Finding.LOST)
    # Said once, though it is looked at all the time.
    assert [line["partitions"] for line in lines] == [[0, 1, 2, 3]]


async def test_a_valkey_of_another_installation_stays_closed(
    ledger: Ledger, gate: Gate, installation: Installation
) -> None:
    assert await gate.open_partition((await seen(gate))[3], INSTALLATION, 1, [], {})
    with structlog.testing.capture_logs() as lines:
        assert await Recovery(gate, ledger, installation).look() == {3: Finding.FOREIGN}
    assert [(line["log_level"], line["partitions"]) for line in lines] == [("error", [3])]
    assert "VOUCHSAFE_VALKEY_URL" in lines[0]["what_to_do"]
    assert not (await ledger.partition(3)).opened


async def test_a_ledger_that_lacks_what_it_once_held_stays_closed(
    ledger: Ledger, gate: Gate, installation: Installation, sql: asyncpg.Connection
) -> None:
    recovery = Recovery(gate, ledger, installation)
    assert await recovery.look() == {}
    outbox = Outbox(gate.connections(), 2, installation.id, 1)
    try:
        await outbox.trim(StreamId(17, 4))
    finally:
        await outbox.close()
    assert await recovery.look() == {2: Finding.LEDGER_BEHIND}
    await sql.execute("update partitions set offset_ms = 17, offset_seq = 4 where partition = 2")
    # The stream of this gate never got that far, so it has lost something itself.
    assert await recovery.look() == {2: Finding.LOST}


async def test_while_the_ledger_is_away_what_is_open_stays_open(
    own_postgres: EmbeddedPostgres, valkey_url: str
) -> None:
    await migrate(own_postgres.url, 5_000)
    settings = Settings(valkey_url=valkey_url, postgres_url=own_postgres.url)
    ledger = await Ledger.connect(settings.postgres_url, pool_size=1, timeout_ms=1_000)
    gate = await Gate.connect(settings, PARTITIONS)
    try:
        recovery = Recovery(gate, ledger, await ledger.bootstrap(PARTITIONS))
        assert await recovery.look() == {}
        own_postgres.stop()
        assert await recovery.look() == {}
        await on_every_node(gate, ("FUNCTION", "FLUSH"))
        assert await recovery.look() == {}  # the very process that was verified
        await gate._execute(("DEL", Keys(0).meta))
        assert await recovery.look() == {0: Finding.LOST}
    finally:
        await gate.close()
        await ledger.close()


async def test_a_crash_between_ledger_and_gate_is_repaired(
    ledger: Ledger, gate: Gate, installation: Installation, settings: Settings
) -> None:
    await Recovery(gate, ledger, installation).look()
    campaign = await create(ledger, "summer", codes=2_500)
    assert await republish(gate, ledger) == 1
    assert await republish(gate, ledger) == 0
    assert await used(gate, campaign) == 0
    checkout = Checkout(gate, settings)
    try:
        found = await asyncio.gather(*(checkout.resolve(f"SUMMER-{number}") for number in range(2_500)))
    finally:
        await checkout.close()
    assert [entry.campaign_id if entry else None for entry in found] == ["summer"] * 2_500


async def test_publishing_again_and_at_once_changes_nothing(
    ledger: Ledger, gate: Gate, installation: Installation, settings: Settings, sql: asyncpg.Connection
) -> None:
    await Recovery(gate, ledger, installation).look()
    campaign = await create(ledger, "summer")
    await publish(gate, ledger, campaign)
    await redeem(gate, settings, campaign)
    await States(gate).pause(campaign.id, "over")
    await sql.execute("update campaigns set published_version = 0")
    await asyncio.gather(*(republish(gate, ledger) for _ in range(4)))
    (status,) = await gate.describe([campaign.id])
    assert status is not None
    assert (status.redeemed_count, status.campaign.kept, status.pause_reason) == (1, "paused", "over")
    assert await ledger.unpublished(9) == []


async def test_a_closed_partition_holds_up_no_other(ledger: Ledger, gate: Gate, installation: Installation) -> None:
    await Recovery(gate, ledger, installation).look()
    campaigns = [await create(ledger, f"c-{number}", codes=0) for number in range(20)]
    behind = {campaign.id for campaign in campaigns if gate.partition_of(campaign.id) == 1}
    assert 0 < len(behind) < 20
    await gate._execute(("DEL", Keys(1).meta))
    assert await Recovery(gate, ledger, installation).look() == {1: Finding.LOST}
    with pytest.raises(Unavailable):
        await republish(gate, ledger)
    assert {campaign.id for campaign in await ledger.unpublished(99)} == behind


async def test_the_reconciler_waits_for_what_is_closed_and_says_so_once(
    ledger: Ledger, gate: Gate, installation: Installation
) -> None:
    campaign = await create(ledger, "summer")
    stop = asyncio.Event()
    with structlog.testing.capture_logs() as lines:
        reconciling = asyncio.create_task(reconcile_forever(gate, ledger, stop, interval_s=0.01))
        await asyncio.sleep(0.2)
        assert await ledger.unpublished(9) == [campaign]
        await Recovery(gate, ledger, installation).look()
        async with asyncio.timeout(5):
            # Noted in the ledger first, then in the log.
            while await ledger.unpublished(9) or len(lines) < 3:  # noqa: ASYNC110  # the ledger tells nobody
                await asyncio.sleep(0.01)
            stop.set()
            await reconciling
    assert await used(gate, campaign) == 0
    assert [line["event"] for line in lines] == ["waiting", "published what the gate lacked", "going on"]
