"""Whatever dies, gate and ledger say the same at the end of every test."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _audited(audited: None) -> None:
    pass
