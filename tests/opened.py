"""A gate as tests of it use it: open, though there is no ledger to hold it against."""

from __future__ import annotations

from vouchsafe.domain.campaign import CodeEntry
from vouchsafe.domain.partitions import PartitionSeen
from vouchsafe.gate.directory import Directory
from vouchsafe.gate.gate import Gate

INSTALLATION = "00000000-0000-0000-0000-000000000000"


async def seen(gate: Gate) -> list[PartitionSeen]:
    """What stands in every partition of a store that is all there."""
    found = [one for one in await gate.inspect() if one is not None]
    assert len(found) == gate.partitions
    return found


async def open_all(gate: Gate, installation: str = INSTALLATION, epoch: int = 1) -> None:
    """Opens every partition as it is."""
    for one in await seen(gate):
        assert await gate.open_partition(one, installation, epoch, [epoch] * gate.partitions, {})
        gate.use_partition(one.partition, installation, epoch)


async def enter(gate: Gate, *entries: CodeEntry) -> None:
    """Enters codes into the directory."""
    await Directory(gate).put(entries)
