"""The composition root: what starts, in which order, and stops in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import structlog
import uvloop

from vouchsafe.domain.access import ApiKey, Role
from vouchsafe.domain.audit import Audit
from vouchsafe.domain.errors import Misconfigured, NoReplica, NotFound, Unavailable
from vouchsafe.domain.kill_switch import Stretch
from vouchsafe.domain.partitions import Finding
from vouchsafe.domain.trail import ChainCheck
from vouchsafe.edge.masks import merged
from vouchsafe.edge.server import Server
from vouchsafe.gate.audit import CounterReader
from vouchsafe.gate.backlog import BacklogReader
from vouchsafe.gate.checkout import Checkout
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.outbox import Outbox
from vouchsafe.ledger.audit import Book
from vouchsafe.ledger.keys import KeyBook
from vouchsafe.ledger.ledger import Installation, Ledger
from vouchsafe.ledger.recoveries import RecoveryBook
from vouchsafe.ledger.stops import StopBook
from vouchsafe.ledger.trail import Walk
from vouchsafe.service.audit import Auditor
from vouchsafe.service.audits import audit_forever
from vouchsafe.service.backlog import Backlog
from vouchsafe.service.caller import local_author
from vouchsafe.service.campaigns import Campaigns
from vouchsafe.service.codes import Codes
from vouchsafe.service.committed import Committed
from vouchsafe.service.generate import generate_forever
from vouchsafe.service.guessing import Guessing
from vouchsafe.service.keys import Keys, new_key
from vouchsafe.service.kill_switch import KillSwitchboard
from vouchsafe.service.monitor import monitor_forever
from vouchsafe.service.persist import Persister
from vouchsafe.service.planner import plan_forever
from vouchsafe.service.plans import Plans
from vouchsafe.service.publish import reconcile_forever
from vouchsafe.service.rebuild import Rebuild
from vouchsafe.service.recover import WHAT_TO_DO, Recovery
from vouchsafe.service.redeem import Redeem
from vouchsafe.service.rollback import return_forever
from vouchsafe.service.status import Status, look
from vouchsafe.service.trail import Trail, check_chain
from vouchsafe.service.transactions import settle_forever
from vouchsafe.service.watch import Watch
from vouchsafe.settings import Settings
from vouchsafe.telemetry import metrics_served

log = structlog.get_logger()

# How often a process looks whether the gate is still the one that it trusts.
WATCH_INTERVAL_S = 0.25
RETRY_INTERVAL_S = 0.5
REPLICA_WAIT_S = 30.0
# So many more objects that hold others before the collector of cycles looks.
COLLECT_AFTER_OBJECTS = 20_000

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Stores:
    """Gate and ledger, connected, and the installation they belong to."""

    gate: Gate
    ledger: Ledger
    installation: Installation


def worker(settings: Settings) -> None:
    """Runs one server process until SIGTERM. Raises Misconfigured when it cannot keep its promises."""
    uvloop.run(_until_signalled(lambda stop: _serve(settings, stop)))


def persister(settings: Settings) -> None:
    """Runs the process that moves events from the gate to the ledger, until SIGTERM. Raises Misconfigured."""
    uvloop.run(_until_signalled(lambda stop: _persist(settings, stop)))


async def audit(settings: Settings, campaign_id: str | None, advance: Callable[[int], None]) -> Audit:
    """Holds the gate's counters against the ledger's events, of one campaign or of all, while everything runs; calls
    `advance` with the number of partitions after each. Raises Unavailable, NotFound and Misconfigured."""
    async with _existing_stores(settings) as stores:
        gate, ledger, installation = stores.gate, stores.ledger, stores.installation
        if campaign_id is not None and await ledger.get_campaign(campaign_id) is None:
            raise NotFound(f"there is no campaign {campaign_id}")
        counters = CounterReader(gate)
        try:
            async with Book.open(settings.postgres_url, settings.ledger_timeout_ms, campaign_id) as book:
                auditor = Auditor(gate, counters, book, ledger, installation, _outboxes(gate, installation))
                return await auditor.audit(campaign_id, lambda: advance(gate.partitions))
        finally:
            await counters.close()


async def stops(settings: Settings, limit: int) -> list[Stretch]:
    """Every time that something was stopped, by the ledger. Raises Unavailable and Misconfigured."""
    ledger = await Ledger.connect(settings.postgres_url, pool_size=1, timeout_ms=settings.ledger_timeout_ms)
    try:
        return await StopBook(ledger).stretches(limit)
    finally:
        await ledger.close()


async def status(settings: Settings) -> Status:
    """Looks at both stores and changes nothing. Raises Unavailable and Misconfigured."""
    async with _existing_stores(settings) as stores:
        return await look(stores.gate, stores.ledger, stores.installation)


async def recover(settings: Settings, advance: Callable[[int, int], None]) -> Status:
    """Opens and rebuilds what can be, here or by waiting for whoever is at it; calls `advance` with the events read and
    all that there are. Raises Unavailable and Misconfigured."""
    async with _existing_stores(settings) as stores:
        gate, ledger, installation = stores.gate, stores.ledger, stores.installation
        rebuild = Rebuild(gate, ledger, installation.id, settings)
        recovery = Recovery(gate, ledger, installation, rebuild, advance)
        while any(finding in recovery.mendable for finding in (await recovery.look()).values()):
            noted = await RecoveryBook(ledger).last()
            if noted is not None and noted.events:
                advance(noted.events_read, noted.events)
            await asyncio.sleep(WATCH_INTERVAL_S)
        return await look(gate, ledger, await ledger.installation() or installation)


async def check_trail(settings: Settings, expected: bytes | None, advance: Callable[[int, int], None]) -> ChainCheck:
    """Walks the chain of the audit trail, which has to have `expected` in it; calls `advance` with the rows so far and
    all that there are. Raises Unavailable and Misconfigured."""
    async with Walk.begin(settings.postgres_url, settings.ledger_timeout_ms) as walk:
        return await check_chain(walk, expected, advance)


async def create_key(settings: Settings, name: str, roles: Iterable[Role], expire_time_ms: int | None) -> str:
    """Makes an API key and answers it; nothing keeps it but who is given it. Raises Unavailable and Misconfigured."""
    key, kept = new_key(name, roles, expire_time_ms)
    async with _key_book(settings) as book:
        await book.create(kept, local_author())
    return key


async def list_keys(settings: Settings) -> list[ApiKey]:
    """Every API key there ever was, oldest first. Raises Unavailable and Misconfigured."""
    async with _key_book(settings) as book:
        return await book.keys()


async def revoke_key(settings: Settings, key_id: str) -> None:
    """Ends an API key, within about a second on every server. Raises NotFound, Unavailable and Misconfigured."""
    async with _key_book(settings) as book:
        if not await book.revoke(key_id, local_author()):
            raise NotFound(f"there is no key {key_id}")


@contextlib.asynccontextmanager
async def _key_book(settings: Settings) -> AsyncIterator[KeyBook]:
    async with KeyBook.open(settings.postgres_url, settings.ledger_timeout_ms) as book:
        await book.check()
        yield book


@contextlib.asynccontextmanager
async def _existing_stores(settings: Settings) -> AsyncIterator[Stores]:
    """The stores of an installation that there is already. Raises Misconfigured when there is none."""
    async with contextlib.AsyncExitStack() as stack:
        ledger = await Ledger.connect(settings.postgres_url, pool_size=1, timeout_ms=settings.ledger_timeout_ms)
        stack.push_async_callback(ledger.close)
        installation = await ledger.installation()
        if installation is None:
            raise Misconfigured("there is no installation: no server has ever used this database")
        gate = await Gate.connect(settings, len(installation.partitions))
        stack.push_async_callback(gate.close)
        yield Stores(gate, ledger, installation)


async def _serve(settings: Settings, stop: asyncio.Event) -> None:
    keys = Keys(settings.postgres_url, settings.ledger_timeout_ms)
    server = Server(settings, keys)
    # Listening comes first: while the stores are away, callers are told so and health says "alive, not ready".
    await server.start()
    try:
        async with _stores(settings, stop) as stores:
            if stores is None:
                return
            checkout = Checkout(stores.gate, settings)
            recovery = Recovery(stores.gate, stores.ledger, stores.installation)
            reader = BacklogReader(stores.gate)
            backlog = Backlog(reader, settings)
            try:
                # Before the first call, so that none is told that a healthy gate has lost its data.
                with contextlib.suppress(Unavailable):
                    await _look_first(recovery)
                    await backlog.look()
                # Nobody can be let in before.
                await _persevere(keys.refresh, stop)
                campaigns = Campaigns(stores.gate, stores.ledger, has_secret=bool(settings.secret))
                watch = Watch(campaigns.stats, max_watchers=settings.max_watchers)
                redeem = Redeem(
                    checkout,
                    stores.ledger,
                    backlog,
                    Committed(stores.ledger, settings),
                    hold_ms=settings.combined_hold_ms,
                    secret=settings.secret,
                )
                server.open(
                    redeem,
                    Guessing(checkout, redeem.validate, settings),
                    campaigns,
                    Plans(stores.gate, stores.ledger, campaigns, merged),
                    KillSwitchboard(stores.gate, campaigns),
                    watch,
                    Codes(stores.gate, stores.ledger),
                    Trail(stores.ledger),
                )
                _collect_rarely()
                await asyncio.gather(
                    _watch(recovery, stores.gate, server, stop), backlog.watch(stop), keys.follow(stop)
                )
                # Watchers would never finish by themselves.
                watch.close()
                await server.stop(settings.shutdown_grace_ms)
            finally:
                await keys.close()
                await reader.close()
                await checkout.close()
    finally:
        await server.stop(0)
    log.info("worker stopped")


def _collect_rarely() -> None:
    """What is there now stays, so the collector need not look at it again; and of what a call makes hardly anything is
    part of a cycle, so it need not look after every few calls. It took a tenth of a worker's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER_OBJECTS)


