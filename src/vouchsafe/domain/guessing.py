"""Whoever tries codes that fail is slowed down, by buckets of tokens: each failed code takes one, and time brings them
back.

All there is to know of a bucket is when it will be full again: a token is missing for every interval until then, and a
bucket that is full is like one that there never was.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Hashable
from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar

Name = TypeVar("Name", bound=Hashable)


class Kind(StrEnum):
    """Whose failures a bucket counts: a customer's and a source's are those with one principal."""

    CUSTOMER = "customer"
    SOURCE = "source"
    PRINCIPAL = "principal"


class Bucket(NamedTuple):
    """One bucket. The name is for this process only: a store gets a hash of it."""

    kind: Kind
    name: str


class Rate(NamedTuple):
    """A full bucket has `burst` tokens; one comes back each `interval_ms`."""

    burst: int
    interval_ms: int

    def left(self, full_ms: int, now_ms: int) -> int:
        """How many whole tokens are there now, in a bucket that is full again at `full_ms`."""
        missing_ms = max(0, full_ms - now_ms)
        return max(0, self.burst - -(-missing_ms // self.interval_ms))

    def wait_ms(self, full_ms: int, now_ms: int, count: int) -> int:
        """How long until `count` tokens are there, 0 when they are."""
        return max(0, full_ms - (self.burst - count) * self.interval_ms - now_ms)


class Debts(Generic[Name]):
    """When buckets are full again, of those used last; a bucket that is not here is taken for full."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._full_ms: OrderedDict[Name, int] = OrderedDict()

    def full_ms(self, name: Name) -> int:
        """When it is full again, 0 when nothing is known of it."""
        return self._full_ms.get(name, 0)

    def note(self, name: Name, full_ms: int) -> None:
        """It is full again then."""
        self._full_ms[name] = full_ms
        self._full_ms.move_to_end(name)
        if len(self._full_ms) > self._size:
            self._full_ms.popitem(last=False)


def source_name(text: str) -> str:
    """What a source counts as: addresses of IPv6 by their first 64 bits, which is what one household has."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address.packed[:8] + bytes(8), 64)))
