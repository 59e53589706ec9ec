"""Stores that were damaged on purpose, one kind at a time: the audit finds it and names it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from tests.grpc.test_combined import create
from tests.service import Service, a_service, an_order, audit, settle
from tests.valkeys import connected
from vouchsafe.client import Client, Customer, Redemption, Rollback
from vouchsafe.domain.audit import CounterDiffers, RowsDiffer
from vouchsafe.gate.connections import Connections
from vouchsafe.gate.keys import Keys, partition_of


class Damaged:
    """One campaign with a bit of everything, and the means to damage it. Other campaigns stay whole."""

    def __init__(self, service: Service, client: Client, code: str, sql: asyncpg.Connection, gate: Connections) -> None:
        self.service = service
        self.client = client
        self.code = code
        self.sql = sql
        self._gate = gate
        self._keys = Keys(partition_of(code, service.settings.partitions))

    @property
    def counters(self) -> str:
        return self._keys.counters(self.code)

    async def gate(self, *command: str | int) -> Any:
        (reply,) = await self._gate.execute([command])
        return reply

    async def change(self, statement: str, *args: object) -> None:
        """What the ledger itself refuses."""
        async with self.sql.transaction():
            await self.sql.execute("alter table events disable trigger append_only")
            assert await self.sql.execute(statement, *args) != "DELETE 0"
            await self.sql.execute("alter table events enable trigger append_only")

    async def found(self) -> tuple[list[CounterDiffers], list[RowsDiffer]]:
        """What an audit of the campaign finds, without its id."""
        await settle(self.service.settings)
        report = await audit(self.service, self.code)
        assert report.differing == len(report.counters_differ)
        assert report.agrees == (not report.counters_differ and not report.rows_differ)
        assert {one.campaign_id for one in report.counters_differ} <= {self.code}
        assert {one.campaign_id for one in report.rows_differ} <= {self.code}
        return report.counters_differ, report.rows_differ

    async def counters_found(self) -> dict[str, tuple[str, str]]:
        """The counters that differ, gate and book."""
        counters, rows = await self.found()
        assert rows == []
        return {one.counter: (one.gate, one.book) for one in counters}


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Service]:
    with a_service(tmp_path_factory.mktemp("victim"), pytestconfig, workers=1) as running:
        yield running


@pytest.fixture
async def damaged(victim: Service) -> AsyncIterator[Damaged]:
    async with _connections(victim) as (client, sql, gate):
        limits = {"distinct_customers": 9, "windows": [{"window": "3600s", "uses": 9}]}
        code = await create(client, limits=limits)
        for number in range(3):
            outcome = await client.redeem(code, Customer(id=f"c-{number}"), an_order(f"{code}-{number}"))
            assert isinstance(outcome, Redemption)
            if number == 2:
                assert isinstance(await client.roll_back(outcome.id), Rollback)
        await client.reserve([code], Customer(id="c-0"), an_order(f"{code}-held"))
        made = Damaged(victim, client, code, sql, gate)
        assert await made.found() == ([], [])
        yield made


@asynccontextmanager
async def _connections(service: Service) -> AsyncIterator[tuple[Client, asyncpg.Connection, Connections]]:
    sql = await asyncpg.connect(service.settings.postgres_url)
    try:
        async with service.client(timeout_s=30) as client, connected(service.settings.valkey_url) as gate:
            yield client, sql, gate
    finally:
        await sql.close()


async def _raise_by_hand(one: Damaged) -> dict[str, tuple[str, str]]:
    await one.gate("HINCRBY", one.counters, "customer:c-1", 2)
    return {"customer:c-1": ("3", "1")}


async def _lower_by_hand(one: Damaged) -> dict[str, tuple[str, str]]:
    await one.gate("HINCRBY", one.counters, "uses", -1)
    return {"uses": ("2", "3")}


async def _take_one_away(one: Damaged) -> dict[str, tuple[str, str]]:
    await one.gate("HDEL", one.counters, "money")
    return {"money": ("0", "1500")}


async def _invent_one(one: Damaged) -> dict[str, tuple[str, str]]:
    await one.gate("HSET", one.counters, "customer:nobody", 1, "~nonsense", "a b", "?nobody", "many")
    return {"customer:nobody": ("1", "0"), "~nonsense": ("a b", "0"), "?nobody": ("many", "0")}


async def _leave_something_held(one: Damaged) -> dict[str, tuple[str, str]]:
    await one.gate("HSET", one.counters, "held", 2, "held_money", 1_000)
    return {"held": ("2", "1"), "held_money": ("1000", "500")}


async def _miscount_customers(one: Damaged) -> dict[str, tuple[str, str]]:
    await one.gate("HINCRBY", one.counters, "?distinct", 1)
    return {"?distinct": ("3", "2")}


async def _forget_a_moment(one: Damaged) -> dict[str, tuple[str, str]]:
    window = "~3600000:c-0"
    before = (await one.gate("HGET", one.counters, window)).decode()
    after = before.split(" ")[1]
    await one.gate("HSET", one.counters, window, after)
    return {window: (after, before)}


@pytest.mark.parametrize(
    "damage",
    [
        _raise_by_hand,
        _lower_by_hand,
        _take_one_away,
        _invent_one,
        _leave_something_held,
        _miscount_customers,
        _forget_a_moment,
    ],
    ids=lambda damage: damage.__name__.strip("_"),
)
async def test_a_wrong_counter_is_named(
    damaged: Damaged, damage: Callable[[Damaged], Awaitable[dict[str, tuple[str, str]]]]
) -> None:
    expected = await damage(damaged)
    assert await damaged.counters_found() == expected


async def test_a_lost_event_is_named(damaged: Damaged) -> None:
    await settle(damaged.service.settings)
    code = damaged.code
    (at_ms,) = (await damaged.gate("HGET", damaged.counters, "~3600000:c-1")).decode().split(" ")
    lost = "delete from events where campaign_id = $1 and kind = 'redeemed' and body ->> 'customer_id' = 'c-1'"
    await damaged.change(lost, code)
    counters, rows = await damaged.found()
    assert {one.counter: (one.gate, one.book) for one in counters} == {
        f"code:{code.upper()}": ("3", "2"),
        "customer:c-1": ("1", "0"),
        "~3600000:c-1": (at_ms, ""),
        "uses": ("3", "2"),
        "distinct:c-1": ("1", "0"),
        "?distinct": ("2", "1"),
        "money": ("1500", "1000"),
    }
    assert rows == [RowsDiffer(code, "redemptions", 3, 2)]


@pytest.mark.parametrize("table", ["redemptions", "returns"])
async def test_a_lost_row_is_named(damaged: Damaged, table: str) -> None:
    await settle(damaged.service.settings)
    rows = await damaged.sql.fetchval(f"select count(*) from {table} where campaign_id = $1", damaged.code)  # noqa: S608
    await damaged.change(f"delete from {table} where campaign_id = $1", damaged.code)  # noqa: S608
    assert await damaged.found() == ([], [RowsDiffer(damaged.code, table, 0, rows)])


async def test_a_lost_campaign_is_named_and_the_rest_only_counted(damaged: Damaged) -> None:
    outcomes = await asyncio.gather(
        *(
            damaged.client.redeem(damaged.code, Customer(id="c-0"), an_order(f"{damaged.code}-x{number}"))
            for number in range(6)
        )
    )
    assert any(isinstance(outcome, Redemption) for outcome in outcomes)
    many = [word for number in range(400) for word in (f"customer:by-hand-{number:03}", "1")]
    await damaged.gate("HSET", damaged.counters, *many)
    await settle(damaged.service.settings)
    report = await audit(damaged.service, damaged.code)
    # Read in several goes.
    assert report.counters > 400
    assert (report.differing, len(report.counters_differ)) == (400, 100)
    await damaged.gate("DEL", damaged.counters)
    report = await audit(damaged.service, damaged.code)
    assert {"uses", "money", "customer:c-0", "?distinct", "held"} <= {one.counter for one in report.counters_differ}
    assert {one.gate for one in report.counters_differ} <= {"0", ""}


async def test_the_command_says_what_differs_by_its_status_too(damaged: Damaged) -> None:
    await damaged.gate("HINCRBY", damaged.counters, "uses", 4)
    await settle(damaged.service.settings)
    ran = await asyncio.to_thread(vouchsafe_audit, damaged.service, "--campaign", damaged.code)
    assert ran.returncode == 4, ran.stderr
    heading, row, verdict = ran.stdout.splitlines()
    assert heading.split() == ["campaign", "counter", "Valkey", "PostgreSQL"]
    assert row.split() == [damaged.code, "uses", "7", "3"]
    assert verdict.startswith("1 campaign, ")
    assert verdict.endswith("1 counter does not agree")
    ran = await asyncio.to_thread(vouchsafe_audit, damaged.service, "--campaign", damaged.code, "--json")
    assert ran.returncode == 4
    told = json.loads(ran.stdout)
    assert (told["agrees"], told["differing"]) == (False, 1)
    assert told["counters_differ"] == [
        {"campaign_id": damaged.code, "counter": "uses", "gate": "7", "book": "3"},
    ]


async def test_a_gate_that_was_emptied_does_not_agree(own_service: Service) -> None:
    async with own_service.client(timeout_s=30) as client:
        code = await create(client)
        await client.redeem(code, Customer(id="c"), an_order(code))
    await settle(own_service.settings)
    with own_service.frozen("persist"):
        await own_service.flush_valkey()
        found = await audit(own_service)
        assert found.closed == list(range(own_service.settings.partitions))
        ran = await asyncio.to_thread(vouchsafe_audit, own_service)
    assert ran.returncode == 4
    assert "partition 0 is closed" in ran.stdout


def vouchsafe_audit(service: Service, *args: str) -> subprocess.CompletedProcess[str]:
    variables = {
        "VOUCHSAFE_VALKEY_URL": service.settings.valkey_url,
        "VOUCHSAFE_POSTGRES_URL": service.settings.postgres_url,
    }
    command = [sys.executable, "-m", "vouchsafe", "audit", *args]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=60, check=False)
