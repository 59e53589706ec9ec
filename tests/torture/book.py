"""What the ledger says in the end: its events in the order in which the gate has decided."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field

import asyncpg

# In one partition the order of events is that of epochs and stream ids; a campaign lies in one.
EVENTS = """
select partition, epoch, ms, seq, kind, campaign_id, body from events order by epoch, ms, seq, partition
"""


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `takes` are the counters that it moves; `minor` is what a code takes off; `size` how many codes are
    decided together; what does not belong to its kind is empty."""

    id: str
    epoch: int
    kind: str
    campaign_id: str
    request_id: str
    order_id: str
    customer_id: str
    code: str
    combined_id: str
    reservation_id: str
    redemption_id: str
    rollback_id: str
    takes: dict[str, int]
    minor: int
    size: int
    uses_returned: int

    @property
    def money_returned(self) -> int:
        """What comes back of the discount, in minor units."""
        return self.minor if self.kind == "returned" else 0


@dataclass
class Book:
    """All events, and `rows`, the ids in the table that is drawn from them. `parts` are the events of what was redeemed
    by the id that was told for it; `decisions` the ids that a request was given."""

    events: list[Event] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    by_id: dict[str, Event] = field(default_factory=dict)
    parts: defaultdict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    decisions: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    @classmethod
    async def read(cls, url: str) -> Book:
        """Of a ledger that nobody writes to any more."""
        connection = await asyncpg.connect(url)
        try:
            rows = await connection.fetch(EVENTS)
            ids = await connection.fetch("select id from redemptions")
        finally:
            await connection.close()
        book = cls(rows=[row["id"] for row in ids])
        for row in rows:
            book.add(_event(row))
        return book

    def add(self, event: Event) -> None:
        """The next one."""
        self.events.append(event)
        self.by_id[event.id] = event
        if event.kind == "redeemed":
            self.parts[event.combined_id or event.id].append(event)
        if event.kind in ("combined", "rolled_back") or (event.kind == "redeemed" and not event.combined_id):
            self.decisions[f"{event.kind == 'rolled_back'} {event.request_id}"].add(event.id)


def _event(row: asyncpg.Record) -> Event:
    body = json.loads(row["body"])
    minor = body.get("discount_minor", 0)
    if row["kind"] == "redeemed":
        minor = body["discount"]["applied_minor"]
    return Event(
        id=f"r{row['partition']:02}-{row['epoch']}-{row['ms']}-{row['seq']}",
        epoch=row["epoch"],
        kind=row["kind"],
        campaign_id=row["campaign_id"],
        request_id=body.get("request_id", ""),
        order_id=body.get("order_id", ""),
        customer_id=body.get("customer_id", ""),
        code=body.get("code", ""),
        combined_id=body.get("combined_id", ""),
        reservation_id=body.get("reservation_id", ""),
        redemption_id=body.get("redemption_id", ""),
        rollback_id=body.get("rollback_id", ""),
        takes=body.get("takes", {}),
        minor=minor,
        size=len(body.get("applied", ())),
        uses_returned=body.get("uses", 0) if row["kind"] == "returned" else 0,
    )
