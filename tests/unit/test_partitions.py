"""What may be done with a partition: one row for each thing that can be found."""

from __future__ import annotations

import pytest

from vouchsafe.domain.partitions import Finding, PartitionSeen, PartitionState, examine
from vouchsafe.domain.redemption import STREAM_START, StreamId

OURS = "ours"
OFFSET = StreamId(10, 2)
NEXT = StreamId(10, 3)


def state(*, epoch: int = 2, opened: bool = True, offset: StreamId = OFFSET) -> PartitionState:
    return PartitionState(0, epoch, opened, offset)


def seen(
    standing: str,
    open_under: str | None = None,
    *,
    last: StreamId = OFFSET,
    first_kept: StreamId = STREAM_START,
    opened_in: str = "this",
) -> PartitionSeen:
    return PartitionSeen(
        0, standing, standing if open_under is None else open_under, last, first_kept, opened_in, "this", 0
    )


@pytest.mark.parametrize(
    ("ledger", "gate", "finding"),
    [
        (state(opened=False, epoch=1, offset=STREAM_START), seen("", last=STREAM_START), Finding.NEW),
        (state(opened=False, epoch=1, offset=STREAM_START), seen("ours:1", ""), Finding.NEW),
        (state(opened=False, epoch=1, offset=STREAM_START), seen("ours:4", ""), Finding.AT_OR_AHEAD),
        (state(opened=False, epoch=1, offset=STREAM_START), seen("ours:1", first_kept=NEXT), Finding.LEDGER_BEHIND),
        (state(opened=False, epoch=1, offset=STREAM_START), seen("theirs:1"), Finding.FOREIGN),
        (state(), seen("ours:2"), Finding.OPEN),
        (state(), seen("ours:2", first_kept=NEXT), Finding.OPEN),
        (state(), seen("ours:2", last=StreamId(99, 0)), Finding.OPEN),
        # Somebody has verified it since the ledger was read.
        (state(), seen("ours:3"), Finding.OPEN),
        # The ledger has begun an epoch, and whoever did so is gone.
        (state(), seen("ours:1"), Finding.AT_OR_AHEAD),
        (state(), seen("ours:2", "", opened_in="another"), Finding.AT_OR_AHEAD),
        (state(), seen("ours:2", "ours:1", opened_in="another"), Finding.AT_OR_AHEAD),
        (state(), seen("ours:1", "", opened_in="another", last=StreamId(11, 0)), Finding.AT_OR_AHEAD),
        # Another release has opened it in this process.
        (state(), seen("ours:2", ""), Finding.UNOPENED),
        (state(), seen("ours:1", ""), Finding.AT_OR_AHEAD),
        (state(), seen("ours:2", "", last=StreamId(10, 1)), Finding.LOST),
        (state(), seen("ours:2", last=StreamId(10, 1)), Finding.LOST),
        (state(), seen("", "ours:2", last=STREAM_START), Finding.LOST),
        (state(), seen("", ""), Finding.LOST),
        (state(), seen("building ours:2", ""), Finding.LOST),
        (state(), seen("building theirs:2", ""), Finding.FOREIGN),
        (state(), seen("theirs:2"), Finding.FOREIGN),
        (state(), seen("ours:2", first_kept=StreamId(10, 4)), Finding.LEDGER_BEHIND),
        (state(), seen("ours:2", "", opened_in="another", first_kept=StreamId(11, 0)), Finding.LEDGER_BEHIND),
    ],
)
def test_a_partition_is_trusted_only_as_far_as_it_was_verified(
    ledger: PartitionState, gate: PartitionSeen, finding: Finding
) -> None:
    assert examine(OURS, ledger, gate) is finding
