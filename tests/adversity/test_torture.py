"""A short torture: faults and load by chance, every call held against the ledger. `make torture` does it for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.faults import faults_of
from tests.torture.run import Run

SECONDS = 20
SEED = 6704


@pytest.mark.one_node("its wires and its bounds are those of one Valkey")
async def test_no_promise_is_broken_whatever_breaks(tmp_path: Path) -> None:
    said: list[str] = []
    run = Run(
        tmp_path, seconds=SECONDS, seed=SEED, faults=faults_of("one"), contract="gate", stores="one", say=said.append
    )
    report = await run.run()
    assert not report.findings.problems, "\n".join([*said, *report.lines(), str(run.history_file)])
    # It was no holiday.
    assert report.fired.total() >= 5
    assert report.calls >= 500
