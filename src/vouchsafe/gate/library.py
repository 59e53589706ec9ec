"""The Lua functions as one library, with a version in the name of each.

The version is a digest of the source, so servers of two releases can use one Valkey side by side during a rollout.
"""

from __future__ import annotations

import hashlib
from importlib import resources

# In the order in which they see each other's local names.
FILES = (
    "common",
    "open",
    "touch",
    "outbox",
    "codes",
    "counters",
    "orders",
    "campaign",
    "disabling",
    "decide",
    "validate",
    "redeem",
    "transaction",
    "reservation",
    "rollback",
    "guesses",
    "stop",
    "audit",
    "rebuild",
)


def _assemble() -> tuple[str, str]:
    folder = resources.files("vouchsafe.gate") / "functions"
    body = "\n".join((folder / f"{name}.lua").read_text(encoding="utf-8") for name in FILES)
    version = hashlib.sha256(body.encode()).hexdigest()[:8]
    header = f"#!lua name=vouchsafe_{version}\nlocal LIBRARY_VERSION = '{version}'\n"
    return version, header + body


VERSION, SOURCE = _assemble()


def function_name(name: str) -> str:
    """The name under which this release's function is called."""
    return f"{name}_{VERSION}"
