"""Figures on a page of the documentation: between two marks, a table and a picture that a command has made."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.processes import ROOT

DOCS = ROOT / "docs"
PAGE = DOCS / "performance.md"


def publish(name: str, table: str, chart_name: str, chart: str) -> None:
    """Puts both into docs/performance.md, in place of those of an earlier run. Raises ValueError when the page has no
    place of that name."""
    (DOCS / chart_name).write_text(chart)
    PAGE.write_text(replaced(PAGE.read_text(), name, f"{table}\n\n![{name}]({chart_name})"))


def replaced(page: str, name: str, text: str) -> str:
    """The page with the text between the marks of that name. Raises ValueError when it has none."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page has no place for {name}: {begin} and {end}, each on a line of its own")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def table_of(columns: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int) -> str:
    """A table of Markdown; the columns behind the first `texts` hold numbers."""
    widths = [max(3, *map(len, column)) for column in zip(columns, *rows, strict=True)]
    rules = ["-" * width if at < texts else "-" * (width - 1) + ":" for at, width in enumerate(widths)]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if at < texts else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    return "\n".join(map(line, (columns, rules, *rows)))
