"""The keys that let callers in, as PostgreSQL keeps them: over a connection of its own, so that no other query is
in the way of a revocation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg

from vouchsafe.domain.access import ApiKey, known_roles
from vouchsafe.domain.trail import UNKNOWN, Action, Author, Note
from vouchsafe.ledger.connection import connected, in_time, transaction
from vouchsafe.ledger.migrate import check_schema
from vouchsafe.ledger.notes import note_actions
from vouchsafe.ledger.queries import SQL

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class KeyBook:
    """Every method answers within the timeout, or raises Unavailable and ends the connection."""

    def __init__(self, connection: asyncpg.Connection, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, timeout_ms: int) -> AsyncIterator[KeyBook]:
        """A session of its own, as long as the context is entered. Raises Unavailable, and Misconfigured when
        PostgreSQL does not let us in."""
        timeout_s = timeout_ms / 1000
        async with connected(url, timeout_s) as connection:
            yield cls(connection, timeout_s)

    async def check(self) -> None:
        """Raises Misconfigured, saying what to do, when the schema is not this program's."""
        async with in_time(self._connection, self._timeout_s):
            await check_schema(self._connection)

    async def create(self, key: ApiKey, author: Author = UNKNOWN) -> None:
        """Keeps a new key; its time of creation is PostgreSQL's."""
        expires_at = None if key.expire_time_ms is None else _EPOCH + timedelta(milliseconds=key.expire_time_ms)
        after: dict[str, object] = {"name": key.name, "roles": sorted(key.roles)}
        if expires_at is not None:
            after["expire_time"] = expires_at.isoformat()
        args = key.id, key.name, sorted(key.roles), key.secret_hash, expires_at
        async with in_time(self._connection, self._timeout_s), transaction(self._connection):
            await self._connection.execute(SQL["create_api_key"], *args)
            await note_actions(self._connection, Note(author, Action.KEY_CREATE, f"key:{key.id}", {}, after))

    async def keys(self, *, usable: bool = False) -> list[ApiKey]:
        """Every key, oldest first; with `usable` only those that were not revoked."""
        return [
            ApiKey(
                id=row["id"],
                name=row["name"],
                roles=known_roles(row["roles"]),
                create_time_ms=_milliseconds(row["created_at"]),
                expire_time_ms=_milliseconds(row["expires_at"]) if row["expires_at"] else None,
                revoke_time_ms=_milliseconds(row["revoked_at"]) if row["revoked_at"] else None,
                secret_hash=row["secret_hash"],
            )
            for row in await self._fetch("list_api_keys", usable)
        ]

    async def revoke(self, key_id: str, author: Author = UNKNOWN) -> bool:
        """Ends a key; answers whether there is one of that id."""
        async with in_time(self._connection, self._timeout_s), transaction(self._connection):
            row = await self._connection.fetchrow(SQL["revoke_api_key"], key_id)
            if row is not None and row["is_new"]:
                before, after = {"name": row["name"], "state": "good"}, {"name": row["name"], "state": "revoked"}
                await note_actions(self._connection, Note(author, Action.KEY_REVOKE, f"key:{key_id}", before, after))
            return row is not None

    async def version(self) -> str:
        """Changes whenever a key was created or revoked; cheap to ask for."""
        ((version,),) = await self._fetch("api_keys_version")
        return str(version)

    async def _fetch(self, query: str, *args: object) -> list[asyncpg.Record]:
        async with in_time(self._connection, self._timeout_s):
            return await self._connection.fetch(SQL[query], *args)


def _milliseconds(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(milliseconds=1)
