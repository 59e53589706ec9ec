"""Definitions go from the ledger to the gate; whatever crashed in between is made up for."""

from __future__ import annotations

import asyncio

import structlog

from vouchsafe.domain.campaign import Campaign
from vouchsafe.domain.errors import Unavailable
from vouchsafe.gate.directory import Directory
from vouchsafe.gate.gate import Gate
from vouchsafe.ledger.codes import CodeBook
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.service.persist import Outages, until_stopped

log = structlog.get_logger()

PUBLICATIONS_PER_CALL = 5
CAMPAIGNS_PER_PAGE = 100


async def publish(gate: Gate, ledger: Ledger, campaign: Campaign) -> None:
    """Gives the gate a definition and its codes, and notes so in the ledger. Safe to do twice, and twice at once.

    Raises Unavailable; then `republish` does the rest.
    """
    await gate.publish(campaign)
    await publish_codes(gate, ledger, campaign_id=campaign.id)
    await ledger.mark_published(campaign.id, campaign.version)


async def publish_codes(
    gate: Gate, ledger: Ledger, *, campaign_id: str | None = None, operation_id: str | None = None
) -> None:
    """Gives the gate the codes that it lacks, and notes so: of an operation, or of a campaign or of all without any
    operation. Safe to do twice, and twice at once. Raises Unavailable."""
    directory, book = Directory(gate), CodeBook(ledger)
    while found := await book.unpublished(PUBLICATIONS_PER_CALL, campaign_id=campaign_id, operation_id=operation_id):
        for publication in found:
            await directory.put(publication.entries)
        await book.mark_published([publication.number for publication in found])


async def republish(gate: Gate, ledger: Ledger) -> int:
    """Publishes every definition and every code that the gate may lack and answers of how many definitions.

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
    try:
        await publish_codes(gate, ledger)
    except Unavailable as error:
        failure = error
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