async def _persist(settings: Settings, stop: asyncio.Event) -> None:
    with metrics_served(settings):
        async with _stores(settings, stop) as stores:
            if stores is not None:
                await _persist_between(stores, settings, stop)
    log.info("persister stopped")


async def _persist_between(stores: Stores, settings: Settings, stop: asyncio.Event) -> None:
    installation = stores.installation
    outbox = _outboxes(stores.gate, installation)
    checkout = Checkout(stores.gate, settings)
    reader = BacklogReader(stores.gate)
    committed = Committed(stores.ledger, settings)
    rebuild = Rebuild(stores.gate, stores.ledger, installation.id, settings)
    recovery = Recovery(stores.gate, stores.ledger, installation, rebuild)
    try:
        with contextlib.suppress(Unavailable):
            await _look_first(recovery)
        await asyncio.gather(
            Persister(stores.ledger, installation, outbox, settings).run(stop),
            monitor_forever(stores.gate, stores.ledger, reader, stop),
            audit_forever(
                stores.ledger, lambda: audit(settings, None, lambda _: None), settings.audit_interval_ms, stop
            ),
            reconcile_forever(stores.gate, stores.ledger, stop),
            generate_forever(stores.gate, stores.ledger, stop),
            settle_forever(stores.gate, committed, stop),
            plan_forever(stores.gate, stores.ledger, merged, stop),
            return_forever(stores.gate, checkout, committed, stop),
            _watch(recovery, stores.gate, None, stop),
        )
    finally:
        await reader.close()
        await checkout.close()


