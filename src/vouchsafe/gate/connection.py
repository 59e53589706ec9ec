"""One connection to Valkey: pipelined commands, bounded in time, never repeated behind the caller's back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import hiredis
import structlog
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from vouchsafe.domain.errors import Misconfigured, Unavailable
from vouchsafe.gate import library

Command = Sequence[bytes | str | int]

CLOSED = "the partition is closed: Valkey does not hold the data that the ledger expects"

log = structlog.get_logger()


class Connection:
    """Connects when it is first used and again after it broke. One task at a time may use it.

    A client that silently sent a command again could redeem twice, so the library's own retries are off: whoever
    needs an answer repeats the request under its request id.
    """

    def __init__(self, url: str, timeout_ms: int) -> None:
        self._timeout_ms = timeout_ms
        self._timeout_s = timeout_ms / 1000
        try:
            pool = ConnectionPool.from_url(
                url,
                protocol=2,
                retry=Retry(NoBackoff(), 0),
                socket_timeout=None,
                socket_connect_timeout=self._timeout_s,
                socket_keepalive=True,
            )
        except ValueError as error:
            raise Misconfigured(f"VOUCHSAFE_VALKEY_URL is no address of a Valkey: {error}") from None
        self._connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py has no types here

    async def execute(self, commands: Sequence[Command], *, extra_wait_ms: int = 0) -> list[Any]:
        """Sends the commands in one go and reads a reply for each, as bytes; an error reply is a ResponseError there.

        `extra_wait_ms` is how long the commands may block in the server on purpose. Raises Unavailable when the
        server is out of reach or too slow; it is not known then which commands were carried out.
        """
        try:
            async with asyncio.timeout(self._timeout_s + extra_wait_ms / 1000):
                await self._connection.send_packed_command(
                    [_packed(command) for command in commands], check_health=False
                )
                return [await self._read() for _ in commands]
        except TimeoutError:
            raise Unavailable("Valkey did not answer in time") from None
        except (OSError, RedisError) as error:
            await self.close()
            raise Unavailable("Valkey is out of reach") from error

    async def _read(self) -> Any:
        try:
            return await self._connection.read_response(disable_decoding=True)
        except ResponseError as error:
            return error

    async def call(self, calls: Sequence[Command], own_write: Command | None = None) -> list[Any]:
        """Like `execute`, for calls of the library's functions; loads the library where it is missing.

        With `own_write`, a call that writes whatever the others do, it answers once a replica has all of it on disk,
        and everything before; without that in time it raises Unavailable, and what was decided stands.
        """
        if own_write is None:
            return await self._call(calls)
        half_ms = self._timeout_ms // 2
        # A replica says how far its disk is when it is asked, or once a second. WAITAOF alone would ask together with
        # the write, which is before the disk has it; behind WAIT it asks again, when the disk does.
        waits = (("WAIT", 1, half_ms), ("WAITAOF", 1, 1, half_ms))
        *replies, written, _, confirmed = await self._call([*calls, own_write], waits, extra_wait_ms=2 * half_ms)
        checked([written, confirmed])
        if min(confirmed) < 1:
            raise Unavailable("no replica has confirmed in time; repeat with the same request id")
        return replies

    async def _call(
        self, calls: Sequence[Command], waits: Sequence[Command] = (), *, extra_wait_ms: int = 0
    ) -> list[Any]:
        """A call that found no function has done nothing, so it is safe to make it again. It decides nothing then: a
        library that was just loaded has no partition open, so the `waits` are not for it."""
        commands = [*calls, *waits]
        replies = await self.execute(commands, extra_wait_ms=extra_wait_ms)
        missing = [i for i, reply in enumerate(replies) if isinstance(reply, ResponseError) and _is_not_loaded(reply)]
        if missing:
            (loaded,) = await self.execute([("FUNCTION", "LOAD", library.SOURCE)])
            # Another process may have been faster.
            if isinstance(loaded, ResponseError) and "already exists" not in str(loaded):
                raise as_unavailable(loaded)
            for i, reply in zip(missing, await self.execute([calls[i] for i in missing]), strict=True):
                replies[i] = reply
        return replies

    async def close(self) -> None:
        """Closes the connection. A later use connects again."""
        await self._connection.disconnect(nowait=True)


def _packed(command: Command) -> bytes:
    """The command as it is sent; redis-py would put it together in Python, value by value."""
    packed: bytes = hiredis.pack_command(tuple(command))  # type: ignore[arg-type]  # typed as a tuple of one
    return packed


def _is_not_loaded(error: ResponseError) -> bool:
    return "Function not found" in str(error)


def function_call(name: str, keys: Sequence[str], args: Sequence[bytes | str | int]) -> Command:
    """The command that calls a function of the library. KEYS[1] is the partition's meta key, ARGV[1] its token."""
    return ("FCALL", library.function_name(name), len(keys), *keys, *args)


def checked(replies: list[Any]) -> list[Any]:
    """The replies, of which none is an error. Raises Unavailable: nothing was decided by the first that is one."""
    for reply in replies:
        if isinstance(reply, ResponseError):
            raise as_unavailable(reply)
    return replies


def told(replies: list[Any]) -> list[Any]:
    """The replies, with Unavailable in the place of each that is an error."""
    return [as_unavailable(reply) if isinstance(reply, ResponseError) else reply for reply in replies]


def as_unavailable(error: Exception) -> Unavailable:
    """What an error reply to a function call means to the caller: nothing was decided."""
    if isinstance(error, Unavailable):
        return error
    text = str(error)
    if "CLOSED" in text:
        return Unavailable(CLOSED)
    if "maxmemory" in text:
        return Unavailable("Valkey's memory is full")
    log.warning("Valkey refuses a call", error=text)
    return Unavailable("Valkey refuses the call; the server's log says why")
