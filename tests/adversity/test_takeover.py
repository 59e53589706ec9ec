"""A persister that is gone, with or without a word, is followed by another within five seconds.

Run as a program, this file is a persister that vanishes on SIGUSR1, as a machine does that loses its power: it says
nothing any more, and what is sent to it is neither answered nor acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from tests.adversity.test_persister import PARTITIONS, World, a_world, persister_of, until
from tests.valkeys import connected
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.keys import Keys
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.settings import Settings

TAKEN_OVER_S = 5.0
LOCKS = """
    select count(*) from pg_locks join pg_stat_activity using (pid)
    where locktype = 'advisory' and granted and datname = current_database() and client_port = any($1::int[])
"""


@pytest.fixture
async def world(settings: Settings) -> AsyncIterator[World]:
    async with a_world(settings) as made:
        yield made


class Child:
    """A persister in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, settings: Settings) -> Child:
        """Returns when it is at work, or looks for some."""
        variables = {"VOUCHSAFE_VALKEY_URL": settings.valkey_url, "VOUCHSAFE_POSTGRES_URL": settings.postgres_url}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", __name__, env=os.environ | variables, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        return cls(process)

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    def ports(self) -> list[int]:
        """Where its connections begin."""
        connections = psutil.Process(self.process.pid).net_connections("tcp")
        return [connection.laddr.port for connection in connections]


async def longest_wait_s(world: World, stop: asyncio.Event) -> float:
    """How old the oldest event that waited ever got."""
    longest = 0.0
    first = [("XRANGE", Keys(partition).outbox, "-", "+", "COUNT", 1) for partition in range(PARTITIONS)]
    async with connected(world.settings.valkey_url) as valkey:
        while not stop.is_set():
            for entries in await valkey.execute(first):
                for entry_id, _ in entries:
                    longest = max(longest, time.time() - int(entry_id.partition(b"-")[0]) / 1000)
            await asyncio.sleep(0.02)
    return longest


async def keep_recording(world: World, stop: asyncio.Event) -> None:
    while not stop.is_set():
        await world.record(40)
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(("end", "rounds"), [(signal.SIGKILL, 3), (signal.SIGUSR1, 2)], ids=["killed", "vanished"])
async def test_another_follows_within_five_seconds(world: World, end: signal.Signals, rounds: int) -> None:
    stop = asyncio.Event()
    sql = await asyncpg.connect(world.settings.postgres_url)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(sql.close)

        async def start() -> Child:
            child = await Child.start(world.settings)
            stack.push_async_callback(child.end)
            return child

        async def until_it_owns_all(child: Child) -> None:
            async def owns_all() -> bool:
                return bool(await sql.fetchval(LOCKS, child.ports()) == PARTITIONS)

            await until(owns_all, "the partitions are not followed")

        owner = await start()
        await until_it_owns_all(owner)
        waited = asyncio.create_task(longest_wait_s(world, stop))
        recording = asyncio.create_task(keep_recording(world, stop))
        for _ in range(rounds):
            other = await start()
            await asyncio.sleep(0.5)
            owner.process.send_signal(end)
            await until_it_owns_all(other)
            owner = other
        await asyncio.sleep(0.5)
        stop.set()
        await recording
        await world.assert_settled()
        assert 0 < await waited < TAKEN_OVER_S, waited


def _vanish() -> None:
    """Every connection goes deaf: a filter drops what arrives before the kernel looks at it. Then this process stands
    still, so that nothing is sent either."""
    nothing_passes = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    program = struct.pack("HP", 1, ctypes.addressof(nothing_passes))
    attach_filter = 26
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(path.name))) as connection:
            if connection.family is socket.AF_INET:
                connection.setsockopt(socket.SOL_SOCKET, attach_filter, program)
    os.kill(os.getpid(), signal.SIGSTOP)


async def _persist() -> None:
    settings = Settings()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _vanish)
    ledger = await Ledger.connect(settings.postgres_url, pool_size=2, timeout_ms=settings.ledger_timeout_ms)
    gate = await Gate.connect(settings, PARTITIONS)
    persister = persister_of(settings, ledger, gate, await ledger.bootstrap(PARTITIONS))
    os.write(sys.stdout.fileno(), b"ready\n")
    await persister.run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(_persist())
