"""Importing codes from a file that comes in pieces: memory holds one piece, however long the file is."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

from vouchsafe.domain.campaign import CodeEntry
from vouchsafe.domain.code_lines import CodeLine, CodeLines
from vouchsafe.domain.errors import NotFound
from vouchsafe.domain.trail import Action, Note
from vouchsafe.gate.gate import Gate
from vouchsafe.ledger.codes import CodeBook, CodeImport
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.service.caller import author
from vouchsafe.service.publish import publish_codes

LINES_PER_PIECE = 2_000
TOLD_LINES = 1_000


@dataclass(slots=True)
class ImportReport:
    """How many codes were imported, how many lines are bad, and the first of those with what is wrong."""

    imported: int = 0
    bad_count: int = 0
    bad: list[CodeLine] = field(default_factory=list)

    def note(self, number: int, problem: str) -> None:
        """A line is bad."""
        self.bad_count += 1
        if len(self.bad) < TOLD_LINES:
            self.bad.append(CodeLine(number, problem=problem))


class CodeImporter:
    """Every method raises Unavailable when a store is out of reach."""

    def __init__(self, gate: Gate, ledger: Ledger) -> None:
        self._gate = gate
        self._ledger = ledger

    async def run(self, campaign_id: str, data: AsyncIterator[bytes], *, whole: bool, reason: str = "") -> ImportReport:
        """Imports what is good, or with `whole` nothing when anything is bad. Raises NotFound, and InvalidRequest when
        the first line is not understood. After Unavailable some of it may be imported, but with `whole` nothing, unless
        it came to the last step: then sending it again tells."""
        if await self._ledger.get_campaign(campaign_id) is None:
            raise NotFound(f"there is no campaign {campaign_id}")
        report = ImportReport()
        async with CodeBook(self._ledger).importing(campaign_id, whole=whole) as entering:
            lines: list[CodeLine] = []
            notes = _Notes(campaign_id, reason)
            async for some in _lines(data):
                lines += some
                if len(lines) < LINES_PER_PIECE:
                    continue
                begins = not whole and not notes.has_begun
                if begins:
                    await entering.begin()
                await self._enter(entering, campaign_id, lines, report)
                if begins:
                    await entering.note(notes.begun())
                    await entering.commit()
                lines = []
            if not whole:
                await entering.begin()
            await self._enter(entering, campaign_id, lines, report)
            if whole and report.bad_count:
                report.imported = 0
                return report
            if report.imported or notes.has_begun:
                await entering.note(notes.ended(report))
            await entering.commit()
        await publish_codes(self._gate, self._ledger, campaign_id=campaign_id)
        return report

    async def _enter(
        self, entering: CodeImport, campaign_id: str, lines: Sequence[CodeLine], report: ImportReport
    ) -> None:
        now_ms = self._gate.clock.now_ms()
        entries: dict[str, tuple[int, CodeEntry]] = {}
        for line in lines:
            if line.problem:
                report.note(line.number, line.problem)
            elif line.code in entries:
                report.note(line.number, f"code: stands in line {entries[line.code][0]} already")
            else:
                given_ms = now_ms if line.holder_id else None
                entry = CodeEntry(line.code, campaign_id, line.use_limit, line.holder_id, given_ms)
                entries[line.code] = line.number, entry
        if not entries:
            return
        created = await entering.add([entry for _, entry in entries.values()])
        for code, (number, _) in entries.items():
            if code not in created:
                report.note(number, "code: exists already")
        report.imported += len(created)


class _Notes:
    """What the trail is told of an import: that it has ended, and of one in several transactions, which may be cut off
    between them, in the first that it has begun."""

    def __init__(self, campaign_id: str, reason: str) -> None:
        self._target = f"campaign:{campaign_id}"
        self._reason = reason
        self._id = uuid.uuid4().hex
        self.has_begun = False

    def begun(self) -> Note:
        """Codes are being entered."""
        self.has_begun = True
        return self._note({"state": "begun"})

    def ended(self, report: ImportReport) -> Note:
        """All are entered."""
        return self._note({"state": "ended", "imported": report.imported, "bad_lines": report.bad_count})

    def _note(self, after: Mapping[str, object]) -> Note:
        return Note(author(), Action.CODES_IMPORT, self._target, {}, {"import": self._id, **after}, self._reason)


async def _lines(data: AsyncIterator[bytes]) -> AsyncIterator[Sequence[CodeLine]]:
    reader = CodeLines()
    async for piece in data:
        yield list(reader.feed(piece))
    yield list(reader.end())
