"""Codes as lines of a CSV file that comes in pieces, read without keeping more than a line."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vouchsafe.domain.campaign import normalise_code
from vouchsafe.domain.errors import InvalidRequest, Violation

COLUMNS = ("code", "use_limit", "customer_id")
MAX_LINE_BYTES = 1_024
MAX_USE_LIMIT = 1_000_000

_is_code = re.compile(r"[A-Z0-9_-]{3,64}").fullmatch
_is_customer = re.compile(r"[!-~]{1,128}").fullmatch
_is_number = re.compile(r"[0-9]{1,7}").fullmatch


@dataclass(frozen=True, slots=True)
class CodeLine:
    """One line: the code in the form in which it is stored, how often it may be used and to whom it is given ("" for
    nobody); or what is wrong with it, and then nothing else counts."""

    number: int
    code: str = ""
    use_limit: int = 1
    holder_id: str = ""
    problem: str = ""


class CodeLines:
    """Reads one file. The first line names the columns; empty lines are passed over."""

    def __init__(self) -> None:
        self._rest = b""
        self._number = 0
        self._columns: Sequence[str] = ()

    def feed(self, data: bytes) -> Iterator[CodeLine]:
        """The lines that end in the next piece. Raises InvalidRequest when the first is not understood."""
        *lines, rest = (self._rest + data).split(b"\n")
        # A line that is too long is remembered to be just that, however long it is.
        self._rest = rest[: MAX_LINE_BYTES + 1]
        for line in lines:
            yield from self._read(line)

    def end(self) -> Iterator[CodeLine]:
        """The last line, if it does not end in a line break."""
        rest, self._rest = self._rest, b""
        if rest:
            yield from self._read(rest)
        if not self._columns:
            raise InvalidRequest(Violation("csv", f"is empty; its first line names the columns: {','.join(COLUMNS)}"))

    def _read(self, line: bytes) -> Iterator[CodeLine]:
        self._number += 1
        if len(line) > MAX_LINE_BYTES:
            yield self._bad(f"has more than {MAX_LINE_BYTES} bytes")
            return
        try:
            text = line.decode("utf-8-sig" if self._number == 1 else "utf-8").strip("\r")
            cells = next(csv.reader([text], strict=True), [])
        except (UnicodeDecodeError, csv.Error):
            text, cells = "", ["\0"]
        if not self._columns:
            self._columns = _columns(cells)
        elif cells:
            yield self._line(cells)

    def _line(self, cells: Sequence[str]) -> CodeLine:
        if cells == ["\0"]:
            return self._bad("is not a line of CSV in UTF-8")
        if len(cells) != len(self._columns):
            return self._bad(f"has {len(cells)} values; the first line names {len(self._columns)} columns")
        values = dict(zip(self._columns, map(str.strip, cells), strict=True))
        code, use_limit = normalise_code(values["code"]), values.get("use_limit") or "1"
        holder_id = values.get("customer_id", "")
        if not _is_code(code):
            return self._bad("code: has to be 3 to 64 letters, digits, hyphens and underscores")
        if not _is_number(use_limit) or not 1 <= int(use_limit) <= MAX_USE_LIMIT:
            return self._bad(f"use_limit: has to be a number from 1 to {MAX_USE_LIMIT}, or empty for 1")
        if holder_id and not _is_customer(holder_id):
            return self._bad("customer_id: has to be up to 128 visible ASCII characters, or empty for nobody")
        return CodeLine(self._number, code, int(use_limit), holder_id)

    def _bad(self, problem: str) -> CodeLine:
        if not self._columns:
            raise InvalidRequest(Violation("csv", f"line 1 {problem}; it has to name the columns: {','.join(COLUMNS)}"))
        return CodeLine(self._number, problem=problem)


def _columns(cells: Sequence[str]) -> Sequence[str]:
    names = [cell.strip().lower() for cell in cells]
    if "code" not in names or len(set(names)) < len(names) or not set(names) <= set(COLUMNS):
        raise InvalidRequest(
            Violation(
                "csv", f"line 1 has to name the columns, each once: code, and of {','.join(COLUMNS[1:])} what is there"
            )
        )
    return names
