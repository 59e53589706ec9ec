"""Everything that goes wrong, by name. A fault ends by itself: when it returns, whatever it broke runs again."""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import asyncpg
import psutil

from tests.torture.losses import Loss, waiting
from tests.torture.service import PERSISTERS, Tortured, stopped
from vouchsafe.gate.connection import Connection
from vouchsafe.ledger.connection import LOCK_SPACE

LONGEST_FREEZE_S = 3.0
# The size of a file of PostgreSQL's log, which a full disk spares here (service.SmallSegments).
SEGMENT_BYTES = 1 << 20
PAGE_BYTES = 8_192
TAIL_BYTES = 65_536
# Who holds locks of partitions: the second key of any other lock is negative, so that as an oid it is huge.
MOST_LOCKS = """
select client_port from pg_locks join pg_stat_activity using (pid)
where locktype = 'advisory' and classid = $1 and objid < 100
group by client_port order by count(*) desc limit 1
"""
END_LOCKS = """
select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and classid = $1 and objid < 100
"""


@dataclass
class Harm:
    """What faults have done beside: `losses` are the moments at which Valkey has lost data of its own;
    `refused_for_memory` is how many calls it has refused because its memory was full."""

    losses: list[Loss] = field(default_factory=list)
    refused_for_memory: int = 0


@dataclass(frozen=True)
class Chaos:
    """What one fault works with. The dice are its own: what it does is the same again whatever else happens."""

    service: Tortured
    harm: Harm
    dice: random.Random

    def some_time(self, longest_s: float = LONGEST_FREEZE_S) -> Awaitable[None]:
        """A while."""
        return asyncio.sleep(self.dice.uniform(0.1, longest_s))


