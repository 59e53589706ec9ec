"""The fast way in: campaigns and codes entered into Valkey as a publisher and a persister would, without a ledger of
them."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis

from vouchsafe.domain.campaign import Campaign, CodeEntry, Definition
from vouchsafe.domain.codes import CodeForm
from vouchsafe.gate.directory import Directory
from vouchsafe.gate.gate import Gate
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.settings import Settings

PER_CALL = 10_000
AT_ONCE = 64
TIMEOUT_MS = 60_000


async def enter_codes(settings: Settings, campaign_id: str, count: int, use_limit: int, share: float) -> list[str]:
    """Enters so many codes of a campaign that exists; answers so large a share of them, taken by chance."""
    kept: list[str] = []
    async with _opened(settings) as gate:
        directory = Directory(gate)
        for done in range(0, count, PER_CALL):
            codes = CodeForm().draw(min(PER_CALL, count - done))
            await directory.put([CodeEntry(code, campaign_id, use_limit) for code in codes])
            kept += random.sample(codes, round(len(codes) * share))
    # Valkey may be writing its file anew, and that would be measured as well.
    with redis.Redis.from_url(settings.valkey_url) as client:
        while client.info("persistence")["aof_rewrite_in_progress"]:  # noqa: ASYNC110  # Valkey tells nobody
            await asyncio.sleep(0.5)
    return kept


async def enter_campaigns(settings: Settings, count: int, definition: Definition) -> None:
    """Enters so many campaigns, with a code each."""
    async with _opened(settings) as gate:
        directory = Directory(gate)
        numbers = iter(range(count))

        async def enter() -> None:
            for number in numbers:
                await gate.publish(Campaign(f"other-{number}", 1, definition, 0))

        await asyncio.gather(*(enter() for _ in range(AT_ONCE)))
        entries = (CodeEntry(f"OTHER-{number}", f"other-{number}", None) for number in range(count))
        while lot := list(itertools.islice(entries, PER_CALL)):
            await directory.put(lot)


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Gate]:
    """The gate of a service that runs, its partitions known."""
    ledger = await Ledger.connect(settings.postgres_url, pool_size=1, timeout_ms=settings.ledger_timeout_ms)
    gate = await Gate.connect(settings.model_copy(update={"gate_timeout_ms": TIMEOUT_MS}), settings.partitions)
    try:
        installation = await ledger.installation()
        assert installation is not None
        for state in installation.partitions:
            gate.use_partition(state.partition, installation.id, state.epoch)
        yield gate
    finally:
        await gate.close()
        await ledger.close()
