"""How fast an emptied Valkey is rebuilt from the ledger, and how much memory that takes.

    python -m benchmarks.rebuild [redemptions]

Two million redemptions by default, each of a customer and an order of its own, a tenth of them young enough that their
requests are remembered. Reading alone (from PostgreSQL, and adding up) is measured first, then the whole.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import asyncpg
import uvloop
from rich.console import Console

from vouchsafe.domain.campaign import Definition
from vouchsafe.domain.effects import Effect, PercentOff
from vouchsafe.embedded import EmbeddedPostgres, EmbeddedValkey, free_port
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.keys import partition_of
from vouchsafe.ledger.history import History
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.ledger.migrate import migrate
from vouchsafe.service.rebuild import Rebuild
from vouchsafe.service.recover import Recovery
from vouchsafe.service.replay import Replay
from vouchsafe.settings import Settings

REDEMPTIONS = 2_000_000
CAMPAIGNS = 32
YOUNG_SHARE = 0.1

# Written as the persister does, but for the way there: a million rows a minute would take longer than what is measured.
FILL = """
with told as (
    select
        n, $1::smallint as partition, $2::text as campaign_id,
        (extract(epoch from now()) * 1000)::bigint - 172800000
            + (n * (172800000.0 * (case when n < $4 * (1 - {young}) then 0.49 / (1 - {young}) else 1 end) / $4))::bigint
            as ms
    from generate_series($3::integer, $3::integer + $4::integer - 1) as n
)
insert into events (partition, epoch, ms, seq, at, kind, campaign_id, body)
select
    partition, 1, ms, n, to_timestamp(ms / 1000.0), 'redeemed', campaign_id,
    json_build_object(
        'request_id', gen_random_uuid(), 'fingerprint', md5(n::text), 'campaign_id', campaign_id,
        'campaign_version', 1, 'code', upper(campaign_id), 'customer_id', campaign_id || '-customer-' || n,
        'order_id', campaign_id || '-order-' || n, 'currency_code', 'EUR', 'order_amount_minor', 5000,
        'discount', json_build_object('desired_minor', 500, 'applied_minor', 500),
        'takes', json_build_object(
            'code:' || upper(campaign_id), 1, 'customer:' || campaign_id || '-customer-' || n, 1, 'uses', 1,
            'money', 500
        )
    )
from told
"""


async def fill(settings: Settings, ledger: Ledger, redemptions: int) -> None:
    """Campaigns, each with its share of the redemptions, in an installation that has sold them all."""
    definition = Definition(display_name="Sale", effects=(Effect(kind=PercentOff(basis_points=1_000)),))
    each = redemptions // CAMPAIGNS
    connection = await asyncpg.connect(settings.postgres_url)
    try:
        await connection.execute("set synchronous_commit = off")
        for number in range(CAMPAIGNS):
            campaign = f"sale-{number}"
            await ledger.create_campaign(campaign, definition, [])
            partition = partition_of(campaign, settings.partitions)
            await connection.execute(FILL.format(young=YOUNG_SHARE), partition, campaign, number * each, each)
        await connection.execute(
            "update partitions as p set opened_at = now(), offset_ms = e.ms, offset_seq = e.seq from ("
            "select distinct on (partition) partition, ms, seq from events order by partition, ms desc, seq desc"
            ") as e where e.partition = p.partition"
        )
        await connection.execute("update partitions set opened_at = now()")
        await connection.execute("vacuum analyze events")
    finally:
        await connection.close()


async def read(settings: Settings) -> float:
    """Events a second that are read and added up."""
    started, count = time.monotonic(), 0
    async with History.open(settings.postgres_url, settings.ledger_timeout_ms) as history:
        for partition in range(settings.partitions):
            replay = Replay(
                partition,
                settings.partitions,
                range(settings.partitions),
                (),
                ttl_ms=settings.request_ttl_ms,
                now_ms=int(time.time() * 1000),
            )
            async for rows in history.events(partition):
                replay.read(rows)
                count += len(rows)
    return count / (time.monotonic() - started)


async def rebuild(settings: Settings, ledger: Ledger) -> float:
    """Seconds from an empty Valkey to one that is open."""
    installation = await ledger.bootstrap(settings.partitions)
    gate = await Gate.connect(settings, settings.partitions)
    try:
        recovery = Recovery(gate, ledger, installation, Rebuild(gate, ledger, installation.id, settings))
        started = time.monotonic()
        assert await recovery.look() == {}
        return time.monotonic() - started
    finally:
        await gate.close()


async def main(redemptions: int) -> None:
    """Prints what was measured."""
    with (
        tempfile.TemporaryDirectory(prefix="vouchsafe-bench-") as directory,
        EmbeddedValkey(Path(directory) / "valkey", free_port()) as valkey,
        EmbeddedPostgres(Path(directory) / "postgres", free_port()) as postgres,
    ):
        settings = Settings(valkey_url=valkey.url, postgres_url=postgres.url)
        await migrate(settings.postgres_url, 30_000)
        ledger = await Ledger.connect(settings.postgres_url, pool_size=2, timeout_ms=30_000)
        try:
            await ledger.bootstrap(settings.partitions)
            await fill(settings, ledger, redemptions)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            reading = await read(settings)
            took_s = await rebuild(settings, ledger)
            after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            say = Console().print
            say(f"read and added up   {reading:12,.0f} redemptions/s")
            say(f"rebuilt             {redemptions / took_s:12,.0f} redemptions/s, {took_s:.1f} s in all")
            say(f"memory              {(after - before) / 1024:12,.0f} MiB more at most than before")
        finally:
            await ledger.close()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else REDEMPTIONS))
