"""Codes in the ledger: entered, listed, given away, and the operations that generate them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import asyncpg

from vouchsafe.domain.campaign import CodeEntry
from vouchsafe.domain.codes import CodeFilter, CodeForm, CodeState, KeptCode, Operation
from vouchsafe.domain.trail import UNKNOWN, Action, Author, Note
from vouchsafe.ledger.connection import connected, in_time, transaction
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.ledger.notes import note_actions
from vouchsafe.ledger.queries import SQL
from vouchsafe.ledger.rows import code_of, milliseconds, time_of

STATE_CONDITIONS = {
    CodeState.AVAILABLE: "holder_id = '' and disabled_reason is null",
    CodeState.ASSIGNED: "holder_id <> '' and disabled_reason is null",
    CodeState.DISABLED: "disabled_reason is not null",
}


class Publication(NamedTuple):
    """Codes that the gate may lack, under the number by which the ledger notes that."""

    number: int
    entries: list[CodeEntry]


class Generated(NamedTuple):
    """How many codes of a piece were new, and the number under which the gate lacks them; None for none."""

    created: int
    publication: int | None


class CodeBook:
    """What the ledger knows of codes. Every method answers within the ledger's timeout or raises Unavailable."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    # -- what the gate lacks -----------------------------------------------------------------------------------------

    async def unpublished(
        self, limit: int, *, campaign_id: str | None = None, operation_id: str | None = None
    ) -> list[Publication]:
        """At most so many, oldest first: of an operation, or of a campaign or of all without any operation."""
        found: dict[int, Publication] = {}
        for row in await self._ledger.fetch("unpublished_codes", campaign_id, operation_id, limit):
            found.setdefault(row["id"], Publication(row["id"], [])).entries.append(code_of(row))
        return list(found.values())

    async def mark_published(self, numbers: Sequence[int]) -> None:
        """The gate has what was noted under these numbers."""
        await self._ledger.fetchval("mark_codes_published", numbers)

    # -- codes -------------------------------------------------------------------------------------------------------

    async def list_codes(self, wanted: CodeFilter, after: str, limit: int) -> list[KeptCode]:
        """At most `limit` codes in order, from behind `after` on ("" to begin)."""
        # The conditions are written out, so that PostgreSQL sees which of its indexes serve.
        conditions, values = ["code > $1"], [after, limit]
        for column, value in (("campaign_id", wanted.campaign_id), ("holder_id", wanted.holder_id)):
            if value is not None:
                values.append(value)
                conditions.append(f"{column} = ${len(values)}")
        if wanted.holder_id is not None:
            conditions.append("holder_id <> ''")
        if wanted.state is not None:
            conditions.append(STATE_CONDITIONS[wanted.state])
        query = SQL["list_codes"].replace("code > $1", " and ".join(conditions))
        async with self._ledger.connection() as connection:
            return [_kept(row) for row in await connection.fetch(query, *values)]

    async def get(self, code: str) -> KeptCode | None:
        """One code, or None."""
        row = await self._ledger.fetchrow("get_code", code)
        return _kept(row) if row else None

    async def assign(
        self,
        code: str,
        holder_id: str,
        assign_time_ms: int,
        expire_time_ms: int | None,
        author: Author = UNKNOWN,
        reason: str = "",
    ) -> CodeEntry | None:
        """Gives a code to a customer. None when it has a holder already, or may be used without limit, or is none."""
        args = code, holder_id, time_of(assign_time_ms), _time_or_none(expire_time_ms)
        row = await self._act("assign_code", args, lambda row: _given(Action.CODES_ASSIGN, row, author, reason))
        return code_of(row) if row else None

    async def gift(
        self, entry: CodeEntry, request_id: str, author: Author = UNKNOWN, reason: str = ""
    ) -> CodeEntry | None:
        """Enters a code that is given to a customer at once. None when the campaign is none, the code is taken, or the
        request has its code."""
        assert entry.assign_time_ms is not None
        times = time_of(entry.assign_time_ms), _time_or_none(entry.expire_time_ms)
        args = entry.code, entry.campaign_id, entry.holder_id, *times, request_id
        row = await self._act("gift_code", args, lambda row: _given(Action.CODES_GIFT, row, author, reason))
        return code_of(row) if row else None

    async def gift_of(self, request_id: str) -> CodeEntry | None:
        """The code that a request has made, or None."""
        row = await self._ledger.fetchrow("get_gift", request_id)
        return code_of(row) if row else None

    @asynccontextmanager
    async def importing(self, campaign_id: str, *, whole: bool) -> AsyncIterator[CodeImport]:
        """Enters codes of a campaign over a connection of its own, piece by piece; with `whole` in one transaction, of
        which nothing stays unless `commit` is called."""
        async with connected(self._ledger.url, self._ledger.timeout_s) as connection:
            entering = CodeImport(connection, self._ledger.timeout_s, campaign_id)
            if whole:
                await entering.begin()
            yield entering

    # -- operations --------------------------------------------------------------------------------------------------

    async def create_operation(
        self,
        id_: str,
        campaign_id: str,
        form: CodeForm,
        use_limit: int,
        wanted: int,
        author: Author = UNKNOWN,
        reason: str = "",
    ) -> Operation | None:
        """Begins to generate codes. None when the id is taken, or there is no such campaign."""
        args = id_, campaign_id, form.pattern, form.charset, use_limit, wanted
        after = {"operation": id_, "codes": wanted, "pattern": form.pattern, "use_limit": use_limit}
        note = Note(author, Action.CODES_GENERATE, f"campaign:{campaign_id}", {}, after, reason)
        row = await self._act("create_operation", args, lambda _: note)
        return _operation(row) if row else None

    async def _act(
        self, query: str, args: Sequence[object], note: Callable[[asyncpg.Record], Note]
    ) -> asyncpg.Record | None:
        """The row that a query answers, and what it did noted with it."""
        async with self._ledger.connection() as connection, transaction(connection):
            row = await connection.fetchrow(SQL[query], *args)
            if row is not None:
                await note_actions(connection, note(row))
            return row

    async def codes_of_form(self, form: CodeForm) -> int:
        """How many codes of a form there are, or will be."""
        return int(await self._ledger.fetchval("codes_of_form", form.pattern, form.charset))

    async def get_operation(self, id_: str) -> Operation | None:
        """One operation, or None."""
        row = await self._ledger.fetchrow("get_operation", id_)
        return _operation(row) if row else None

    async def list_operations(
        self, campaign_id: str | None, limit: int, after: tuple[int, str] | None
    ) -> list[Operation]:
        """At most `limit` operations, newest first by (create_time_ms, id), from behind that pair on."""
        created_at, id_ = (None, "") if after is None else (time_of(after[0]), after[1])
        rows = await self._ledger.fetch("list_operations", campaign_id, limit, created_at, id_)
        return [_operation(row) for row in rows]

    async def running_operations(self) -> list[Operation]:
        """Those that are not at their end, oldest first."""
        return [_operation(row) for row in await self._ledger.fetch("running_operations")]

    async def generate(self, operation: Operation, codes: Sequence[str]) -> Generated | None:
        """Writes the next codes of an operation, and how far it is then, in one transaction: exactly once, however
        often it is tried. None when the operation is not where it was seen."""
        row = await self._ledger.fetchrow("generate_codes", operation.id, operation.done, codes)
        return Generated(row["created"], row["publication"]) if row else None

    async def end_operation(self, id_: str, error: str = "") -> None:
        """Ends it with an error; without one only once the gate has all of its codes."""
        await self._ledger.fetchval("end_operation", id_, error)


