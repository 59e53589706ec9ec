"""API keys: made here and shown once, then known by the hash of their secret.

A key is `vs_<id>_<secret>`: the id, 12 hex digits, is no secret and finds the key; the secret has 256 bits.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import math
import re
import secrets
import time
from collections.abc import Iterable, Mapping

import structlog

from vouchsafe.domain.access import ApiKey, Principal, Role
from vouchsafe.domain.errors import InvalidRequest, Misconfigured, Unauthenticated, Unavailable, Violation
from vouchsafe.ledger.keys import KeyBook

PREFIX = "vs_"
NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)
LAST_TIME_MS = 253_402_300_799_000
NOT_VALID = "the credentials are not valid: they are unknown, expired, revoked, or not meant for this service"

# How long a revoked key may go on being accepted, about.
REFRESH_S = 1.0

# What every call needs of a key: the hash of its secret, when it ends (seconds since 1970 UTC), whose it is.
_Known = tuple[bytes, float, Principal]

log = structlog.get_logger()


def new_key(name: str, roles: Iterable[Role], expire_time_ms: int | None = None) -> tuple[str, ApiKey]:
    """A key to hand out, and what is kept of it. Raises InvalidRequest for a name or an end that is none."""
    if not NAME.fullmatch(name):
        raise InvalidRequest(Violation("name", "has to have 1 to 64 letters, digits, dots, hyphens and underscores"))
    if expire_time_ms is not None and expire_time_ms > LAST_TIME_MS:
        raise InvalidRequest(Violation("expire_time", "has to be before the year 10000"))
    id_, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    kept = ApiKey(
        id=id_,
        name=name,
        roles=frozenset(roles),
        create_time_ms=time.time_ns() // 1_000_000,
        expire_time_ms=expire_time_ms,
        secret_hash=_hash(secret),
    )
    return f"{PREFIX}{id_}_{secret}", kept


def is_of(token: str, key: ApiKey) -> bool:
    """Whether the token is this key."""
    id_, _, secret = token.removeprefix(PREFIX).partition("_")
    return hmac.compare_digest(_hash(secret), key.secret_hash) and id_ == key.id


class Keys:
    """The keys that let callers in: as PostgreSQL has them, at most about a second ago, and while it is away as it had
    them last."""

    def __init__(self, postgres_url: str, timeout_ms: int) -> None:
        self._url = postgres_url
        self._timeout_ms = timeout_ms
        self._known: Mapping[str, _Known] | None = None
        self._version = ""
        self._book: KeyBook | None = None
        self._session = contextlib.AsyncExitStack()

    def principal_of(self, token: str) -> Principal:
        """Whose key it is. Raises Unauthenticated, in the same words whatever is wrong, and Unavailable before the keys
        could be read for the first time."""
        if self._known is None:
            raise Unavailable("the keys of callers could not be read yet")
        id_, _, secret = token.removeprefix(PREFIX).partition("_")
        secret_hash, end_s, principal = self._known.get(id_, NOBODY)
        if not hmac.compare_digest(_hash(secret), secret_hash) or end_s <= time.time():
            raise Unauthenticated(NOT_VALID)
        return principal

    async def refresh(self) -> None:
        """Reads the keys again if they have changed. Raises Unavailable; those that were read before stay then."""
        try:
            if self._book is None:
                self._book = await self._session.enter_async_context(KeyBook.open(self._url, self._timeout_ms))
            # Before the keys: what changes in between is noticed the next time.
            version = await self._book.version()
            if version != self._version:
                self._known = {key.id: _known(key) for key in await self._book.keys(usable=True)}
                self._version = version
        except Unavailable:
            await self.close()
            raise

    async def follow(self, stop: asyncio.Event) -> None:
        """Keeps the keys fresh until `stop`."""
        is_away = False
        while not stop.is_set():
            try:
                await self.refresh()
                is_away = False
            except (Unavailable, Misconfigured) as error:
                if not is_away:
                    log.warning("keys cannot be read; those known before stay", error=str(error))
                is_away = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), REFRESH_S)

    async def close(self) -> None:
        """Ends the session with PostgreSQL; the keys stay."""
        self._book = None
        await self._session.aclose()


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()


def _known(key: ApiKey) -> _Known:
    end_s = math.inf if key.expire_time_ms is None else key.expire_time_ms / 1000
    return key.secret_hash, end_s, Principal(f"key:{key.name}", key.roles)


# In the place of a key that is not there: nobody has its secret, and it has ended.
NOBODY: _Known = (secrets.token_bytes(32), 0.0, Principal("nobody", frozenset()))
