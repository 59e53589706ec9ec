"""After a start and after a crash: partitions are opened, and definitions that the gate lacks are published."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from vouchsafe.domain.campaign import Campaign
from vouchsafe.domain.errors import Unavailable
from vouchsafe.domain.redemption import StreamId
from vouchsafe.gate.gate import Gate
from vouchsafe.ledger.ledger import Installation, Ledger
from vouchsafe.service.persist import Outages, until_stopped

log = structlog.get_logger()

CODES_PER_CALL = 1_000
CAMPAIGNS_PER_PAGE = 100

# By installation, the closed partitions that this process has logged last.
_logged: dict[str, list[int]] = {}


async def open_partitions(gate: Gate, ledger: Ledger, installation: Installation) -> list[int]:
    """Opens what may be opened and answers which partitions stay closed. Raises Unavailable.

    A partition that was never opened is opened in the gate and then marked in the ledger. One that was is trusted only
    if its token stands there: a gate without it has lost what was redeemed, and would give it out again.
    `installation` may be as old as the process: that a partition was opened stays true, else the ledger is asked.
    """
    closed = []
    offsets = await _offsets(ledger, installation)
    for state in installation.partitions:
        place = (state.partition, installation.id, state.epoch)
        if state.opened or await ledger.is_opened(state.partition, state.epoch):
            held = await gate.has_partition(*place, offsets[state.partition])
        elif held := await gate.open_partition(*place):
            # In this order: a partition that sells is one that the ledger knows to have been opened.
            await ledger.mark_opened(state.partition, state.epoch)
            held = await gate.has_partition(*place)
        if not held:
            closed.append(state.partition)
    if closed and closed != _logged.get(installation.id):
        log.error(
            "partitions stay closed, because Valkey does not hold their data",
            partitions=closed,
            installation=installation.id,
            what_to_do="see that VOUCHSAFE_VALKEY_URL is this installation's Valkey, and restore its append-only file",
        )
    _logged[installation.id] = closed
    return closed


async def _offsets(ledger: Ledger, installation: Installation) -> Mapping[int, StreamId]:
    """The last event of each partition that the ledger holds; while it is away, as of the start, which stays true."""
    try:
        current = await ledger.installation()
    except Unavailable:
        current = None
    return {state.partition: state.offset for state in (current or installation).partitions}


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
