"""Importing codes from a file that comes in pieces: memory holds one piece, however long the file is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from vouchsafe.domain.campaign import CodeEntry
from vouchsafe.domain.code_lines import CodeLine, CodeLines
from vouchsafe.domain.errors import NotFound
from vouchsafe.gate.gate import Gate
from vouchsafe.ledger.codes import CodeBook, CodeImport
from vouchsafe.ledger.ledger import Ledger
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

    async def run(self, campaign_id: str, data: AsyncIterator[bytes], *, whole: bool) -> ImportReport:
        """Imports what is good, or with `whole` nothing when anything is bad. Raises NotFound, and InvalidRequest when
        the first line is not understood. After Unavailable some of it may be imported, but with `whole` nothing, unless
        it came to the last step: then sending it again tells."""
        if await self._ledger.get_campaign(campaign_id) is None:
            raise NotFound(f"there is no campaign {campaign_id}")
        report = ImportReport()
        async with CodeBook(self._ledger).importing(campaign_id, whole=whole) as entering:
            lines: list[CodeLine] = []
            async for some in _lines(data):
                lines += some
                if len(lines) >= LINES_PER_PIECE:
                    await self._enter(entering, campaign_id, lines, report)
                    lines = []
            await self._enter(entering, campaign_id, lines, report)
            if whole and report.bad_count:
                report.imported = 0
                return report
            if whole:
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


async def _lines(data: AsyncIterator[bytes]) -> AsyncIterator[Sequence[CodeLine]]:
    reader = CodeLines()
    async for piece in data:
        yield list(reader.feed(piece))
    yield list(reader.end())
