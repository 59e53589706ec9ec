"""Who asks, and what they are trusted with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum


class Role(StrEnum):
    """What a caller may do; the protos say which methods each may call. None includes another, but for ADMIN."""

    CHECKOUT = "checkout"
    STOREFRONT = "storefront"
    VIEWER = "viewer"
    SUPPORT = "support"
    OPERATOR = "operator"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller whose credentials were good. The name begins with their kind: "key:", "token:" or "certificate:"."""

    name: str
    roles: frozenset[Role]

    @property
    def is_trusted(self) -> bool:
        """Whether they may be told what is wrong with a code; a storefront alone is not."""
        return not self.roles.isdisjoint(TRUSTED)


# They ask for shoppers, and keep what they are told from who guesses.
TRUSTED = frozenset((Role.CHECKOUT, Role.SUPPORT, Role.OPERATOR, Role.ADMIN))

# Everybody, where nobody is asked for credentials.
ANYBODY = Principal("anybody", frozenset(Role))


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is kept of a key: never its secret, only the SHA-256 of it. Times in milliseconds since 1970 UTC; None: it
    does not expire, or was not revoked."""

    id: str
    name: str
    roles: frozenset[Role]
    create_time_ms: int
    expire_time_ms: int | None = None
    revoke_time_ms: int | None = None
    secret_hash: bytes = field(default=b"", repr=False)


def known_roles(names: Iterable[str]) -> frozenset[Role]:
    """Those of the names that are roles; what a later release may mean by the others is nothing here."""
    return frozenset(Role(name) for name in names if name in set(Role))
