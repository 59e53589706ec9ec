"""Pages of the documentation that are run: the commands of their console blocks, and what they show."""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple


class Example(NamedTuple):
    """A command as it stands in a page, and what is shown below it."""

    command: str
    shown: str

    @property
    def status(self) -> int:
        """The exit status that it has to end with: a refusal has one of its own."""
        return 3 if self.shown.startswith("refused:") else 0


def examples(page: str) -> list[Example]:
    """All of a page, in order."""
    found: list[Example] = []
    for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = part.splitlines()
            command = lines.pop(0)
            while lines and (command.endswith("\\") or not _is_closed(command)):
                command += "\n" + lines.pop(0)
            found.append(Example(command, "\n".join(lines)))
    return found


def _is_closed(command: str) -> bool:
    try:
        shlex.split(command)
    except ValueError:
        return False
    return True


def missing(shown: str, output: str) -> str | None:
    """The first line that is shown and that the output lacks, in this order; None for none. `…` stands for anything,
    and spaces in a row for one."""
    lines = iter([" ".join(line.split()) for line in output.splitlines()])
    for line in shown.splitlines():
        pattern = ".*".join(map(re.escape, " ".join(line.split()).split("…")))
        pattern = pattern.replace(r"\ .*\ ", r"\ (?:.*\ )?")  # what stands between two words may be nothing
        if line != "…" and not any(re.fullmatch(pattern, one) for one in lines):
            return line
    return None
