"""One secret of an installation, and a key of its own for each thing that it is good for."""

from __future__ import annotations

import hmac
from enum import StrEnum


class Purpose(StrEnum):
    """What a key is for. A word here never changes: what was hashed or signed under it would not be known again."""

    IDENTITIES = "identities"
    QUOTES = "quotes"
    BUCKETS = "buckets"


def derived_key(secret: str, purpose: Purpose) -> bytes:
    """The key for a purpose, 32 bytes; none of them tells anything of another."""
    return hmac.digest(secret.encode(), purpose.value.encode(), "sha256")
