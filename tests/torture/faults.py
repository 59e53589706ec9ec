"""Everything that goes wrong, by name. A fault ends by itself: when it returns, whatever it broke runs again."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

import asyncpg
import psutil

from tests.torture.chaos import Chaos, Fault, Run, held_by
from tests.torture.losses import Loss, waiting
from tests.torture.service import PERSISTERS, Tortured, family, last_append_only_file, stopped
from tests.torture.valkeys import Cluster, Replicated
from tests.torture.wire_faults import wire_faults
from vouchsafe.embedded import EmbeddedPostgres, EmbeddedValkey
from vouchsafe.gate.connection import Connection
from vouchsafe.ledger.connection import LOCK_SPACE

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


# -- killed and stopped ------------------------------------------------------------------------------------------------


def _kill_store(store: str) -> Run:
    async def run(chaos: Chaos) -> None:
        nodes = chaos.some_nodes(store)
        async with chaos.maybe_replaced(nodes):
            await asyncio.to_thread(_kill, nodes)
            await chaos.some_time(1.5 if len(nodes) == 1 else 3)
            await asyncio.to_thread(_start, nodes)

    return run


async def _kill_waited_for(chaos: Chaos) -> None:
    """Valkey is killed while many wait for what it has answered already."""
    for wire in chaos.service.wires["valkey"]:
        wire.delay_s = 0.4
    await asyncio.sleep(0.6)
    await _kill_store("valkey")(chaos)
    for wire in chaos.service.wires["valkey"]:
        wire.delay_s = 0


async def _fail_over(chaos: Chaos) -> None:
    """A primary is killed, and its replica takes its place for good."""
    await chaos.whole()
    primary = chaos.dice.choice(list(dict.fromkeys(await chaos.owners())))
    group = chaos.service.group
    assert isinstance(group, Replicated)
    async with chaos.maybe_replaced([primary]):
        await asyncio.to_thread(primary.kill)
        await asyncio.to_thread(group.fail_over, primary)
        await chaos.some_time(1.5)
        await asyncio.to_thread(primary.start)


async def _move_slot(chaos: Chaos) -> None:
    """A partition moves to another node, once and perhaps back."""
    group = chaos.service.group
    assert isinstance(group, Cluster)
    for _ in range(chaos.dice.randrange(1, 4)):
        await chaos.owners()
        await asyncio.to_thread(group.move_slot, chaos.dice)


def _kill(nodes: Iterable[EmbeddedValkey | EmbeddedPostgres]) -> None:
    for node in nodes:
        node.kill()


def _start(nodes: Iterable[EmbeddedValkey | EmbeddedPostgres]) -> None:
    for node in nodes:
        node.start()


def _kill_server(name: str) -> Run:
    async def run(chaos: Chaos) -> None:
        await asyncio.to_thread(chaos.service.kill_processes, name)
        await chaos.some_time(1.5)
        await asyncio.to_thread(chaos.service.spawn, name)

    return run


async def _start_early(chaos: Chaos) -> None:
    """The server starts while PostgreSQL is not there yet."""
    service = chaos.service
    await asyncio.to_thread(service.kill_processes, "serve")
    await asyncio.to_thread(service.postgres.kill)
    await asyncio.to_thread(service.spawn, "serve")
    # Python needs a moment until it asks.
    await asyncio.sleep(chaos.dice.uniform(2, 4))
    await asyncio.to_thread(service.postgres.start)


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


def _stop_store(store: str) -> Run:
    async def run(chaos: Chaos) -> None:
        nodes = chaos.some_nodes(store)
        async with chaos.maybe_replaced(nodes):
            with stopped([process for node in nodes for process in family(node.pid)]):
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
        (wire,) = service.wires["postgres"]
        there = None if port is None else wire.came_from(port)
        owner = next((name for name in PERSISTERS if service.has_port(name, there)), chaos.dice.choice(PERSISTERS))
        with stopped(service.processes(owner)):
            await connection.execute(END_LOCKS, LOCK_SPACE)
            # Longer than the other needs to notice; not so long that what it was reading has timed out.
            await asyncio.sleep(chaos.dice.uniform(1.2, 2))


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
    room = chaos.dice.choice((0, 20_000, 200_000))
    async with _valkeys(chaos.service.group.nodes) as connections:
        refused = [await _info(connection, "errorstats", "errorstat_OOM:count=") for connection in connections]
        for connection in connections:
            used = await _info(connection, "memory", "used_memory:")
            await connection.execute([("CONFIG", "SET", "maxmemory", used + room)])
        await chaos.some_time()
        for connection, before in zip(connections, refused, strict=True):
            chaos.harm.refused_for_memory += await _info(connection, "errorstats", "errorstat_OOM:count=") - before
            await connection.execute([("CONFIG", "SET", "maxmemory", 0)])


async def _info(connection: Connection, section: str, name: str) -> int:
    """A number that Valkey tells of itself, 0 when it does not."""
    (told,) = await connection.execute([("INFO", section)])
    return sum(int(line.removeprefix(name)) for line in told.decode().splitlines() if line.startswith(name))


# -- Valkey loses data -------------------------------------------------------------------------------------------------


async def _flush(chaos: Chaos) -> None:
    """A slip: replicas are emptied, too."""
    owners = await chaos.owners()
    nodes = list(dict.fromkeys(owners))
    if chaos.dice.random() < 0.5:
        nodes = [chaos.dice.choice(nodes)]
    before = await waiting(chaos.service.group)
    async with _valkeys(nodes) as connections:
        for connection in connections:
            await connection.execute([("FLUSHALL",)])
    chaos.harm.losses.append(Loss.now("FLUSHALL", held_by(nodes, owners, before)))


async def _truncate(chaos: Chaos) -> None:
    """As a disk does that has not kept what it said it had written. Where the contract counts on a replica, that has to
    take the place."""
    group = chaos.service.group
    counts_on_replica = chaos.service.acknowledge == "replica"
    if counts_on_replica:
        await chaos.whole()
    owners = await chaos.owners()
    valkey = chaos.dice.choice(list(dict.fromkeys(owners)))
    before = await waiting(chaos.service.group)
    await asyncio.to_thread(valkey.kill)
    if counts_on_replica:
        assert isinstance(group, Replicated)
        await asyncio.to_thread(group.fail_over, valkey)
    else:
        chaos.harm.losses.append(Loss.now("truncated", held_by([valkey], owners, before)))
    file = last_append_only_file(valkey)
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
async def _valkeys(nodes: Sequence[EmbeddedValkey]) -> AsyncIterator[list[Connection]]:
    connections = [Connection(node.url, 10_000) for node in nodes]
    try:
        yield connections
    finally:
        for connection in connections:
            await connection.close()


ALL = (
    Fault("kill valkey", frozenset({"valkey"}), _kill_store("valkey")),
    Fault("kill valkey while many wait", frozenset({"valkey", "wire valkey"}), _kill_waited_for),
    Fault("fail over valkey", frozenset({"valkey"}), _fail_over, stores=("pair", "cluster")),
    Fault("move slots of valkey", frozenset({"valkey", "wire valkey"}), _move_slot, stores=("cluster",)),
    Fault("kill postgres", frozenset({"postgres"}), _kill_store("postgres")),
    Fault("kill worker", frozenset({"server"}), _kill_worker),
    Fault("kill server", frozenset({"server"}), _kill_server("serve")),
    Fault("start server before postgres", frozenset({"server", "postgres"}), _start_early),
    Fault("kill persister", frozenset({"persister"}), _kill_persister),
    Fault("stop valkey", frozenset({"valkey"}), _stop_store("valkey")),
    Fault("stop postgres", frozenset({"postgres"}), _stop_store("postgres")),
    Fault("stop worker", frozenset({"server"}), _stop(_one_worker)),
    Fault("stop server", frozenset({"server"}), _stop(lambda chaos: chaos.service.processes("serve"))),
    Fault(
        "stop persister",
        frozenset({"persister"}),
        _stop(lambda chaos: chaos.service.processes(chaos.dice.choice(PERSISTERS))),
    ),
    Fault("take locks", frozenset({"persister", "postgres"}), _take_locks),
    *wire_faults(),
    Fault("read-only postgres", frozenset({"postgres"}), _read_only),
    Fault("full disk", frozenset({"postgres"}), _full_disk),
    Fault("full memory", frozenset({"valkey"}), _full_memory),
    Fault("move clock of server", frozenset({"server"}), _move_clock("serve")),
    Fault("move clock of persister", frozenset({"persister"}), _move_clock("persist")),
    Fault("flush valkey", frozenset({"valkey"}), _flush, loses=True),
    Fault("truncate valkey", frozenset({"valkey"}), _truncate, loses=True),
)
BY_NAME: Mapping[str, Fault] = {fault.name: fault for fault in ALL}


def faults_of(stores: str) -> list[Fault]:
    """Those that can happen there."""
    return [fault for fault in ALL if stores in fault.stores]
