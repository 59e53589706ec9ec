"""Whether a store can keep what is acknowledged: asked when a process starts, and every second from then on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from redis.exceptions import AuthenticationError, InvalidResponse, ResponseError

from vouchsafe.domain.errors import Misconfigured, Unavailable
from vouchsafe.gate.connection import Connection, as_unavailable
from vouchsafe.gate.routes import Routes
from vouchsafe.settings import Acknowledge, Settings

# What the store must be set to so that an acknowledged redemption survives: fsync before the answer, and no eviction.
REQUIRED_CONFIG = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}

# Functions are there from the first on, WAITAOF from the second. Every Valkey has both.
OLDEST_REDIS: Mapping[Acknowledge, tuple[int, int]] = {"gate": (7, 0), "ledger": (7, 0), "replica": (7, 2)}

NO_REPLICA = (
    "Valkey has no replica that is connected, which VOUCHSAFE_ACKNOWLEDGE=replica waits for; "
    "attach one (REPLICAOF), or choose another contract"
)

COMMANDS = (
    ("INFO", "server"),
    ("INFO", "replication"),
    ("FUNCTION", "LIST", "LIBRARYNAME", "none"),
    ("CONFIG", "GET", *REQUIRED_CONFIG),
)
# How PostgreSQL is asked whether it speaks TLS; it answers with one letter.
POSTGRES_TLS_REQUEST = bytes.fromhex("0000000804d2162f")


async def find_problem(connection: Connection, acknowledge: Acknowledge, routes: Routes) -> str | None:
    """What has to be changed before a node of the store can keep this contract, in one sentence; None when it can.
    Raises Unavailable when it does not say, or is no primary of its cluster any more."""
    server, replication, functions, config = await connection.execute(COMMANDS)
    facts = {**_facts(server), **_facts(replication)}
    return (
        version_problem(facts, acknowledge)
        or _command_problem(functions, "FUNCTION", "decides with functions")
        or _command_problem(config, "CONFIG", "has to see whether the store keeps what it is told")
        or _config_problem(config)
        or _replication_problem(facts, acknowledge, is_cluster=routes.is_cluster)
    )


def _facts(reply: Any) -> dict[str, str]:
    """What INFO says, by name."""
    if isinstance(reply, ResponseError):
        if "unknown command" in str(reply):
            return {}
        raise as_unavailable(reply)
    pairs = (line.partition(":") for line in reply.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in pairs if colon}


def version_problem(facts: Mapping[str, str], acknowledge: Acknowledge) -> str | None:
    """What is wrong with the release that INFO tells, None for nothing."""
    if "valkey_version" in facts:  # beside a redis_version for old clients
        return None
    version = facts.get("redis_version")
    match = re.match(r"(\d+)\.(\d+)", version or "")
    oldest = OLDEST_REDIS[acknowledge]
    if match and (int(match[1]), int(match[2])) >= oldest:
        return None
    found = f"Redis {version}" if version else "something that tells no version of Valkey or Redis"
    return (
        f"VOUCHSAFE_VALKEY_URL leads to {found}; with VOUCHSAFE_ACKNOWLEDGE={acknowledge} "
        f"a Valkey is needed, or a Redis of version {oldest[0]}.{oldest[1]} or later"
    )


def _command_problem(reply: Any, name: str, why: str) -> str | None:
    if not isinstance(reply, ResponseError):
        return None
    if "unknown" in str(reply):
        return f"the store has no command {name}, but the gate {why}; use a Valkey that has it"
    raise as_unavailable(reply)


def _config_problem(flat: list[bytes]) -> str | None:
    found = {key.decode(): value.decode() for key, value in zip(flat[::2], flat[1::2], strict=True)}
    for name, wanted in REQUIRED_CONFIG.items():
        if found.get(name) != wanted:
            return (
                f"Valkey has {name} {found.get(name)}, with which an acknowledged redemption can be lost; "
                f"set it to {wanted} (CONFIG SET {name} {wanted}, and in its configuration file)"
            )
    return None


def _replication_problem(facts: Mapping[str, str], acknowledge: Acknowledge, *, is_cluster: bool) -> str | None:
    if facts.get("role") != "master":
        if is_cluster:
            raise Unavailable("another node of the cluster takes this one's place")
        return "VOUCHSAFE_VALKEY_URL leads to a replica, which decides nothing; let it lead to the primary"
    replicas = [value for name, value in facts.items() if re.fullmatch(r"slave\d+", name)]
    if acknowledge == "replica" and not any("state=online" in replica for replica in replicas):
        return NO_REPLICA
    return None


async def check_kind(error: Unavailable, settings: Settings) -> None:
    """Raises Misconfigured when a store is out of reach for good, because the address or the password is wrong."""
    cause = error.__cause__
    if isinstance(cause, AuthenticationError):
        raise Misconfigured(f"Valkey does not let us in: {cause}; correct VOUCHSAFE_VALKEY_URL") from error
    if isinstance(cause, InvalidResponse):
        raise Misconfigured(
            "VOUCHSAFE_VALKEY_URL leads to something that does not speak as Valkey does; correct it"
        ) from error
    # It says nothing to strangers.
    if cause is not None and await _is_postgres(settings.valkey_url.partition(",")[0], settings.gate_timeout_ms / 1000):
        raise Misconfigured("VOUCHSAFE_VALKEY_URL leads to a PostgreSQL; let it lead to the Valkey") from error


async def _is_postgres(url: str, timeout_s: float) -> bool:
    address = urlsplit(url)
    if address.hostname is None:
        return False
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(address.hostname, address.port or 6379)
            try:
                writer.write(POSTGRES_TLS_REQUEST)
                return await reader.read(8) in (b"S", b"N")
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
