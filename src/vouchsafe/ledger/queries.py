"""Every query of the ledger, by name: a file in sql/ for each room."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources


def parse(text: str) -> Mapping[str, str]:
    """Name -> SQL. A query begins with `-- name: <name>` and ends where the next begins."""
    _, *parts = re.split(r"^-- name: (\w+)$", text, flags=re.MULTILINE)
    return {name: body.strip().removesuffix(";") for name, body in zip(parts[::2], parts[1::2], strict=True)}


def _read_all() -> Mapping[str, str]:
    found: dict[str, str] = {}
    for file in (resources.files("vouchsafe.ledger") / "sql").iterdir():
        queries = parse(file.read_text(encoding="utf-8"))
        if twice := found.keys() & queries.keys():
            raise ValueError(f"{file.name} names queries that another file has: {sorted(twice)}")
        found |= queries
    return found


SQL = _read_all()