def _outboxes(gate: Gate, installation: Installation) -> Callable[[int, int], Outbox]:
    """Makes the reader of a partition's outbox in an epoch."""

    def outbox(partition: int, epoch: int) -> Outbox:
        return Outbox(gate.connections(), partition, installation.id, epoch)

    return outbox


@contextlib.asynccontextmanager
async def _stores(settings: Settings, stop: asyncio.Event) -> AsyncIterator[Stores | None]:
    """Ledger first, because it knows the installation; then the gate. None when `stop` comes before both are there."""
    async with contextlib.AsyncExitStack() as stack:

        async def connect() -> Stores:
            ledger = await Ledger.connect(
                settings.postgres_url, pool_size=settings.ledger_pool_size, timeout_ms=settings.ledger_timeout_ms
            )
            stack.push_async_callback(ledger.close)
            installation = await ledger.bootstrap(settings.partitions)
            gate = await Gate.connect(settings, len(installation.partitions))
            stack.push_async_callback(gate.close)
            return Stores(gate, ledger, installation)

        async def connect_cleanly() -> Stores:
            try:
                return await connect()
            except BaseException:
                await stack.aclose()
                raise

        yield await _persevere(connect_cleanly, stop)


async def _persevere(attempt: Callable[[], Awaitable[Result]], stop: asyncio.Event) -> Result | None:
    """Tries until it succeeds or `stop` is set, then None. Only Unavailable is worth another try, and for a while a
    replica that is away: it may have been killed with what starts now."""
    waiting = False
    deadline = time.monotonic() + REPLICA_WAIT_S
    while not stop.is_set():
        try:
            return await attempt()
        except (Unavailable, NoReplica) as error:
            if isinstance(error, NoReplica) and time.monotonic() > deadline:
                raise
            if not waiting:
                log.warning("waiting for the stores", error=str(error), cause=repr(error.__cause__))
            waiting = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), RETRY_INTERVAL_S)
    return None


async def _look_first(recovery: Recovery) -> None:
    """Raises Misconfigured when the stores are of two installations: neither may be written into the other."""
    if Finding.FOREIGN in (await recovery.look()).values():
        raise Misconfigured(WHAT_TO_DO[Finding.FOREIGN])


async def _watch(recovery: Recovery, gate: Gate, server: Server | None, stop: asyncio.Event) -> None:
    """Until `stop`: keeps open what the gate holds, closes what it no longer holds, and tells health and the log."""
    told: tuple[bool, bool] | None = None
    while not stop.is_set():
        try:
            await gate.check_store()
            closed = sorted(await recovery.look())
            ready, complete = len(closed) < gate.partitions, not closed
            problem = f"closed partitions: {closed}" if closed else ""
        except (Unavailable, Misconfigured) as error:
            ready = complete = False
            problem = f"{error} ({error.__cause__!r})" if error.__cause__ else str(error)
        if told != (ready, complete):
            told = ready, complete
            log.info("ready", problem=problem) if ready else log.warning("not ready", problem=problem)
            if server is not None:
                await server.set_ready(ready, complete=complete)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), WATCH_INTERVAL_S)


async def _until_signalled(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await main(stop)
