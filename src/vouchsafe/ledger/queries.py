"""The named queries of queries.sql."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources


def parse(text: str) -> Mapping[str, str]:
    """Name -> SQL. A query begins with `-- name: <name>` and ends where the next begins."""
    _, *parts = re.split(r"^-- name: (\w+)$", text, flags=re.MULTILINE)
    return {name: body.strip().removesuffix(";") for name, body in zip(parts[::2], parts[1::2], strict=True)}


SQL = parse((resources.files("vouchsafe.ledger") / "queries.sql").read_text(encoding="utf-8"))
