"""What may be done with a partition of the gate, by what stands in it and what the ledger expects.

A token is "<installation>:<epoch>"; while a partition is being rebuilt, "building <installation>:<epoch>" stands in its
place. Epochs only go up: whoever still names an earlier one is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from vouchsafe.domain.redemption import StreamId

BUILDING = "building "


@dataclass(frozen=True, slots=True)
class PartitionState:
    """One partition by the ledger: every entry of its outbox up to and including `offset` is in the ledger. One that
    was never `opened` has never decided anything."""

    partition: int
    epoch: int
    opened: bool
    offset: StreamId


@dataclass(frozen=True, slots=True)
class PartitionSeen:
    """One partition by the gate. `standing` is the token in its data, `open_under` the one under which its process lets
    it decide; both empty for none. `last` is the id that its outbox gave last, `first_kept` the first that was not
    trimmed off it (the start, if none ever was). `opened_in` and `run` are the runs of Valkey in which it was opened,
    and that answers now; `now_ms` is its clock."""

    partition: int
    standing: str
    open_under: str
    last: StreamId
    first_kept: StreamId
    opened_in: str
    run: str
    now_ms: int

    @property
    def installation(self) -> str:
        """Whose data it is, empty when there is none."""
        return self.standing.removeprefix(BUILDING).rpartition(":")[0]

    @property
    def epoch(self) -> int:
        """The epoch of its token, 0 for none."""
        epoch = self.standing.rpartition(":")[2]
        return int(epoch) if epoch.isdecimal() else 0


class Finding(StrEnum):
    """What a look at both stores has found of a partition."""

    OPEN = "open"
    OUT_OF_REACH = "out of reach"
    NEW = "new"  # it has never decided anything
    UNOPENED = "unopened"  # its process has opened it before, but not for these functions
    AT_OR_AHEAD = "at or ahead of the ledger"  # not verified since its process began; nothing is missing
    LOST = "lost"  # empty, or behind the ledger, or not rebuilt to the end
    FOREIGN = "foreign"  # another installation's
    LEDGER_BEHIND = "ledger behind"  # the ledger lacks what it once held


def examine(installation: str, state: PartitionState, seen: PartitionSeen | None) -> Finding:
    """What is to be done with a partition: `state` was read before `seen`: what happens in between is no loss."""
    if seen is None:
        return Finding.OUT_OF_REACH
    if seen.standing and seen.installation != installation:
        return Finding.FOREIGN
    offset = state.offset
    if seen.standing and StreamId(offset.ms, offset.seq + 1) < seen.first_kept:
        return Finding.LEDGER_BEHIND
    if not state.opened and seen.epoch in (0, state.epoch):
        return Finding.NEW
    if not seen.standing or seen.standing.startswith(BUILDING) or seen.last < offset:
        return Finding.LOST
    if seen.epoch >= state.epoch and seen.open_under == seen.standing:
        return Finding.OPEN
    if seen.epoch == state.epoch and seen.opened_in == seen.run:
        return Finding.UNOPENED
    return Finding.AT_OR_AHEAD


def token_of(installation: str, epoch: int) -> str:
    """What every call to a partition names."""
    return f"{installation}:{epoch}"
