"""Makes partitions of the gate anew, out of what the ledger holds.

First the ledger begins their next epoch, so that nobody writes behind what is read; then everything that is left of
them is removed, and written again: definitions and codes, and event by event counters, orders, holds and answers. What
was decided and not carried out to the end is carried out, before anybody else may decide.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager

import structlog

from vouchsafe.domain.campaign import CodeEntry
from vouchsafe.domain.errors import Unavailable
from vouchsafe.domain.partitions import Finding, PartitionSeen, PartitionState
from vouchsafe.domain.redemption import Claim
from vouchsafe.domain.takes import uncapped_text
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.keys import Keys
from vouchsafe.gate.rebuilding import Changes, LostPart, Rebuilding
from vouchsafe.ledger.history import DisabledCodes, History, PartMissing
from vouchsafe.ledger.ledger import Ledger
from vouchsafe.ledger.recoveries import RecoveryBook
from vouchsafe.ledger.stops import StopBook
from vouchsafe.service.replay import Replay
from vouchsafe.settings import Settings

log = structlog.get_logger()

NOTE_INTERVAL_S = 0.5
# How long the persisters of other partitions may take to follow; then it is tried again.
END_WAIT_S = 10.0
END_POLL_S = 0.05

Lost = Sequence[tuple[PartitionState, PartitionSeen]]


class Rebuild:
    """Opens partitions of one installation again. One process at a time does so: whoever holds the recovery lock."""

    def __init__(self, gate: Gate, ledger: Ledger, installation: str, settings: Settings) -> None:
        self._gate = gate
        self._ledger = ledger
        self._installation = installation
        self._settings = settings

    async def __call__(self, lost: Lost, advance: Callable[[int, int], None] | None = None) -> None:
        """Rebuilds the partitions and opens them; calls `advance` with the number of events read and of all. Raises
        Unavailable: then nothing of it is open, and it begins anew the next time."""
        rebuilding = Rebuilding(self._gate, self._installation)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(rebuilding.close)
            taken = []
            for state, seen in lost:
                begun = await self._ledger.begin_epoch(state, seen.epoch, None)
                if begun is not None and (building := await rebuilding.begin(begun, seen)):
                    taken.append((begun, building))
            if taken:
                states = [state for state, _ in taken]
                await self._end_elsewhere({state.partition for state in states})
                history = await stack.enter_async_context(self._history())
                await _Run(self._gate, self._ledger, self._settings, rebuilding, history, states, advance).run()
                opened = await open_verified(self._gate, self._ledger, self._installation, taken)
                if lost_again := [state.partition for state in states if state.partition not in opened]:
                    log.warning("partitions were taken over while they were rebuilt", partitions=lost_again)

    async def reopen(self, drained: Lost, since_ms: int) -> list[int]:
        """Opens partitions of which the ledger holds every event, and answers which. A part that was held there may be
        missing, though the redemption that it is of was decided since `since_ms`: it is redeemed before. Raises
        Unavailable."""
        rebuilding = Rebuilding(self._gate, self._installation)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(rebuilding.close)
            taken = []
            for state, seen in drained:
                # Whatever was begun before writes nothing from here on, neither there nor here.
                begun = await self._ledger.begin_epoch(state, seen.epoch, seen.last)
                if begun is not None:
                    taken.append((begun, seen))
            await self._end_elsewhere({state.partition for state, _ in taken})
            history = await stack.enter_async_context(self._history())
            missing = [_lost_part(one) for one in await history.missing_parts(since_ms)]
            whole = []
            for begun, seen in taken:
                partition = begun.partition
                parts = [one for one in missing if self._gate.partition_of(one.campaign_id) == partition]
                found = await rebuilding.begin(begun, seen) if parts else seen
                if found is not None:
                    for part in parts:
                        await _restore(rebuilding, partition, part)
                    whole.append((begun, found))
            return await open_verified(self._gate, self._ledger, self._installation, whole)

    async def _end_elsewhere(self, taken: Collection[int]) -> None:
        """From now on nothing is decided in other partitions any more that counts on what these held before; and what
        was decided there until now is in the ledger when this returns."""
        epochs = [state.epoch for state in await self._states()]
        inspected = [one for one in await self._gate.inspect() if one is not None]
        if len(inspected) < len(epochs):
            raise Unavailable("nothing is opened again while a node of Valkey is away: it may be deciding still")
        others = [one for one in inspected if one.partition not in taken and one.installation == self._installation]
        ends = await self._gate.fence(others, epochs)

        def behind(states: Sequence[PartitionState]) -> bool:
            return any(states[partition].offset < end for partition, end in ends.items())

        deadline = time.monotonic() + END_WAIT_S
        while behind(await self._states()):
            if time.monotonic() > deadline:
                raise Unavailable("what was decided in other partitions does not reach the ledger")
            await asyncio.sleep(END_POLL_S)

    async def _states(self) -> Sequence[PartitionState]:
        installation = await self._ledger.installation()
        assert installation is not None
        return installation.partitions

    def _history(self) -> AbstractAsyncContextManager[History]:
        return History.open(self._settings.postgres_url, self._settings.ledger_timeout_ms)


async def open_verified(gate: Gate, ledger: Ledger, installation: str, verified: Lost) -> list[int]:
    """Opens partitions in the ledger's epochs, but for those that are not any more as they were seen; answers which. In
    this order: a partition that sells is one that the ledger knows to have been opened."""
    if not verified:
        return []
    known = await ledger.installation()
    assert known is not None
    epochs, stops = [one.epoch for one in known.partitions], await StopBook(ledger).engaged()
    opened = []
    for state, seen in verified:
        if await gate.open_partition(seen, installation, state.epoch, epochs, stops):
            if not state.opened:
                await ledger.mark_opened(state.partition, state.epoch)
            opened.append(state.partition)
    return opened


class _Run:
    """One time that partitions are rebuilt, up to where they can be opened."""

    def __init__(
        self,
        gate: Gate,
        ledger: Ledger,
        settings: Settings,
        rebuilding: Rebuilding,
        history: History,
        states: Sequence[PartitionState],
        advance: Callable[[int, int], None] | None,
    ) -> None:
        self._gate = gate
        self._book = RecoveryBook(ledger)
        self._settings = settings
        self._rebuilding = rebuilding
        self._history = history
        self._states = states
        self._partitions = {state.partition for state in states}
        self._advance = advance
        self._number = 0
        self._events = 0
        self._events_read = 0
        self._noted_at = 0.0

    async def run(self) -> None:
        partitions = sorted(self._partitions)
        self._events = await self._history.count_events(partitions)
        self._number = await self._book.begin(partitions, Finding.LOST, self._events)
        log.warning("rebuilding partitions", partitions=partitions, events=self._events)
        started = time.monotonic()
        await self._rebuilding.clear()
        for state in self._states:
            await self._rebuilding.restore_outbox(state)
        await self._restore_definitions()
        unfinished = await self._history.unfinished_rollbacks()
        for state in self._states:
            await self._replay(state.partition, {str(position) for position, _ in unfinished})
        for position, body in unfinished:
            if position.partition in self._partitions:
                changes = Changes()
                place = f"{position.epoch}-{position.stream_id}"
                changes.fields[Keys(position.partition).returning][place] = body
                await self._rebuilding.write(position.partition, changes)
        for part in map(_lost_part, await self._history.missing_parts()):
            partition = self._gate.partition_of(part.campaign_id)
            if partition in self._partitions:
                await _restore(self._rebuilding, partition, part)
        await self._note(has_ended=True)
        log.warning(
            "rebuilt partitions",
            partitions=partitions,
            events=self._events_read,
            took_ms=round((time.monotonic() - started) * 1000),
        )

    async def _restore_definitions(self) -> None:
        async for campaigns in self._history.campaigns():
            for kept in campaigns:
                campaign = kept.campaign
                partition = self._gate.partition_of(campaign.id)
                if partition in self._partitions:
                    changes, labels = Changes(), " ".join(campaign.definition.labels)
                    if labels:
                        changes.fields[Keys(partition).labels][campaign.id] = labels
                    # As campaign.lua has it.
                    changes.fields[Keys(partition).campaign(campaign.id)] |= {
                        "version": str(campaign.version),
                        "definition": campaign.definition.to_json(),
                        "created_ms": str(campaign.create_time_ms),
                        "labels": labels,
                        "state": campaign.kept.value,
                        "pause_reason": kept.pause_reason,
                    }
                    if_any = ("resume_ms", kept.resume_time_ms), ("pause_plan", kept.pause_plan), ("turn", kept.turn)
                    for name, value in if_any:
                        if value is not None:
                            changes.fields[Keys(partition).campaign(campaign.id)][name] = str(value)
                    changes.counters[campaign.id]["uses"] = 0
                    await self._rebuilding.write(partition, changes)
        async for disabled in self._history.disabled_codes():
            await self._restore_disabled(disabled)
        async for codes in self._history.codes():
            await self._restore_codes(codes)

    async def _restore_disabled(self, disabled: DisabledCodes) -> None:
        partition = self._gate.partition_of(disabled.campaign_id)
        if partition in self._partitions:
            changes = Changes()
            # As disabling.lua has it.
            fields = {f"disabled {code}": f"D{reason}" for code, reason in disabled.reasons.items()}
            changes.fields[Keys(partition).campaign(disabled.campaign_id)] |= {"disabled": str(len(fields)), **fields}
            await self._rebuilding.write(partition, changes)

    async def _restore_codes(self, codes: Sequence[CodeEntry]) -> None:
        by_partition: dict[int, list[CodeEntry]] = {}
        for entry in codes:
            partition = self._gate.partition_of(entry.code)
            if partition in self._partitions:
                by_partition.setdefault(partition, []).append(entry)
        for partition, entries in by_partition.items():
            await self._rebuilding.write_codes(partition, entries)

    async def _replay(self, partition: int, unfinished: set[str]) -> None:
        replay = Replay(
            partition,
            self._gate.partitions,
            self._partitions,
            unfinished,
            ttl_ms=self._settings.request_ttl_ms,
            now_ms=self._gate.clock.now_ms(),
        )
        async for rows in self._history.events(partition):
            await self._rebuilding.write(partition, replay.read(rows))
            self._events_read += len(rows)
            if self._advance is not None:
                self._advance(self._events_read, self._events)
            if time.monotonic() - self._noted_at > NOTE_INTERVAL_S:
                await self._note(has_ended=False)

    async def _note(self, *, has_ended: bool) -> None:
        self._noted_at = time.monotonic()
        await self._book.note(self._number, self._events_read, has_ended=has_ended)


async def _restore(rebuilding: Rebuilding, partition: int, part: LostPart) -> None:
    await rebuilding.restore_part(partition, part)
    log.warning("redeemed a part that was decided and lost", redemption=part.redemption_id, campaign=part.campaign_id)


def _lost_part(missing: PartMissing) -> LostPart:
    redemption_id, whole = str(missing.position), missing.claim
    part = next(one for one in whole.applied if one.code == missing.code)
    claim = Claim(
        request_id=whole.request_id,
        fingerprint=whole.fingerprint,
        campaign_id=part.campaign_id,
        campaign_version=part.campaign_version,
        code=part.code,
        customer_id=whole.customer_id,
        order_id=whole.order_id,
        currency_code=whole.currency_code,
        order_amount_minor=whole.order_amount_minor,
        discount=part.discount,
        takes=part.takes,
        combined_id=redemption_id,
        taken_ms=part.taken_ms,
    )
    return LostPart(
        campaign_id=part.campaign_id,
        order_and_code=f"{whole.order_id} {part.code}",
        fingerprint=whole.fingerprint,
        takes=uncapped_text(part.takes),
        taken_ms=part.taken_ms,
        redemption_id=redemption_id,
        body=claim.to_json(),
        reservation_id=whole.reservation_id,
        transaction_id=whole.transaction_id,
    )
