"""How codes are made: a form with gaps, filled by the system's source of unguessable randomness."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import NamedTuple

import msgspec

from vouchsafe.domain.campaign import CodeEntry
from vouchsafe.domain.errors import InvalidRequest, Violation

GAP = "#"
# Capitals and digits without those that are taken for each other: 0 and O; 1, I and L.
CHARSET = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"
LENGTH = 12
MAX_CODE_LENGTH = 64
# Of so many guesses, no more than one may be a code.
GUESSES_PER_CODE = 1_000_000


class CodeForm(msgspec.Struct, frozen=True):
    """What codes look like: each `#` of the pattern is one character of the charset, chosen by chance."""

    pattern: str = GAP * LENGTH
    charset: str = CHARSET

    @property
    def space(self) -> int:
        """How many different codes there can be."""
        return int(len(self.charset) ** self.pattern.count(GAP))

    def guesses_per_code(self, codes: int) -> int:
        """Of how many guesses in this form one is a code, on average, when there are so many codes."""
        return self.space // max(1, codes)

    def check(self, codes: int) -> None:
        """Raises InvalidRequest, saying what would be accepted, when so many codes can be guessed too easily."""
        if self.guesses_per_code(codes) >= GUESSES_PER_CODE:
            return
        gaps = 1
        while len(self.charset) ** gaps < codes * GUESSES_PER_CODE:
            gaps += 1
        raise InvalidRequest(
            Violation(
                "form",
                f"{self.space:,} different codes are too few for {codes:,}: one guess in "
                f"{self.guesses_per_code(codes):,} would be a code, and at most one in {GUESSES_PER_CODE:,} is "
                f"accepted; give a length of {gaps} or more, or a pattern with as many {GAP}",
            )
        )

    def draw(self, count: int) -> list[str]:
        """So many codes; of one that was drawn before there is no memory."""
        literals = re.split(f"{GAP}+", self.pattern)
        runs = [len(run) for run in re.findall(f"{GAP}+", self.pattern)]
        text = _characters(self.charset, count * sum(runs))
        codes, at = [], 0
        for _ in range(count):
            filled = []
            for run in runs:
                filled.append(text[at : at + run])
                at += run
            codes.append("".join(chain(*zip(literals, (*filled, ""), strict=True))))
        return codes


def code_form(*, charset: str, length: int, prefix: str, postfix: str, pattern: str) -> CodeForm:
    """The form that an operator asks for; empty or 0 stands for the default. Letters become capitals, as codes are
    compared. Raises InvalidRequest."""
    charset = charset.upper() or CHARSET
    if len(set(charset)) < len(charset):
        raise InvalidRequest(
            Violation("form.charset", "has a character twice; capitals and small letters are the same, give each once")
        )
    whole = f"{prefix}{pattern or GAP * (length or LENGTH)}{postfix}".upper()
    if len(whole) > MAX_CODE_LENGTH:
        raise InvalidRequest(
            Violation("form", f"makes codes of {len(whole)} characters; at most {MAX_CODE_LENGTH} are accepted")
        )
    return CodeForm(whole, charset)


def _characters(charset: str, count: int) -> str:
    """Characters of a charset, each as likely as the others: of the 256 values of a byte those that are left over, when
    each character has got as many as the others, are not used."""
    size = len(charset)
    used = 256 - 256 % size
    table = bytes(ord(charset[value % size]) for value in range(256))
    unused = bytes(range(used, 256))
    found = b""
    while len(found) < count:
        missing = count - len(found)
        found += secrets.token_bytes(missing * 256 // used + 16).translate(table, unused)
    return found[:count].decode()


class OperationState(StrEnum):
    """Where an operation is."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Operation:
    """Codes that are being generated: `done` of `wanted` are in the ledger. Times are milliseconds since 1970 UTC;
    `error` says why it failed. `number` is its own, counted from 1."""

    id: str
    number: int
    campaign_id: str
    form: CodeForm
    use_limit: int
    wanted: int
    done: int
    error: str
    create_time_ms: int
    end_time_ms: int | None

    @property
    def state(self) -> OperationState:
        """By what the ledger says."""
        if self.end_time_ms is None:
            return OperationState.RUNNING
        return OperationState.FAILED if self.error else OperationState.SUCCEEDED


class CodeState(StrEnum):
    """What a listing of codes can be narrowed to."""

    AVAILABLE = "available"  # given to nobody
    ASSIGNED = "assigned"
    DISABLED = "disabled"  # whether given or not


class KeptCode(NamedTuple):
    """A code as the ledger has it; why it is disabled, None when it is not."""

    entry: CodeEntry
    disabled_reason: str | None


@dataclass(frozen=True, slots=True)
class CodeFilter:
    """Which codes; None for any."""

    campaign_id: str | None = None
    state: CodeState | None = None
    holder_id: str | None = None
