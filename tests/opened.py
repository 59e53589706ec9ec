"""A gate as tests of it use it: open, though there is no ledger to hold it against."""

from __future__ import annotations

from vouchsafe.gate.gate import Gate

INSTALLATION = "00000000-0000-0000-0000-000000000000"


async def open_all(gate: Gate, installation: str = INSTALLATION, epoch: int = 1) -> None:
    """Opens every partition as it is."""
    for seen in await gate.inspect():
        assert await gate.open_partition(seen, installation, epoch)
        gate.use_partition(seen.partition, installation, epoch)
