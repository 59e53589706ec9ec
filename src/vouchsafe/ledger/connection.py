"""Connections to PostgreSQL: bounded in time, and the one place where its errors become the domain's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from vouchsafe.domain.errors import Misconfigured, Unavailable, VouchsafeError
from vouchsafe.ledger.queries import SQL

Connection = asyncpg.Connection | PoolConnectionProxy

OLDEST_SERVER = 15

# The first key of every advisory lock that vouchsafe takes; the second is a partition, or one of these.
LOCK_SPACE = int.from_bytes(b"vouc", "big")
MIGRATION_LOCK = -1
RECOVERY_LOCK = -2
AUDIT_LOCK = -3
PLANNER_LOCK = -10
# Of the operation with number n it is this less n.
FIRST_OPERATION_LOCK = -1_000


class Rejected(VouchsafeError):
    """PostgreSQL does not take these values, and would not take them the next time either."""


@contextmanager
def domain_errors() -> Iterator[None]:
    """Turns whatever goes wrong with PostgreSQL into Unavailable, or Rejected where the values are to blame."""
    try:
        yield
    except TimeoutError:
        raise Unavailable("PostgreSQL did not answer in time") from None
    except (
        asyncpg.DataError,
        asyncpg.IntegrityConstraintViolationError,
        asyncpg.ProgramLimitExceededError,  # nested too deeply, or too long for an index
    ) as error:
        # Its own text shows the values, and codes are secrets.
        raise Rejected(f"PostgreSQL does not take these values ({type(error).__name__})") from None
    except (
        OSError,
        asyncpg.InterfaceError,
        asyncpg.PostgresConnectionError,
        asyncpg.OperatorInterventionError,
    ) as error:
        raise Unavailable("PostgreSQL is out of reach") from error
    except (asyncpg.PostgresError, asyncpg.InternalClientError) as error:
        raise Unavailable(f"PostgreSQL cannot do what is asked ({type(error).__name__})") from error


# For a session that others wait for: one whose machine has vanished without a word is ended within three seconds,
# whether it was silent or an answer was on its way to it.
ENDED_SOON = {
    "tcp_keepalives_idle": "2",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "2",
    "tcp_user_timeout": "3000",
}


def connect_options(timeout_s: float, changed: Mapping[str, str] = {}) -> dict[str, Any]:  # only read
    """How every connection is made, but for what is `changed` of the server's settings. The server, too, gives up what
    takes too long, so that a client which has vanished holds no row and no lock for long."""
    timeout_ms = str(round(timeout_s * 1000))
    return {
        "timeout": timeout_s,
        "server_settings": {
            "application_name": "vouchsafe",
            "statement_timeout": timeout_ms,
            "idle_in_transaction_session_timeout": timeout_ms,
            "tcp_keepalives_idle": "5",
            "tcp_keepalives_interval": "5",
            "tcp_keepalives_count": "3",
            **changed,
        },
    }


@asynccontextmanager
async def connected(
    url: str,
    timeout_s: float,
    changed: Mapping[str, str] = {},  # only read
) -> AsyncIterator[asyncpg.Connection]:
    """A connection outside any pool, with what is `changed` of the server's settings; its end frees the locks of its
    session.

    Raises Unavailable, or Misconfigured when PostgreSQL does not let us in.
    """
    with domain_errors():
        try:
            connection = await asyncpg.connect(url, **connect_options(timeout_s, changed))
        except (ValueError, OverflowError, asyncpg.ClientConfigurationError) as error:
            raise Misconfigured(f"VOUCHSAFE_POSTGRES_URL is no address of a PostgreSQL: {error}") from error
        except (
            asyncpg.InvalidAuthorizationSpecificationError,
            asyncpg.InvalidCatalogNameError,
        ) as error:
            raise Misconfigured(f"PostgreSQL does not let us in: {error}; correct VOUCHSAFE_POSTGRES_URL") from error
    try:
        yield connection
    finally:
        # Not closed politely: that would wait for a server that may hang.
        connection.terminate()


@contextmanager
def dropped_when_cancelled(connection: Connection) -> Iterator[None]:
    """A query that is cut off takes its connection with it: ending it politely would wait for a server that hangs."""
    try:
        yield
    except asyncio.CancelledError:
        # One that the server has ended is not in our hands any more. That error in place of this one would be waited
        # out as an outage, and whoever is cancelled would go on for ever.
        with suppress(asyncpg.InterfaceError):
            connection.terminate()
        raise


@asynccontextmanager
async def in_time(connection: Connection, timeout_s: float) -> AsyncIterator[None]:
    """What is done with the connection inside succeeds in time, or raises Unavailable and the connection is dropped."""
    with domain_errors():
        async with asyncio.timeout(timeout_s):
            with dropped_when_cancelled(connection):
                yield


@asynccontextmanager
async def transaction(connection: Connection) -> AsyncIterator[None]:
    """Commits, or rolls back when an error is raised inside. On cancellation the connection has to be dropped."""
    await connection.execute("begin")
    try:
        yield
    except Exception:
        if not connection.is_closed():
            await connection.execute("rollback")
        raise
    await connection.execute("commit")


async def check_server(connection: Connection) -> None:
    """Raises Misconfigured, saying what to change, when the server would lose or refuse what is to be kept."""
    (server,) = await connection.fetch(SQL["server"])
    if server["version_num"] < OLDEST_SERVER * 10_000:
        version = server["version_num"] // 10_000
        raise Misconfigured(f"PostgreSQL {version} is too old; version {OLDEST_SERVER} or later is needed")
    if server["encoding"] != "UTF8":
        raise Misconfigured(
            f"the database has encoding {server['encoding']}, which cannot hold every id; create one with encoding UTF8"
        )
    for name in ("fsync", "synchronous_commit"):
        if server[name] == "off":
            raise Misconfigured(f"PostgreSQL has {name} off, which can lose a redemption; set {name} = on")
