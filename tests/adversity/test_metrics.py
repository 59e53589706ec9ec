"""What the persister tells Prometheus, and the audit that it runs by itself, while things go wrong."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.grpc.test_combined import create
from tests.grpc.test_planned_changes import PAUSE, after, at, become, update
from tests.service import Service, a_campaign, a_service, an_order, settle, until
from tests.valkeys import client_of
from vouchsafe import app
from vouchsafe.client import CampaignDefinition, Client, Customer, InvalidArgument, Redemption
from vouchsafe.embedded import free_port
from vouchsafe.gate.keys import Keys, partition_of
from vouchsafe.ledger.connection import AUDIT_LOCK, LOCK_SPACE

AUDIT_INTERVAL_MS = 500


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> Iterator[Service]:
    """A service that tells its metrics and audits itself all the time."""
    monkeypatch.setenv("VOUCHSAFE_METRICS_PORT", str(free_port()))
    monkeypatch.setenv("VOUCHSAFE_AUDIT_INTERVAL_MS", str(AUDIT_INTERVAL_MS))
    with a_service(tmp_path, pytestconfig, workers=1) as running:
        yield running


def metrics(service: Service) -> dict[str, float]:
    """By name; of those of partitions the largest, and NaN when one is."""
    address = f"http://{service.settings.host}:{service.settings.metrics_port}/metrics"
    with urllib.request.urlopen(address, timeout=5) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    found: dict[str, list[float]] = {}
    for sample in (sample for family in families for sample in family.samples):
        found.setdefault(sample.name.removeprefix("vouchsafe_"), []).append(sample.value)
    return {name: math.nan if any(map(math.isnan, values)) else max(values) for name, values in found.items()}


async def until_told(service: Service, **wanted: float) -> None:
    """Waits until the metrics have these values, of which NaN is one, too."""

    async def told() -> bool:
        found = await asyncio.to_thread(metrics, service)
        return all(str(float(value)) == str(found[name]) for name, value in wanted.items())

    await until(told)


async def redeem(client: Client, code: str, count: int) -> None:
    for number in range(count):
        assert isinstance(await client.redeem(code, Customer(id="c"), an_order(f"{code}-{number}")), Redemption)


async def last_audit(sql: asyncpg.Connection) -> asyncpg.Record | None:
    return await sql.fetchrow("select * from last_audit")


async def until_audited_again(sql: asyncpg.Connection) -> asyncpg.Record:
    """The first audit that has begun from now on."""
    now = await sql.fetchval("select now()")

    async def audited() -> bool:
        last = await last_audit(sql)
        return last is not None and bool(last["began_at"] > now)

    await until(audited)
    last = await last_audit(sql)
    assert last is not None
    return last


async def test_metrics_tell_what_waits_what_was_moved_and_what_is_away(measured: Service) -> None:
    partitions = measured.settings.partitions
    async with measured.client(timeout_s=30) as client:
        _, code = await a_campaign(client)
        await redeem(client, code, 20)
        await settle(measured.settings)
        await until_told(measured, events_persisted_total=20, outbox_events=0, persister_lag_seconds=0, audit_drift=0)
        await until_told(measured, partitions_open=partitions, partitions_closed=0, events_set_aside=0)

        measured.stop_postgres()
        late = await client.redeem(code, Customer(id="c"), an_order(f"{code}-late"))
        assert isinstance(late, Redemption)
        await until_told(measured, outbox_events=1, events_set_aside=math.nan)

        async def lags() -> bool:
            found = await asyncio.to_thread(metrics, measured)
            return found["persister_lag_seconds"] > 2 and found["outbox_bytes"] > 0

        await until(lags)
        measured.start_postgres()
        await until_told(measured, outbox_events=0, persister_lag_seconds=0, events_persisted_total=21)

        measured.stop_valkey()
        await until_told(measured, partitions_open=0, partitions_closed=partitions, outbox_events=math.nan)
        await until_told(measured, persister_lag_seconds=math.nan)
        measured.start_valkey()
        await until_told(measured, partitions_open=partitions, partitions_closed=0, outbox_events=0)


async def test_planned_changes_that_are_late_or_have_failed_are_told(measured: Service) -> None:
    async with measured.client(timeout_s=30) as client:
        code, end = await create(client), after(3_600)
        await until_told(measured, planned_changes_late_seconds=0, planned_changes_failed=0)
        too_late = update(["start_time"], start_time=end + timedelta(hours=1))
        with pytest.raises(InvalidArgument):
            await client.schedule_campaign(code, end_time=end, planned_changes=[at(after(600), too_late)])
        await client.schedule_campaign(code, planned_changes=[at(after(2), too_late)])
        # From now on it is.
        change = CampaignDefinition()
        change.end_time.FromDatetime(end)
        await client.update_campaign(code, change, update_mask=["end_time"])
        await until_told(measured, planned_changes_late_seconds=0, planned_changes_failed=1)

        await client.schedule_campaign(code, planned_changes=[at(after(2), PAUSE)])
        measured.stop_valkey()

        async def is_late() -> bool:
            return (await asyncio.to_thread(metrics, measured))["planned_changes_late_seconds"] > 1

        await until(is_late)
        measured.start_valkey()
        await until_told(measured, planned_changes_late_seconds=0, planned_changes_failed=1)
        await until(become(client, code, "FAILED", "APPLIED"))


async def test_what_was_set_aside_is_told_by_the_next_persister_too(measured: Service) -> None:
    measured.agrees = False
    outbox = Keys(3).outbox
    with client_of(measured.settings.valkey_url, outbox) as valkey:
        valkey.xadd(outbox, {"no": "event"})
    await until_told(measured, events_set_aside=1)
    assert (await app.status(measured.settings)).set_aside == 1
    await asyncio.to_thread(measured.kill, "persister")

    async def told_again() -> bool:
        try:
            return (await asyncio.to_thread(metrics, measured))["events_set_aside"] == 1
        except OSError:
            return False

    await until(told_again)


async def test_drift_is_found_and_told_without_names(measured: Service) -> None:
    sql = await asyncpg.connect(measured.settings.postgres_url)
    try:
        async with measured.client(timeout_s=30) as client:
            id_, code = await a_campaign(client)
            await redeem(client, code, 3)
        await settle(measured.settings)
        found = await until_audited_again(sql)
        assert (found["campaigns"], found["events"], found["counters_differ"], found["set_aside"]) == (1, 3, 0, 0)
        assert "do not agree" not in measured.said("persist")

        counters = Keys(partition_of(id_, measured.settings.partitions)).counters(id_)
        with client_of(measured.settings.valkey_url, counters) as valkey:
            for step, differ in ((2, 2), (-2, 0)):
                valkey.hincrby(counters, "uses", step)
                valkey.hincrby(counters, f"code:{code}", step)
                found = await until_audited_again(sql)
                assert found["counters_differ"] == differ
                await until_told(measured, audit_drift=differ)
                told = (await app.status(measured.settings)).audit
                assert told is not None
                assert told.agrees == (differ == 0)
        ended_s = found["ended_at"].timestamp()

        async def is_told_when() -> bool:
            told = await asyncio.to_thread(metrics, measured)
            return bool(told["audit_last_success_timestamp_seconds"] > ended_s - 0.001)  # told in whole milliseconds

        await until(is_told_when)
        said = measured.said("persist")
        assert '"counters_differ": 2' in said
        assert code not in said
    finally:
        await sql.close()


async def test_the_audit_goes_on_after_its_stores_were_away(measured: Service) -> None:
    for stop, start in (
        (measured.stop_valkey, measured.start_valkey),
        (measured.stop_postgres, measured.start_postgres),
    ):
        before = measured.said("persist").count('"what": "audit"')
        await asyncio.to_thread(stop)

        async def is_noticed(before: int = before) -> bool:
            return measured.said("persist").count('"what": "audit"') > before

        await until(is_noticed)
        await asyncio.to_thread(start)
        sql = await asyncpg.connect(measured.settings.postgres_url)
        try:
            await until_audited_again(sql)
        finally:
            await sql.close()


async def test_while_somebody_audits_nobody_else_begins(measured: Service) -> None:
    sql = await asyncpg.connect(measured.settings.postgres_url)
    try:
        # Waits for the audit that is under way.
        await sql.execute("select pg_advisory_lock($1, $2)", LOCK_SPACE, AUDIT_LOCK)
        last = await last_audit(sql)
        await asyncio.sleep(4 * AUDIT_INTERVAL_MS / 1000)
        assert await last_audit(sql) == last
        await sql.execute("select pg_advisory_unlock($1, $2)", LOCK_SPACE, AUDIT_LOCK)
        await until_audited_again(sql)
    finally:
        await sql.close()


def test_a_port_that_is_taken_is_said(measured: Service) -> None:
    settings = measured.settings
    with socket.create_server((settings.host, 0)) as taken:
        port = taken.getsockname()[1]
        variables = {"VOUCHSAFE_METRICS_PORT": str(port), "VOUCHSAFE_POSTGRES_URL": settings.postgres_url}
        ran = subprocess.run(
            [sys.executable, "-m", "vouchsafe", "persist"],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ran.returncode == 1
    assert f"cannot tell metrics on 127.0.0.1:{port}" in ran.stderr
