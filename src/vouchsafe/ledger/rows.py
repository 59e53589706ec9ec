"""Rows and columns of the ledger as the domain has them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg

from vouchsafe.domain.campaign import Campaign, CampaignState, CodeEntry, Definition
from vouchsafe.ledger.connection import Rejected

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def time_of(ms: int) -> datetime:
    """Milliseconds since 1970 UTC as a column of time. Raises Rejected."""
    try:
        return _EPOCH + timedelta(milliseconds=ms)
    except OverflowError:
        raise Rejected(f"{ms} ms is not a time that the ledger can hold") from None


def milliseconds(time: datetime) -> int:
    """A column of time as milliseconds since 1970 UTC."""
    return (time - _EPOCH) // timedelta(milliseconds=1)


def campaign_of(row: asyncpg.Record) -> Campaign:
    """A row of `campaigns`."""
    definition = Definition.from_json(row["definition"])
    return Campaign(row["id"], row["version"], definition, milliseconds(row["created_at"]), CampaignState(row["state"]))


def code_of(row: asyncpg.Record) -> CodeEntry:
    """A row of `codes`."""
    assigned_at, expires_at = row["assigned_at"], row["expires_at"]
    return CodeEntry(
        row["code"],
        row["campaign_id"],
        row["use_limit"],
        row["holder_id"],
        None if assigned_at is None else milliseconds(assigned_at),
        None if expires_at is None else milliseconds(expires_at),
    )
