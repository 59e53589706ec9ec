"""The codes of campaigns: the use cases that operators and support call.

Codes are written to the ledger first and then published to the gate. Disabling and enabling go to the gate alone, so
that they work while PostgreSQL is away; the persister follows.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from vouchsafe.domain.campaign import CodeEntry
from vouchsafe.domain.codes import CodeFilter, CodeForm, CodeState, KeptCode, Operation
from vouchsafe.domain.errors import AlreadyExists, InvalidRequest, NotFound, RequestIdReused, Unavailable, Violation
from vouchsafe.domain.trail import Action, Note
from vouchsafe.gate.directory import CodeStanding, Directory
from vouchsafe.gate.gate import Gate
from vouchsafe.ledger.codes import CodeBook
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.ledger.trail import TrailBook
from vouchsafe.service.caller import author
from vouchsafe.service.imports import CodeImporter

NO_CODE = "there is no such code"
CODES_PER_READ = 2_000
CODES_PER_LOOK = 500
LOOKS_PER_PAGE = 20
# A code that is drawn may be taken, by chance; twice in a row it is not.
GIFT_TRIES = 3

# Where a page of operations ends: create_time_ms and id of its last.
OperationKey = tuple[int, str]


@dataclass(frozen=True, slots=True)
class CodeStatus:
    """A code as of now: how often it is used, uses that are held with it, and why it is disabled (None: it is not)."""

    entry: CodeEntry
    uses: int
    disabled_reason: str | None

    @property
    def state(self) -> CodeState:
        """Disabled outweighs whose it is."""
        if self.disabled_reason is not None:
            return CodeState.DISABLED
        return CodeState.ASSIGNED if self.entry.holder_id else CodeState.AVAILABLE


class Codes:
    """Every method raises Unavailable when a store that it needs is out of reach."""

    def __init__(self, gate: Gate, ledger: Ledger) -> None:
        self._gate = gate
        self._ledger = ledger
        self._directory = Directory(gate)
        self._book = CodeBook(ledger)
        self._trail = TrailBook(ledger)
        self.importer = CodeImporter(gate, ledger)

    # -- generating --------------------------------------------------------------------------------------------------

    async def generate(
        self, id_: str, campaign_id: str, form: CodeForm, use_limit: int, count: int, reason: str = ""
    ) -> Operation:
        """Begins an operation, or answers the one that has this id. Raises NotFound, InvalidRequest when the codes
        could be guessed, RequestIdReused when the operation is another."""
        operation = await self._book.get_operation(id_)
        if operation is None:
            form.check(count + await self._book.codes_of_form(form))
            operation = await self._book.create_operation(id_, campaign_id, form, use_limit, count, author(), reason)
        if operation is None:
            await self._check_campaign(campaign_id)
            operation = await self.operation(id_)  # somebody was faster
        asked = campaign_id, form, use_limit, count
        if asked != (operation.campaign_id, operation.form, operation.use_limit, operation.wanted):
            raise RequestIdReused(f"there is an operation {id_} already, with other contents; choose another id")
        return operation

    async def operation(self, id_: str) -> Operation:
        """How far an operation is. Raises NotFound."""
        operation = await self._book.get_operation(id_)
        if operation is None:
            raise NotFound(f"there is no operation {id_}")
        return operation

    async def operations(
        self, campaign_id: str | None, limit: int, after: OperationKey | None
    ) -> tuple[Sequence[Operation], OperationKey | None]:
        """At most `limit` operations, newest first, from behind `after` on, and where to go on (None: at the end)."""
        found = await self._book.list_operations(campaign_id, limit + 1, after)
        shown = found[:limit]
        return shown, (shown[-1].create_time_ms, shown[-1].id) if len(found) > limit else None

    # -- looking at codes --------------------------------------------------------------------------------------------

    async def get(self, code: str) -> CodeStatus:
        """A code as of now, by the gate. Raises NotFound."""
        return await self._status(await self._found(code))

    async def list_codes(
        self, wanted: CodeFilter, limit: int, after: str, *, is_used: bool | None = None
    ) -> tuple[Sequence[CodeStatus], str | None]:
        """At most `limit` codes in order, from behind `after` on, and where to go on (None: at the end). With `is_used`
        only those that are, or are not: then there may be fewer of them, and more to come."""
        if is_used is None:
            return await self._page(wanted, limit, after)
        # The ledger has no index to find used codes by: each redemption would pay for it. So the gate is asked.
        shown: list[CodeStatus] = []
        for _ in range(LOOKS_PER_PAGE):
            found, following = await self._page(wanted, CODES_PER_LOOK, after)
            shown += (status for status in found if (status.uses > 0) is is_used)
            if len(shown) > limit:
                return shown[:limit], shown[limit - 1].entry.code
            if following is None:
                return shown, None
            after = following
        return shown, after

    async def _page(self, wanted: CodeFilter, limit: int, after: str) -> tuple[Sequence[CodeStatus], str | None]:
        found = await self._book.list_codes(wanted, after, limit + 1)
        entries = [kept.entry for kept in found[:limit]]
        shown = list(map(_status, entries, await self._directory.look(entries)))
        return shown, entries[-1].code if len(found) > limit else None

    async def export(self, wanted: CodeFilter, reason: str = "") -> AsyncGenerator[Sequence[KeptCode], None]:
        """All codes that fit, in order, some at a time, by the ledger. It is noted before the first of them."""
        await self._trail.note(_exported(wanted, reason))
        after = ""
        while found := await self._book.list_codes(wanted, after, CODES_PER_READ):
            yield found
            after = found[-1].entry.code

    # -- giving and stopping -----------------------------------------------------------------------------------------

    async def assign(self, code: str, holder_id: str, valid_for_ms: int | None, reason: str = "") -> CodeStatus:
        """Gives a code to a customer; valid for so long from now on, or as the campaign says. Raises NotFound,
        AlreadyExists when another customer has it, InvalidRequest when it is for many."""
        now_ms = self._gate.clock.now_ms()
        entry = await self._book.assign(code, holder_id, now_ms, _later(now_ms, valid_for_ms), author(), reason)
        if entry is None:
            entry = await self._assigned_before(code, holder_id)
        # The reconciler does it again within a second, and then forgets that it had to.
        await self._directory.put([entry])
        return await self._status(entry)

    async def gift(
        self,
        request_id: str,
        campaign_id: str,
        holder_id: str,
        form: CodeForm,
        valid_for_ms: int | None,
        reason: str = "",
    ) -> CodeStatus:
        """Makes a code and gives it to a customer, once for each request id. Raises NotFound, InvalidRequest when the
        code could be guessed, RequestIdReused."""
        if form != CodeForm():
            form.check(1 + await self._book.codes_of_form(form))
        now_ms = self._gate.clock.now_ms()
        for _ in range(GIFT_TRIES):
            (code,) = form.draw(1)
            entry = CodeEntry(code, campaign_id, 1, holder_id, now_ms, _later(now_ms, valid_for_ms))
            given = await self._book.gift(entry, request_id, author(), reason) or await self._book.gift_of(request_id)
            if given is not None:
                if (given.campaign_id, given.holder_id) != (campaign_id, holder_id):
                    raise RequestIdReused(f"request_id {request_id} was used for another gift")
                await self._directory.put([given])
                return await self._status(given)
            await self._check_campaign(campaign_id)
        raise Unavailable("codes that were drawn are taken already; try again")

    async def disable(self, code: str, reason: str) -> CodeStatus:
        """Stops a code: once this returns, no later redemption of it succeeds on any server. Raises NotFound."""
        entry = await self._found(code)
        await self._directory.disable(entry, reason, author())
        return await self._status(entry)

    async def enable(self, code: str, reason: str) -> CodeStatus:
        """Lets a code be used again. Raises NotFound."""
        entry = await self._found(code)
        await self._directory.enable(entry, reason, author())
        return await self._status(entry)

    async def _found(self, code: str) -> CodeEntry:
        entry = await self._directory.find(code)
        if entry is None:
            raise NotFound(NO_CODE)
        return entry

    async def _status(self, entry: CodeEntry) -> CodeStatus:
        (standing,) = await self._directory.look([entry])
        return _status(entry, standing)

    async def _assigned_before(self, code: str, holder_id: str) -> CodeEntry:
        """The code, if it is the customer's already; else why it cannot be given."""
        kept = await self._book.get(code)
        if kept is None:
            raise NotFound(NO_CODE)
        if kept.entry.holder_id == holder_id:
            return kept.entry
        if kept.entry.holder_id:
            raise AlreadyExists("the code is given to another customer")
        raise InvalidRequest(Violation("code", "may be used without limit; give one away that has a use_limit"))

    async def _check_campaign(self, campaign_id: str) -> None:
        if await self._ledger.get_campaign(campaign_id) is None:
            raise NotFound(f"there is no campaign {campaign_id}")


def _status(entry: CodeEntry, standing: CodeStanding) -> CodeStatus:
    return CodeStatus(entry, standing.uses, standing.disabled_reason)


def _later(now_ms: int, valid_for_ms: int | None) -> int | None:
    return None if valid_for_ms is None else now_ms + valid_for_ms


def _exported(wanted: CodeFilter, reason: str) -> Note:
    target = "codes" if wanted.campaign_id is None else f"campaign:{wanted.campaign_id}"
    asked = {"state": wanted.state, "customer_id": wanted.holder_id}
    after = {name: value for name, value in asked.items() if value is not None}
    return Note(author(), Action.CODES_EXPORT, target, {}, after, reason)
