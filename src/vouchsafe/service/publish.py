"""Definitions go from the ledger to the gate; whatever crashed in between is made up for."""

from __future__ import annotations

import asyncio

import structlog

from vouchsafe.domain.campaign import Campaign
from vouchsafe.domain.errors import Unavailable
from vouchsafe.gate.gate import Gate
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.service.persist import Outages, until_stopped

log = structlog.get_logger()

CODES_PER_CALL = 1_000
CAMPAIGNS_PER_PAGE = 100


async def publish(gate: Gate, ledger: Ledger, campaign: Campaign) -> None:
    """Gives the gate a definition and its codes, and notes so in the ledger. Safe to do twice, and twice at once.

    Raises Unavailable; then `republish` does the rest.
    """
    await gate.publish(campaign)
    after = ""
    while codes := await ledger.codes_of(campaign.id, after, CODES_PER_CALL):
        await gate.put_codes(codes)
        after = codes[-1].code
    await ledger.mark_published(campaign.id, campaign.version)


async def republish(gate: Gate, ledger: Ledger) -> int:
    """Publishes every definition that the gate may lack and answers how many.

    Raises Unavailable when some are left over, but tries all: one behind a closed partition holds up no other.
    """
    published = 0
    failure: Unavailable | None = None
    after = ""
    while campaigns := await ledger.unpublished(CAMPAIGNS_PER_PAGE, after):
        for campaign in campaigns:
            try:
                await publish(gate, ledger, campaign)
                published += 1
            except Unavailable as error:
                failure = error
        after = campaigns[-1].id
    if published:
        log.info("published what the gate lacked", campaigns=published)
    if failure is not None:
        raise failure
    return published


async def reconcile_forever(gate: Gate, ledger: Ledger, stop: asyncio.Event, interval_s: float = 1.0) -> None:
    """Republishes every `interval_s` until `stop` is set. A store that goes away is waited for."""
    await until_stopped(stop, _reconcile(gate, ledger, interval_s))


async def _reconcile(gate: Gate, ledger: Ledger, interval_s: float) -> None:
    outages = Outages("reconciler")
    while True:
        try:
            await republish(gate, ledger)
            outages.end("definitions")
        except Exception as error:  # noqa: BLE001  # a definition that cannot be read must not stop the persister
            outages.begin("definitions", error)
        await asyncio.sleep(interval_s)
