"""What people look at: tables, and how far something is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from vouchsafe.cli.common import err, out


def print_rows(rows: Sequence[Mapping[str, str]], *, right: Collection[str] = (), whole: str = "") -> None:
    """Rows with the same names, which are the headings; what is empty in all of them is left out. Of the columns, those
    of `right` are flush right, and `whole` is never broken."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    names = [name for name in rows[0] if any(row[name] for row in rows)]
    for name in names:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold", no_wrap=name == whole)
    for row in rows:
        table.add_row(*(Text(row[name]) for name in names))
    out.print(table)


def progress_bar() -> Progress:
    """On stderr, and only where somebody looks: what a program reads stays clean."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
