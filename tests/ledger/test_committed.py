"""The contract `ledger`: an answer waits until PostgreSQL holds its event, and takes nothing else for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from tests.ledger.events import EPOCH, PARTITION, SUMMER, redeemed, stream_id
from vouchsafe.domain.errors import Overloaded, Unavailable
from vouchsafe.domain.reasons import Reason, Refusal
from vouchsafe.domain.redemption import STREAM_START, Position
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.service.committed import Committed
from vouchsafe.settings import Settings

NOT_YET = "PostgreSQL has not confirmed in time; the outcome is recorded"


@dataclass(frozen=True)
class Outcome:
    position: Position


def outcome(number: int, epoch: int = EPOCH) -> Outcome:
    return Outcome(Position(PARTITION, epoch, stream_id(number)))


@pytest.fixture(autouse=True)
async def _campaign(ledger: Ledger) -> None:
    await ledger.bootstrap(16)
    await ledger.create_campaign("summer", SUMMER, [])


def committed(ledger: Ledger, **changed: Any) -> Committed:
    return Committed(ledger, Settings(acknowledge="ledger").model_copy(update=changed))


async def has_ended(waiting: asyncio.Task[None]) -> bool:
    """By now, or after more looks than it needs."""
    return bool((await asyncio.wait([waiting], timeout=0.1))[0])


async def test_it_returns_when_its_event_is_there_and_not_before(ledger: Ledger) -> None:
    acknowledgements = committed(ledger)
    waiting = [asyncio.create_task(acknowledgements.wait(outcome(number))) for number in range(50)]
    assert not await has_ended(waiting[0])
    await ledger.persist(PARTITION, EPOCH, STREAM_START, [redeemed(number) for number in range(30)])
    await asyncio.gather(*waiting[:30])
    assert not await has_ended(waiting[30])
    await ledger.persist(PARTITION, EPOCH, stream_id(29), [redeemed(number) for number in range(30, 50)])
    await asyncio.gather(*waiting)
    await acknowledgements.wait(outcome(0))


async def test_what_comes_later_in_another_epoch_says_nothing_of_an_event(
    ledger: Ledger, sql: asyncpg.Connection
) -> None:
    await ledger.persist(PARTITION, EPOCH, STREAM_START, [redeemed(0), redeemed(2)])
    # The event of 3 was lost with the gate, and the partition has gone on without it.
    await sql.execute("update partitions set epoch = 2, offset_ms = offset_ms + 60_000 where partition = $1", PARTITION)
    acknowledgements = committed(ledger, ledger_timeout_ms=500)
    await acknowledgements.wait(outcome(0))
    await acknowledgements.wait(outcome(2))
    with pytest.raises(Unavailable, match=NOT_YET):
        await acknowledgements.wait(outcome(3))
    # Nor does what an earlier epoch has come to say anything of a later one.
    with pytest.raises(Unavailable, match=NOT_YET):
        await acknowledgements.wait(outcome(0, epoch=3))


async def test_a_refusal_and_another_contract_wait_for_nothing(ledger: Ledger) -> None:
    await committed(ledger).wait(Refusal(Reason.CODE_UNKNOWN, "A"))
    for contract in ("gate", "replica"):
        await committed(ledger, acknowledge=contract).wait(outcome(0))


async def test_too_many_are_not_kept_waiting_and_who_leaves_makes_room(ledger: Ledger) -> None:
    acknowledgements = committed(ledger, max_waiting=2)
    waiting = [asyncio.create_task(acknowledgements.wait(outcome(number))) for number in range(2)]
    acknowledgements.check()
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        acknowledgements.check()
    waiting[0].cancel()
    await asyncio.gather(waiting[0], return_exceptions=True)
    acknowledgements.check()
    waiting.append(asyncio.create_task(acknowledgements.wait(outcome(2))))
    await ledger.persist(PARTITION, EPOCH, STREAM_START, [redeemed(number) for number in range(3)])
    await asyncio.gather(*waiting[1:])


async def test_while_nothing_is_confirmed_one_now_and_then_finds_out(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vouchsafe.service.committed.RETRY_S", 60.0)
    acknowledgements = committed(ledger, ledger_timeout_ms=500)
    with pytest.raises(Unavailable, match=NOT_YET):
        await acknowledgements.wait(outcome(0))
    acknowledgements.check()
    with pytest.raises(Unavailable, match="confirms nothing at the moment"):
        acknowledgements.check()
    await ledger.persist(PARTITION, EPOCH, STREAM_START, [redeemed(0)])
    await acknowledgements.wait(outcome(0))
    for _ in range(2):
        acknowledgements.check()


async def test_a_partition_that_nobody_persists_is_in_no_others_way(ledger: Ledger) -> None:
    await ledger.persist(PARTITION, EPOCH, STREAM_START, [redeemed(0)])
    acknowledgements = committed(ledger, ledger_timeout_ms=500)
    elsewhere = Outcome(Position(PARTITION + 1, EPOCH, stream_id(0)))
    waiting = asyncio.create_task(acknowledgements.wait(elsewhere))
    await asyncio.sleep(0)
    await acknowledgements.wait(outcome(0))
    with pytest.raises(Unavailable, match=NOT_YET):
        await waiting
    for _ in range(2):
        acknowledgements.check()


async def test_nobody_asks_postgresql_while_nobody_waits(ledger: Ledger) -> None:
    await ledger.persist(PARTITION, EPOCH, STREAM_START, [redeemed(0)])
    acknowledgements = committed(ledger)
    await acknowledgements.wait(outcome(0))
    async with asyncio.timeout(5):
        while any(task.get_name() == "committed" for task in asyncio.all_tasks()):  # noqa: ASYNC110  # nobody signals
            await asyncio.sleep(0)
    await acknowledgements.wait(outcome(0))
