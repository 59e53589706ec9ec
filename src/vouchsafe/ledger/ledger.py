"""The ledger as typed methods, one for each query."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import msgspec
from asyncpg.pool import PoolConnectionProxy

from vouchsafe.domain.audit import Audit, LastAudit
from vouchsafe.domain.campaign import ANY_CAMPAIGN, Campaign, CampaignFilter, CampaignState, CodeEntry, Definition
from vouchsafe.domain.errors import AlreadyExists, Misconfigured, VouchsafeError
from vouchsafe.domain.partitions import PartitionState
from vouchsafe.domain.pricing import Discount
from vouchsafe.domain.redemption import Claim, CombinedClaim, Event, EventKind, Position, Redemption, StreamId
from vouchsafe.domain.rollback import Rollback, RollbackClaim
from vouchsafe.domain.trail import UNKNOWN, Action, Author, Note, paths
from vouchsafe.ledger.bodies import code_states, columns
from vouchsafe.ledger.changes import change_campaign
from vouchsafe.ledger.connection import (
    ENDED_SOON,
    check_server,
    connect_options,
    connected,
    domain_errors,
    dropped_when_cancelled,
    in_time,
    transaction,
)
from vouchsafe.ledger.locks import PartitionLocks
from vouchsafe.ledger.migrate import check_schema
from vouchsafe.ledger.notes import note_actions, notes_of
from vouchsafe.ledger.queries import SQL
from vouchsafe.ledger.rows import campaign_of, milliseconds, time_of
from vouchsafe.ledger.steps import Steps

# What the column can hold.
MAX_EPOCH = 2**31 - 1


class OffsetMoved(VouchsafeError):
    """The ledger does not hold the partition at this epoch and offset: somebody else has written meanwhile."""


@dataclass(frozen=True, slots=True)
class Installation:
    """Whose ledger this is; `partitions` are in order, from 0."""

    id: str
    partitions: tuple[PartitionState, ...]


@dataclass(frozen=True, slots=True)
class CampaignCounters:
    """What the ledger holds of a campaign as of `position`, "<partition>-<epoch>-<ms>-<seq>"."""

    redeemed_count: int
    discount_minor: int
    customer_count: int
    position: str


class Ledger:
    """Everything that the service asks of PostgreSQL. Every method answers within the timeout or raises Unavailable,
    after which it is not known whether it was carried out."""

    def __init__(self, pool: asyncpg.Pool, url: str, timeout_s: float) -> None:
        self._pool = pool
        self.url = url
        self.timeout_s = timeout_s

    @classmethod
    async def connect(cls, url: str, *, pool_size: int, timeout_ms: int) -> Ledger:
        """Checks that the server and the schema are what the program needs. Raises Unavailable, or Misconfigured saying
        what to do."""
        timeout_s = timeout_ms / 1000
        async with connected(url, timeout_s) as connection, in_time(connection, timeout_s):
            await check_server(connection)
            await check_schema(connection)
        pool = asyncpg.create_pool(url, min_size=0, max_size=pool_size, reset=_keep, **connect_options(timeout_s))
        with domain_errors():
            await pool
        return cls(pool, url, timeout_s)

    async def close(self) -> None:
        """Waits for what is under way, within the timeout, and closes every connection."""
        try:
            await asyncio.wait_for(self._pool.close(), self.timeout_s)
        except TimeoutError:
            self._pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[PoolConnectionProxy]:
        """A connection of the pool; what is done with it succeeds within the timeout, or raises Unavailable."""
        with domain_errors():
            async with asyncio.timeout(self.timeout_s):
                connection = await self._pool.acquire()
                try:
                    with dropped_when_cancelled(connection):
                        yield connection
                finally:
                    await self._pool.release(connection, timeout=self.timeout_s)

    async def fetch(self, query: str, *args: object) -> list[asyncpg.Record]:
        """The rows that a query answers."""
        async with self.connection() as connection:
            return await connection.fetch(SQL[query], *args)

    async def fetchrow(self, query: str, *args: object) -> asyncpg.Record | None:
        """Its first row."""
        async with self.connection() as connection:
            return await connection.fetchrow(SQL[query], *args)

    async def fetchval(self, query: str, *args: object) -> Any:
        """Its first value."""
        async with self.connection() as connection:
            return await connection.fetchval(SQL[query], *args)

    async def ping(self) -> None:
        """Returns when PostgreSQL answers."""
        async with self.connection() as connection:
            await connection.execute("select 1")

    # -- the installation and its partitions -------------------------------------------------------------------------

    async def installation(self) -> Installation | None:
        """The installation, or None before `bootstrap`."""
        return _installation(await self.fetch("get_installation"))

    async def bootstrap(self, partitions: int) -> Installation:
        """The installation, created with so many partitions if there is none; one that exists stays as it is."""
        async with self.connection() as connection, transaction(connection):
            if await connection.fetchval(SQL["create_installation"], partitions):
                await connection.execute(SQL["create_partitions"], partitions)
            installation = _installation(await connection.fetch(SQL["get_installation"]))
        if installation is None:
            raise Misconfigured("the ledger has an installation without partitions; restore its data")
        return installation

    async def partition(self, partition: int) -> PartitionState:
        """One partition as it is now."""
        (row,) = await self.fetch("get_partition", partition)
        return _partition_state(row)

    async def begin_epoch(self, state: PartitionState, epoch_seen: int, last: StreamId | None) -> PartitionState | None:
        """Begins the next epoch of a partition: from then on nothing of an earlier one is written here. `epoch_seen` is
        the gate's. With `last` only if the ledger holds nothing behind it. None: the ledger is not as `state` says."""
        ms, seq = (None, None) if last is None else last
        row = await self.fetchrow("begin_epoch", state.partition, state.epoch, epoch_seen, ms, seq)
        return _partition_state(row) if row else None

    async def mark_opened(self, partition: int, epoch: int) -> None:
        """Notes that the gate holds the partition. Doing so again changes nothing."""
        await self.fetchval("mark_opened", partition, epoch)

    @asynccontextmanager
    async def partition_locks(self) -> AsyncIterator[PartitionLocks]:
        """Locks on partitions over a connection of their own; leaving frees them all, and so does the end of this
        process, at once, and that of this machine, within three seconds."""
        async with connected(self.url, self.timeout_s, ENDED_SOON) as connection:
            yield PartitionLocks(connection, self.timeout_s)

    # -- campaigns and codes -----------------------------------------------------------------------------------------

    async def create_campaign(
        self,
        campaign_id: str,
        definition: Definition,
        codes: Sequence[CodeEntry],
        kept: CampaignState = CampaignState.ACTIVE,
        author: Author = UNKNOWN,
        reason: str = "",
    ) -> Campaign:
        """Writes a campaign, ACTIVE or a DRAFT, with its codes, all or nothing. Raises AlreadyExists naming the id or
        the code."""
        names, limits = [entry.code for entry in codes], [entry.use_limit for entry in codes]
        if len(set(names)) < len(names) or any(entry.campaign_id != campaign_id for entry in codes):
            raise ValueError("codes must be different, and of this campaign")
        async with self.connection() as connection, transaction(connection):
            row = await connection.fetchrow(SQL["create_campaign"], campaign_id, definition.to_json(), kept)
            if row is None:
                raise AlreadyExists(f"there is a campaign {campaign_id} already")
            holders = [entry.holder_id for entry in codes]
            times = [None if entry.assign_time_ms is None else time_of(entry.assign_time_ms) for entry in codes]
            created = await connection.fetch(SQL["create_codes"], campaign_id, names, limits, holders, times)
            if len(created) < len(codes):
                free = {record["code"] for record in created}
                taken = next(name for name in names if name not in free)
                raise AlreadyExists(f"the code {taken} belongs to another campaign")
            campaign = campaign_of(row)
            after = {**paths(json.loads(definition.to_json())), "codes": len(codes)}
            target = f"campaign:{campaign_id}"
            await note_actions(connection, Note(author, Action.CAMPAIGN_CREATE, target, {}, after, reason))
            return campaign

    async def taken_codes(self, codes: Sequence[str]) -> list[str]:
        """Which of these codes exist already, in order."""
        return [row["code"] for row in await self.fetch("taken_codes", codes)]

    async def update_campaign(
        self,
        campaign_id: str,
        change: Callable[[Definition], Definition],
        version: int | None,
        author: Author = UNKNOWN,
        reason: str = "",
    ) -> Campaign | None:
        """Puts what `change` makes of a definition in its place, as the next version; nobody else changes it between.
        None: there is no such campaign, or it is not at `version`, unless that is None. What `change` raises is raised,
        and nothing changes then."""
        async with self.connection() as connection, transaction(connection):
            changed = await change_campaign(connection, campaign_id, change, version)
            if changed is None:
                return None
            await note_actions(connection, changed.note(Action.CAMPAIGN_UPDATE, author, reason))
            return changed.campaign

    async def get_campaign(self, campaign_id: str) -> Campaign | None:
        """A definition, or None."""
        row = await self.fetchrow("get_campaign", campaign_id)
        return campaign_of(row) if row else None

    async def list_campaigns(
        self, limit: int, after: tuple[int, str] | None, wanted: CampaignFilter = ANY_CAMPAIGN
    ) -> list[Campaign]:
        """At most `limit` campaigns, newest first by (create_time_ms, id), from behind that pair on."""
        created_at, campaign_id = (None, "") if after is None else (time_of(after[0]), after[1])
        chosen = (wanted.is_archived_shown, wanted.state, wanted.label or None)
        rows = await self.fetch("list_campaigns", limit, created_at, campaign_id, *chosen)
        return [campaign_of(row) for row in rows]

    async def unpublished(self, limit: int, after: str = "") -> list[Campaign]:
        """At most `limit` campaigns that the gate may not have in this version, by id, from behind `after` on."""
        return [campaign_of(row) for row in await self.fetch("unpublished", limit, after)]

    async def mark_published(self, campaign_id: str, version: int) -> None:
        """Notes that the gate has this version or a later one."""
        await self.fetchval("mark_published", campaign_id, version)

    # -- redemptions and events --------------------------------------------------------------------------------------

    async def get_redemption(self, position: Position) -> Redemption | None:
        """The redemption at a position, or None."""
        row = await self.fetchrow("get_redemption", str(position))
        if row is None:
            return await self._get_combined(position)
        values = {name: row[name] for name in Claim.__struct_fields__ if name != "discount" and row[name] is not None}
        if row["takes"] is not None:
            values["takes"] = json.loads(row["takes"])
        minor, told = row["discount_minor"], row["discount"]
        discount = Discount(minor, minor) if told is None else _discount(told)
        return Redemption(position, milliseconds(row["redeemed_at"]), Claim(discount=discount, **values))

    async def _get_combined(self, position: Position) -> Redemption | None:
        row = await self._get_event(position, EventKind.COMBINED)
        if row is None:
            return None
        return Redemption(position, milliseconds(row["at"]), CombinedClaim.from_json(row["body"]))

    async def get_rollback(self, position: Position) -> Rollback | None:
        """The rollback at a position, or None."""
        row = await self._get_event(position, EventKind.ROLLED_BACK)
        if row is None:
            return None
        return Rollback(position, milliseconds(row["at"]), RollbackClaim.from_json(row["body"]))

    async def _get_event(self, position: Position, kind: EventKind) -> asyncpg.Record | None:
        partition, epoch, stream_id = position
        if epoch > MAX_EPOCH:  # an id may name what no row can have
            return None
        return await self.fetchrow("get_event", partition, epoch, *stream_id, kind.value)

    async def which_events(self, positions: Sequence[Position]) -> set[Position]:
        """Those of these positions, at least one, at which the ledger has an event."""
        places = [(partition, epoch, *stream_id) for partition, epoch, stream_id in positions]
        rows = await self.fetch("which_events", *map(list, zip(*places, strict=True)))
        return {Position(row["partition"], row["epoch"], StreamId(row["ms"], row["seq"])) for row in rows}

    async def count_redemptions(self, campaign_id: str) -> int:
        """How many redemptions of a campaign the ledger holds."""
        return int(await self.fetchval("count_redemptions", campaign_id))

    async def campaign_counters(self, campaign_id: str, partition: int) -> CampaignCounters:
        """What the ledger holds of a campaign, and up to where it holds everything of the campaign's partition."""
        (row,) = await self.fetch("campaign_counters", campaign_id, partition)
        return CampaignCounters(**row)

    async def persist(self, partition: int, epoch: int, offset: StreamId, events: Sequence[Event]) -> None:
        """Writes the events that follow `offset` in the partition's outbox and moves the offset to the last of them, in
        one transaction: each event is in the ledger exactly once, however often this is called.

        `events` are at least one, in the order of the stream. Raises OffsetMoved when the ledger is not at `offset`
        (any more), and Rejected when an event cannot be written.
        """
        last = events[-1].position.stream_id
        values = *columns(partition, offset, events), *code_states(events), *Steps.of(events).columns
        args = partition, epoch, *offset, *last, *values
        notes = notes_of(events)
        if not notes:  # nearly always; a statement alone is a transaction, and one round trip
            moved = await self.fetchval("persist", *args)
        else:
            async with self.connection() as connection, transaction(connection):
                moved = await connection.fetchval(SQL["persist"], *args)
                if moved:
                    await note_actions(connection, *notes)
        if not moved:
            raise OffsetMoved(f"the ledger does not hold partition {partition} at epoch {epoch}, offset {offset}")

    async def set_aside(
        self, partition: int, epoch: int, offset: StreamId, position: Position, fields: Sequence[bytes], reason: str
    ) -> None:
        """Keeps the entry at `position`, which follows `offset`, beside the book and moves the offset to it, as
        `persist` does. `fields` are its names and values in turn. Raises OffsetMoved."""
        if not await self.fetchval(
            "set_aside", partition, epoch, *offset, *position.stream_id, position.epoch, fields, reason
        ):
            raise OffsetMoved(f"the ledger does not hold partition {partition} at epoch {epoch}, offset {offset}")

    async def count_set_aside(self) -> int:
        """How many entries are set aside."""
        return int(await self.fetchval("count_set_aside"))

    # -- audits ------------------------------------------------------------------------------------------------------

    async def is_audit_due(self, interval_ms: int) -> bool:
        """Whether no audit has ended within the interval."""
        return bool(await self.fetchval("audit_due", interval_ms))

    async def save_audit(self, found: Audit, took_ms: int) -> None:
        """Keeps the numbers of an audit that has just ended."""
        differ = (len(found.closed), found.differing, len(found.rows_differ), found.set_aside)
        await self.fetchval("save_audit", took_ms, found.campaigns, found.counters, found.events, *differ)

    async def last_audit(self) -> LastAudit | None:
        """What `save_audit` has kept last, or None."""
        row = await self.fetchrow("last_audit")
        if row is None:
            return None
        _, began_at, ended_at, *numbers = row
        return LastAudit(milliseconds(began_at), milliseconds(ended_at), *numbers)


def _installation(rows: Sequence[asyncpg.Record]) -> Installation | None:
    return Installation(rows[0]["id"], tuple(map(_partition_state, rows))) if rows else None


def _partition_state(row: asyncpg.Record) -> PartitionState:
    return PartitionState(row["partition"], row["epoch"], row["opened"], StreamId(row["offset_ms"], row["offset_seq"]))


_discount = msgspec.json.Decoder(Discount).decode


async def _keep(_: asyncpg.Connection) -> None:
    """Nothing of a session is changed while it is used, so a connection goes back to the pool without a round trip."""