Run = Callable[[Chaos], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """`targets` are what it happens to or needs: two faults that share one never happen at the same moment. `loses`:
    Valkey comes back with less than it has acknowledged."""

    name: str
    targets: frozenset[str]
    run: Run
    loses: bool = False


# -- killed and stopped ------------------------------------------------------------------------------------------------


def _kill_store(store: str) -> Run:
    async def run(chaos: Chaos) -> None:
        running = chaos.service.stores[store]
        await asyncio.to_thread(running.kill)
        await chaos.some_time(1.5)
        await asyncio.to_thread(running.start)

    return run


def _kill_server(name: str) -> Run:
    async def run(chaos: Chaos) -> None:
        await asyncio.to_thread(chaos.service.kill_processes, name)
        await chaos.some_time(1.5)
        await asyncio.to_thread(chaos.service.spawn, name)

    return run


async def _kill_persister(chaos: Chaos) -> None:
    await _kill_server(chaos.dice.choice(PERSISTERS))(chaos)


async def _kill_worker(chaos: Chaos) -> None:
    """Its supervisor starts another."""
    workers = chaos.service.workers()
    if workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            chaos.dice.choice(workers).kill()


def _stop(choose: Callable[[Chaos], list[psutil.Process]]) -> Run:
    async def run(chaos: Chaos) -> None:
        with stopped(choose(chaos)):
            await chaos.some_time()

    return run


def _one_worker(chaos: Chaos) -> list[psutil.Process]:
    workers = chaos.service.workers()
    return [chaos.dice.choice(workers)] if workers else []


async def _take_locks(chaos: Chaos) -> None:
    """The persister that follows most partitions stands still, and its locks are taken from it: the other goes on in
    its place, and when the first wakes up it is late."""
    service = chaos.service
    async with _postgres(service) as connection:
        port = await connection.fetchval(MOST_LOCKS, LOCK_SPACE)
        there = None if port is None else service.wires["postgres"].came_from(port)
        owner = next((name for name in PERSISTERS if service.has_port(name, there)), chaos.dice.choice(PERSISTERS))
        with stopped(service.processes(owner)):
            await connection.execute(END_LOCKS, LOCK_SPACE)
            # Longer than the other needs to notice; not so long that what it was reading has timed out.
            await asyncio.sleep(chaos.dice.uniform(1.2, 2))


# -- the wires ---------------------------------------------------------------------------------------------------------


def _swallow(store: str) -> Run:
    async def run(chaos: Chaos) -> None:
        for _ in range(chaos.dice.randrange(1, 6)):
            chaos.service.wires[store].swallow_replies(0.6)
            await chaos.some_time(0.5)

    return run


def _tear(store: str) -> Run:
    async def run(chaos: Chaos) -> None:
        for _ in range(chaos.dice.randrange(1, 6)):
            chaos.service.wires[store].tear_requests(0.6)
            await chaos.some_time(0.5)

    return run


def _cut(store: str) -> Run:
    async def run(chaos: Chaos) -> None:
        for _ in range(chaos.dice.randrange(1, 4)):
            chaos.service.wires[store].cut(chaos.dice.choice((0.3, 1)))
            await chaos.some_time(0.5)

    return run


def _delay(store: str) -> Run:
    async def run(chaos: Chaos) -> None:
        wire = chaos.service.wires[store]
        wire.delay_s = chaos.dice.choice((0.02, 0.2, 1.5))
        await chaos.some_time()
        wire.delay_s = 0

    return run


def _hold(store: str) -> Run:
    async def run(chaos: Chaos) -> None:
        wire = chaos.service.wires[store]
        wire.hold()
        await chaos.some_time()
        wire.flow()

    return run


# -- stores that do not take anything ----------------------------------------------------------------------------------


async def _read_only(chaos: Chaos) -> None:
    async with _postgres(chaos.service) as connection:
        await connection.execute("alter system set default_transaction_read_only = on")
        await connection.execute("select pg_reload_conf()")
        await chaos.some_time()
        await connection.execute("alter system reset default_transaction_read_only")
        await connection.execute("select pg_reload_conf()")


async def _full_disk(chaos: Chaos) -> None:
    """No table can grow: PostgreSQL treats a bound on the size of its files as it treats a full disk. The log can be
    written, which on a disk that is really full ends the server."""
    async with _postgres(chaos.service) as connection:
        largest = await connection.fetchval(
            "select max(pg_relation_size(oid)) from pg_class where relkind in ('r', 'i')"
        )
    bound_files = chaos.service.postgres.bound_files
    await asyncio.to_thread(bound_files, max(SEGMENT_BYTES, largest // PAGE_BYTES * PAGE_BYTES))
    await chaos.some_time()
    await asyncio.to_thread(bound_files, resource.RLIM_INFINITY)


async def _full_memory(chaos: Chaos) -> None:
    async with _valkey(chaos.service) as connection:
        used = await _info(connection, "memory", "used_memory:")
        refused = await _info(connection, "errorstats", "errorstat_OOM:count=")
        room = chaos.dice.choice((0, 20_000, 200_000))
        await connection.execute([("CONFIG", "SET", "maxmemory", used + room)])
        await chaos.some_time()
        chaos.harm.refused_for_memory += await _info(connection, "errorstats", "errorstat_OOM:count=") - refused
        await connection.execute([("CONFIG", "SET", "maxmemory", 0)])


async def _info(connection: Connection, section: str, name: str) -> int:
    """A number that Valkey tells of itself, 0 when it does not."""
    (told,) = await connection.execute([("INFO", section)])
    return sum(int(line.removeprefix(name)) for line in told.decode().splitlines() if line.startswith(name))


# -- Valkey loses data -------------------------------------------------------------------------------------------------


async def _flush(chaos: Chaos) -> None:
    before = await waiting(chaos.service.settings)
    async with _valkey(chaos.service) as connection:
        await connection.execute([("FLUSHALL",)])
    chaos.harm.losses.append(Loss.now("FLUSHALL", before))


async def _truncate(chaos: Chaos) -> None:
    """As a disk does that has not kept what it said it had written."""
    before = await waiting(chaos.service.settings)
    valkey = chaos.service.stores["valkey"]
    await asyncio.to_thread(valkey.kill)
    chaos.harm.losses.append(Loss.now("truncated", before))
    file = chaos.service.last_append_only_file()
    size_bytes = file.stat().st_size
    with file.open("r+b") as written:
        written.truncate(max(0, size_bytes - chaos.dice.randrange(1, TAIL_BYTES)))
    await asyncio.to_thread(valkey.start)


# -- clocks ------------------------------------------------------------------------------------------------------------


def _move_clock(name: str) -> Run:
    async def run(chaos: Chaos) -> None:
        chosen = chaos.dice.choice(PERSISTERS) if name == "persist" else name
        ahead_ms = chaos.dice.choice((-86_400_000, -10_000, -1_000, 1_000, 10_000, 86_400_000))
        chaos.service.move_clock(chosen, ahead_ms)
        await chaos.some_time()
        chaos.service.move_clock(chosen, 0)

    return run


@contextlib.asynccontextmanager
async def _postgres(service: Tortured) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(service.settings.postgres_url)
    try:
        yield connection
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def _valkey(service: Tortured) -> AsyncIterator[Connection]:
    connection = Connection(service.settings.valkey_url, 10_000)
    try:
        yield connection
    finally:
        await connection.close()


def _wire_faults() -> list[Fault]:
    ways = {"swallow": _swallow, "tear": _tear, "cut": _cut, "delay": _delay, "hold": _hold}
    return [
        Fault(f"{name} {store}", frozenset({f"wire {store}"}), way(store))
        for name, way in ways.items()
        for store in ("valkey", "postgres")
    ]


ALL = (
    Fault("kill valkey", frozenset({"valkey"}), _kill_store("valkey")),
    Fault("kill postgres", frozenset({"postgres"}), _kill_store("postgres")),
    Fault("kill worker", frozenset({"server"}), _kill_worker),
    Fault("kill server", frozenset({"server"}), _kill_server("serve")),
    Fault("kill persister", frozenset({"persister"}), _kill_persister),
    Fault("stop valkey", frozenset({"valkey"}), _stop(lambda chaos: chaos.service.processes("valkey"))),
    Fault("stop postgres", frozenset({"postgres"}), _stop(lambda chaos: chaos.service.processes("postgres"))),
    Fault("stop worker", frozenset({"server"}), _stop(_one_worker)),
    Fault("stop server", frozenset({"server"}), _stop(lambda chaos: chaos.service.processes("serve"))),
    Fault(
        "stop persister",
        frozenset({"persister"}),
        _stop(lambda chaos: chaos.service.processes(chaos.dice.choice(PERSISTERS))),
    ),
    Fault("take locks", frozenset({"persister", "postgres"}), _take_locks),
    *_wire_faults(),
    Fault("read-only postgres", frozenset({"postgres"}), _read_only),
    Fault("full disk", frozenset({"postgres"}), _full_disk),
    Fault("full memory", frozenset({"valkey"}), _full_memory),
    Fault("move clock of server", frozenset({"server"}), _move_clock("serve")),
    Fault("move clock of persister", frozenset({"persister"}), _move_clock("persist")),
    Fault("flush valkey", frozenset({"valkey"}), _flush, loses=True),
    Fault("truncate valkey", frozenset({"valkey"}), _truncate, loses=True),
)
BY_NAME: Mapping[str, Fault] = {fault.name: fault for fault in ALL}