class CodeImport:
    """Codes of a campaign on their way into the ledger."""

    def __init__(self, connection: asyncpg.Connection, timeout_s: float, campaign_id: str) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._campaign_id = campaign_id

    async def begin(self) -> None:
        """From now on nothing stays before `commit`."""
        async with in_time(self._connection, self._timeout_s):
            await self._connection.execute("begin")

    async def add(self, entries: Sequence[CodeEntry]) -> set[str]:
        """Enters codes, and answers those that were free."""
        names, limits = [entry.code for entry in entries], [entry.use_limit for entry in entries]
        holders = [entry.holder_id for entry in entries]
        times = [None if entry.assign_time_ms is None else time_of(entry.assign_time_ms) for entry in entries]
        async with in_time(self._connection, self._timeout_s):
            rows = await self._connection.fetch(SQL["create_codes"], self._campaign_id, names, limits, holders, times)
        return {row["code"] for row in rows}

    async def note(self, note: Note) -> None:
        """Notes it with what was added: the last thing before `commit`."""
        async with in_time(self._connection, self._timeout_s):
            await note_actions(self._connection, note)

    async def commit(self) -> None:
        """All that was added stays."""
        async with in_time(self._connection, self._timeout_s):
            await self._connection.execute("commit")


def _given(action: Action, row: asyncpg.Record, author: Author, reason: str) -> Note:
    entry = code_of(row)
    after: dict[str, object] = {"campaign": entry.campaign_id, "customer_id": entry.holder_id}
    if row["expires_at"] is not None:
        after["expire_time"] = row["expires_at"].isoformat()
    return Note(author, action, f"code:{entry.code}", {}, after, reason)


def _time_or_none(ms: int | None) -> object:
    return None if ms is None else time_of(ms)


def _kept(row: asyncpg.Record) -> KeptCode:
    return KeptCode(code_of(row), row["disabled_reason"])


def _operation(row: asyncpg.Record) -> Operation:
    return Operation(
        id=row["id"],
        number=row["number"],
        campaign_id=row["campaign_id"],
        form=CodeForm(row["pattern"], row["charset"]),
        use_limit=row["use_limit"],
        wanted=row["wanted"],
        done=row["done"],
        error=row["error"],
        create_time_ms=milliseconds(row["created_at"]),
        end_time_ms=None if row["ended_at"] is None else milliseconds(row["ended_at"]),
    )
