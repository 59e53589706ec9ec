"""Entries of an outbox that cannot be taken over: each is set aside as it is, and all others get to the ledger exactly
once and in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest
import structlog

from tests.adversity.test_damage import vouchsafe_audit
from tests.adversity.test_persister import World, a_world, running, until
from tests.grpc.test_combined import create
from tests.service import Service, an_order, audit, settle
from tests.valkeys import connected
from tests.values import a_claim
from vouchsafe.client import Customer
from vouchsafe.domain.errors import Unavailable
from vouchsafe.domain.redemption import STREAM_START, StreamId
from vouchsafe.embedded import EmbeddedPostgres, EmbeddedValkey
from vouchsafe.gate.keys import Keys, partition_of
from vouchsafe.ledger.migrate import migrate
from vouchsafe.settings import Settings

A_CODE = "HUSH-4711"
GOOD = None  # stands for the next redemption

# Fields, as somebody's slip, a faulty disk or a faulty release could leave them.
POISON: dict[str, Sequence[bytes]] = {
    "no event at all": [b"hello", A_CODE.encode()],
    "without a body": [b"kind", b"redeemed", b"at", b"1", b"campaign", b"summer"],
    "of an unknown kind": [b"kind", A_CODE.encode(), b"at", b"1", b"campaign", b"summer", b"body", b"{}"],
    "at no time": [b"kind", b"redeemed", b"at", b"noon", b"campaign", b"summer", b"body", b"{}"],
    "beyond all time": [b"kind", b"held", b"at", b"9" * 30, b"campaign", b"summer", b"body", b"{}"],
    "not UTF-8": [b"kind", b"held", b"at", b"1", b"campaign", b"summer", b"body", b'{"code": "\xff"}'],
    "no JSON": [b"kind", b"held", b"at", b"1", b"campaign", b"summer", b"body", b"{"],
    "no object": [b"kind", b"held", b"at", b"1", b"campaign", b"summer", b"body", b"[]"],
    "without anything": [b"kind", b"redeemed", b"at", b"1", b"campaign", b"summer", b"body", b"{}"],
    # Only PostgreSQL notices.
    "without what a row needs": [
        *(b"kind", b"redeemed", b"at", b"1", b"campaign", b"summer"),
        *(b"body", b'{"request_id":"r","fingerprint":"f","order_id":"o","code":"%s"}' % A_CODE.encode()),
    ],
    "moving what is no number": [
        *(b"kind", b"held", b"at", b"1", b"campaign", b"summer", b"body", b'{"takes":{"uses":"many"}}')
    ],
    "moving too much": [
        *(b"kind", b"held", b"at", b"1", b"campaign", b"summer", b"body", b'{"takes":{"uses":9223372036854775808}}')
    ],
    "of an epoch to come": [
        *(b"kind", b"held", b"epoch", b"2", b"at", b"1", b"campaign", b"summer"),
        *(b"body", a_claim().to_json()[:-1] + b',"expire_ms":9}'),
    ],
    "held until nobody knows when": [
        *(b"kind", b"held", b"epoch", b"1", b"at", b"1", b"campaign", b"summer", b"body", a_claim().to_json())
    ],
    "what no rebuild could read": [b"kind", b"reserved", b"at", b"1", b"campaign", b"", b"body", b"{}"],
    "what no query could read": [
        *(b"kind", b"combined", b"at", b"1", b"campaign", b""),
        *(b"body", b'{"request_id":"r","fingerprint":"f","applied":7}'),
    ],
    "a NUL in the campaign": [b"kind", b"held", b"at", b"1", b"campaign", b"sum\0mer", b"body", b"{}"],
    "a pause without a reason": [b"kind", b"paused", b"at", b"1", b"campaign", b"summer", b"body", b"{}"],
    "nested without end": [
        *(b"kind", b"held", b"at", b"1", b"campaign", b"summer"),
        *(b"body", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ],
    "too long for an index": [
        *(b"kind", b"redeemed", b"at", b"1", b"campaign", b"summer"),
        *(b"body", a_claim(campaign_id=os.urandom(4_000).hex()).to_json()),
    ],
}
NO_EVENT = POISON["no event at all"]
REJECTED = POISON["without what a row needs"]


@pytest.fixture
async def world(settings: Settings) -> AsyncIterator[World]:
    async with a_world(settings) as made:
        yield made


async def record(world: World, entries: Sequence[Sequence[bytes] | None], partition: int = 1) -> None:
    """Redemptions, and poison between them."""
    for entry in entries:
        if entry is not GOOD:
            await world.enter([("XADD", Keys(partition).outbox, "*", *entry)])
        else:
            await world.record(1, partitions=[partition])


async def offset_of(postgres: EmbeddedPostgres) -> StreamId:
    connection = await asyncpg.connect(postgres.url)
    try:
        row = await connection.fetchrow("select offset_ms, offset_seq from partitions where partition = 1")
        assert row is not None
        return StreamId(*row)
    finally:
        await connection.close()


async def assert_set_aside(world: World, *poison: Sequence[bytes]) -> None:
    """Just these were set aside, as they were and in their order, and everything else has settled."""
    await world.assert_settled()
    connection = await asyncpg.connect(world.settings.postgres_url)
    try:
        rows = await connection.fetch("select * from set_aside order by partition, epoch, ms, seq")
    finally:
        await connection.close()
    assert [row["fields"] for row in rows] == [list(fields) for fields in poison]
    assert all(row["reason"] and A_CODE not in row["reason"] for row in rows)


@pytest.mark.parametrize("name", POISON)
async def test_whatever_it_is_it_is_set_aside_and_what_follows_goes_on(world: World, name: str) -> None:
    await record(world, [GOOD, POISON[name], GOOD])
    with structlog.testing.capture_logs() as lines:
        async with running(world.persister()):
            await assert_set_aside(world, POISON[name])
            await record(world, [GOOD])
            await assert_set_aside(world, POISON[name])
    errors = [line for line in lines if line["log_level"] == "error"]
    assert len(errors) == 1
    assert errors[0]["entry"].startswith("r01-1-")
    assert A_CODE not in str(lines)


@pytest.mark.parametrize("poison", [NO_EVENT, REJECTED], ids=["unreadable", "rejected"])
@pytest.mark.parametrize(
    "places", [(0,), (6,), (3,), (0, 3, 6), (2, 3), range(7)], ids=["first", "last", "middle", "some", "side", "all"]
)
async def test_wherever_it_stands_the_rest_of_its_batch_is_written(
    world: World, poison: Sequence[bytes], places: Sequence[int]
) -> None:
    await record(world, [poison if number in places else GOOD for number in range(7)])
    async with running(world.persister()):
        await assert_set_aside(world, *[poison] * len(places))


async def test_alone_it_is_set_aside(world: World) -> None:
    async with running(world.persister()):
        for count in (1, 2):
            await record(world, [REJECTED])
            await assert_set_aside(world, *[REJECTED] * count)


async def test_many_among_many_in_every_partition(world: World) -> None:
    expected: list[Sequence[bytes]] = []
    for partition in range(4):
        for poison in (NO_EVENT, REJECTED):
            await world.record(300, partitions=[partition])
            await record(world, [poison, GOOD, poison], partition)
            expected += [poison, poison]
        await world.record(300, partitions=[partition])
    async with running(world.persister(), world.persister()):
        await assert_set_aside(world, *expected)


async def test_killed_after_setting_aside_nothing_is_set_aside_twice(world: World) -> None:
    await record(world, [GOOD, REJECTED, GOOD, NO_EVENT, GOOD])
    for _ in range(2):
        # It dies at its first trim: of what it has moved, then of what its predecessor had moved.
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.adversity.test_persister",
            env=os.environ
            | {
                "VOUCHSAFE_VALKEY_URL": world.settings.valkey_url,
                "VOUCHSAFE_POSTGRES_URL": world.settings.postgres_url,
            },
        )
        assert await child.wait() == -signal.SIGKILL
        assert await world.gate.waiting_events() == 5
    async with running(world.persister()):
        await assert_set_aside(world, REJECTED, NO_EVENT)


async def test_killed_while_it_halves_every_entry_is_moved_once(
    own_valkey: EmbeddedValkey, own_postgres: EmbeddedPostgres
) -> None:
    await migrate(own_postgres.url, 5_000)
    settings = Settings(
        valkey_url=own_valkey.url, postgres_url=own_postgres.url, ledger_timeout_ms=1_000, persist_batch=500
    )
    async with a_world(settings) as world:
        for _ in range(40):
            await record(world, [GOOD, REJECTED])
            await world.record(20, partitions=[1])
        offset = STREAM_START
        async with running(world.persister()):
            for _ in range(3):

                async def goes_on(before: StreamId = offset) -> bool:
                    with contextlib.suppress(Unavailable):
                        return (await world.ledger.partition(1)).offset > before
                    return False

                await until(goes_on, "nothing is moved")
                await asyncio.to_thread(own_postgres.kill)
                await asyncio.to_thread(own_postgres.start)
                offset = await offset_of(own_postgres)
            assert await world.gate.waiting_events() > 0, "too few events for this machine"
            await assert_set_aside(world, *[REJECTED] * 40)


async def test_a_ledger_that_is_away_is_no_reason_to_set_anything_aside(
    own_valkey: EmbeddedValkey, own_postgres: EmbeddedPostgres
) -> None:
    await migrate(own_postgres.url, 5_000)
    settings = Settings(valkey_url=own_valkey.url, postgres_url=own_postgres.url, ledger_timeout_ms=500)
    async with a_world(settings) as world:
        connection = await asyncpg.connect(own_postgres.url)
        async with running(world.persister()):
            # It answers, but cannot do it now: somebody holds the table.
            async with connection.transaction():
                await connection.execute("lock table events in access exclusive mode")
                await record(world, [GOOD] * 20)
                await asyncio.sleep(1.5)
            await connection.close()
            await assert_set_aside(world)


async def test_an_audit_goes_on_and_names_what_was_set_aside(own_service: Service) -> None:
    own_service.agrees = False
    async with own_service.client(timeout_s=30) as client:
        code = await create(client)
        outbox = Keys(partition_of(code, own_service.settings.partitions)).outbox
        with own_service.frozen("persist"):
            poison = (NO_EVENT, POISON["no JSON"], POISON["moving what is no number"])
            async with connected(own_service.settings.valkey_url) as valkey:
                replies = await valkey.execute([("XADD", outbox, "*", *fields) for fields in poison])
            assert all(isinstance(reply, bytes) for reply in replies)
            await client.redeem(code, Customer(id="c"), an_order(code))
            found = await audit(own_service)
            assert found.agrees, found
            assert found.events >= 1
    await settle(own_service.settings)
    for found in (await audit(own_service), await audit(own_service, code)):
        assert not found.agrees
        assert (found.differing, found.set_aside, len(found.entries_set_aside)) == (0, 3, 3)
        assert found.entries_set_aside[0].reason == "a field is missing: kind"
    ran = await asyncio.to_thread(vouchsafe_audit, own_service)
    assert ran.returncode == 4, ran.stderr
    heading, first, *_, verdict = ran.stdout.splitlines()
    assert heading.strip().split(maxsplit=3) == ["partition", "epoch", "entry", "set aside because"]
    assert first.strip().endswith("a field is missing: kind")
    assert verdict.endswith("3 events set aside")
    assert A_CODE not in ran.stdout + own_service.said("persist")
    assert own_service.said("persist").count("was set aside") == 3
