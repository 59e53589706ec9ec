"""Quotes: what Validate offered shortly before may pass limits (`Limits.honour_quoted`).

A quote's token is "<issue time in ms>-<signature>". It repeats nothing of what it is about, because the request that
brings it back does: the signature is over the time, the customer, the order and the codes.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence

import msgspec

from vouchsafe.domain.limits import Limits
from vouchsafe.domain.reasons import Reason, Refusal
from vouchsafe.domain.secret import Purpose, derived_key


class Quotes:
    """Signs quotes, and knows its own again. Without a secret it signs none and knows none."""

    def __init__(self, secret: str) -> None:
        self._key = derived_key(secret, Purpose.QUOTES) if secret else None

    def token(self, issue_time_ms: int, customer_id: str, order_id: str, codes: Sequence[str]) -> str:
        """The token of a quote, empty without a secret. `codes` in any order."""
        if self._key is None:
            return ""
        body = msgspec.json.encode([issue_time_ms, customer_id, order_id, sorted(codes)])
        return f"{issue_time_ms}-{hmac.digest(self._key, body, 'sha256').hex()[:32]}"

    def issue_time_ms(self, token: str, customer_id: str, order_id: str, codes: Sequence[str]) -> int | None:
        """When a token was issued for these, None when it was not."""
        match = re.fullmatch(r"([0-9]{1,16})-[0-9a-f]{32}", token)
        if match is None or self._key is None:
            return None
        issue_time_ms = int(match[1])
        own = self.token(issue_time_ms, customer_id, order_id, codes)
        return issue_time_ms if hmac.compare_digest(own, token) else None


def with_quote(refusal: Refusal, limits: Limits, issue_time_ms: int | None) -> Refusal:
    """Says of a refusal why the quote that came along did not help. One that was honoured has raised the limit that the
    refusal names, so it tells by itself that there was no more to have."""
    honour = limits.honour_quoted
    if honour is None:
        return refusal
    passable = {
        Reason.CAMPAIGN_LIMIT_REACHED: limits.total if honour.overdraft_uses else None,
        Reason.BUDGET_EXHAUSTED: limits.budget_minor if honour.overdraft_minor else None,
    }
    limit = passable.get(refusal.reason)
    if limit is None or refusal.metadata.get("limit") != str(limit):
        return refusal
    why = "invalid" if issue_time_ms is None else "expired"
    return msgspec.structs.replace(refusal, metadata={**refusal.metadata, "quote": why})
