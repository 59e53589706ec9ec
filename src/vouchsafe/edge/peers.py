"""Where a call comes from, and how often credentials from there were wrong."""

from __future__ import annotations

import time
from urllib.parse import unquote

from vouchsafe import telemetry
from vouchsafe.domain.errors import Throttled
from vouchsafe.domain.guessing import Debts, Rate, source_name

# Credentials that are wrong: this many at once from one address, and one more each tenth of a second. They have 256
# bits of chance, so this is not against guessing: it tells a caller who goes on and on with an old key to wait.
RATE = Rate(burst=500, interval_ms=100)
KNOWN_ADDRESSES = 10_000
ADDRESS = "address"


def address_of(peer: str) -> str:
    """The address alone of a peer as gRPC names it, "ipv4:192.0.2.1:4711" or "ipv6:%5B2001:db8::1%5D:4711"."""
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return kind
    return rest.rpartition(":")[0].strip("[]").partition("%")[0]


class Strangers:
    """What this worker knows of callers whom nobody knows."""

    def __init__(self) -> None:
        self._debts = Debts[str](KNOWN_ADDRESSES)

    def note(self, peer: str) -> None:
        """Their credentials were wrong. Raises Throttled when they were too often. Good ones from the same address are
        let in all the same: behind a proxy, it is that of all callers."""
        telemetry.FAILED_CREDENTIALS.inc()
        address, now_ms = source_name(address_of(peer)), time.monotonic_ns() // 1_000_000
        full_ms = self._debts.full_ms(address)
        if not RATE.left(full_ms, now_ms):
            telemetry.THROTTLED.labels(ADDRESS).inc()
            raise Throttled("credentials", RATE.wait_ms(full_ms, now_ms, 1), ADDRESS)
        self._debts.note(address, max(full_ms, now_ms) + RATE.interval_ms)
