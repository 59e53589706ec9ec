"""What was paused or stopped, by the order of the streams."""

from __future__ import annotations

from vouchsafe.domain.kill_switch import Engaged, Stretch
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.ledger.rows import milliseconds


class StopBook:
    """What the ledger knows of pauses and kill switches. Every method raises Unavailable when it is out of reach."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def stretches(self, limit: int, campaign_id: str | None = None) -> list[Stretch]:
        """Every time that something was stopped, newest first; or every pause of one campaign."""
        return [
            Stretch(
                row["what"],
                row["reason"] or "",
                milliseconds(row["began_at"]),
                None if row["ended_at"] is None else milliseconds(row["ended_at"]),
                row["taken"],
            )
            for row in await self._ledger.fetch("stops", limit, campaign_id)
        ]

    async def taken_while_paused(self, campaign_id: str) -> int:
        """How many uses of a campaign stand within its pauses: the order of the stream proves that there are none."""
        return sum([stretch.taken for stretch in await self.stretches(1_000, campaign_id)])

    async def engaged(self) -> dict[str, Engaged]:
        """The kill switches that are engaged by some partition's last word, by scope: one that was engaged or released
        half way counts as engaged."""
        rows = await self._ledger.fetch("engaged_switches")
        return {row["scope"]: Engaged(row["reason"], row["at_ms"]) for row in rows}
