"""One run: everything is started, used and broken, mended and held against what was told."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.service import audit, settle, until
from tests.torture.book import Book
from tests.torture.campaigns import Contested, contested
from tests.torture.chaos import Chaos, Fault, Harm
from tests.torture.check import Checker
from tests.torture.history import History, Request
from tests.torture.load import Load
from tests.torture.losses import waiting
from tests.torture.report import Report, alarms, ways_back
from tests.torture.service import Tortured
from tests.torture.valkeys import PARTITIONS
from vouchsafe.client import Client
from vouchsafe.domain.errors import Unavailable
from vouchsafe.gate.connection import Command
from vouchsafe.gate.keys import Keys, partition_of
from vouchsafe.settings import Acknowledge

WORKERS = 2
BACK_S = 60.0
# From so many seconds on there is time for everything to happen at least once.
LONG_S = 300.0
BOTH = 0.35
WAITS = 0.7


class Run:
    """`say` is told what happens. The history stays in `data_dir`."""

    def __init__(
        self,
        data_dir: Path,
        *,
        seconds: float,
        seed: int,
        faults: Sequence[Fault],
        contract: Acknowledge,
        stores: str,
        say: Callable[[str], None],
    ) -> None:
        self._data_dir = data_dir
        self._seconds = seconds
        self._seed = seed
        self._faults = faults
        self._contract = contract
        self._stores = stores
        self._say = say
        self._dice = random.Random(seed)
        self._report = Report(seed)
        self._report.fired.update({fault.name: 0 for fault in faults})
        self._campaigns = contested(seconds)
        self._probes = itertools.count()
        self.history_file = data_dir / "history.jsonl"

    async def run(self) -> Report:
        """What was found; problems are in the report, and errors only when the run itself cannot go on."""
        service = Tortured(
            self._data_dir / "service",
            workers=WORKERS,
            acknowledge=self._contract,
            stores=self._stores,
            seed=self._seed,
        )
        await service.start_wires()
        history = History(self.history_file)
        try:
            # From threads that live as long as this loop: the processes end with the thread that started them.
            await asyncio.to_thread(service.__enter__)
            try:
                await self._torture(service, history)
            finally:
                await asyncio.to_thread(service.__exit__, None, None, None)
        finally:
            history.close()
            await service.close_wires()
        return self._report

    async def _torture(self, service: Tortured, history: History) -> None:
        harm = Harm()
        async with service.client(timeout_s=30) as client:
            for campaign in self._campaigns:
                await campaign.create(client)
        load = Load(service, history, self._seed, self._campaigns, self._seconds)
        over = asyncio.Event()
        shopping = asyncio.create_task(load.run(over))
        try:
            await self._break(service, harm, load, history)
        finally:
            over.set()
            await shopping
        self._report.calls = len(history.calls)
        await self._settle(service, load)
        book = await Book.read(service.settings.postgres_url)
        checker = Checker(history, book, self._campaigns, harm.losses, may_lose=self._contract != "ledger")
        found = checker.check()
        self._report.findings.problems += [*found.problems, *alarms(service)]
        self._report.findings.allowed, self._report.findings.counts = found.allowed, found.counts
        self._report.worst_lag_ms = max((loss.lag_ms for loss in harm.losses), default=0)
        self._report.paths = ways_back(
            service, history, book, harm.refused_for_memory, lost=any(fault.loses for fault in self._faults)
        )
        if self._seconds >= LONG_S:
            self._report.findings.problems += self._report.never()

    # -- breaking ------------------------------------------------------------------------------------------------------

    async def _break(self, service: Tortured, harm: Harm, load: Load, history: History) -> None:
        """One fault after the other, sometimes two at once, each as often as the others; sometimes the service has no
        time to come back in between."""
        end = time.monotonic() + self._seconds
        bag: list[Fault] = []
        async with service.client(timeout_s=1) as client:
            while time.monotonic() < end:
                if not bag:
                    bag = self._dice.sample(self._faults, len(self._faults))
                faults = [bag.pop()]
                if bag and self._dice.random() < BOTH and not bag[-1].targets & faults[0].targets:
                    faults.append(bag.pop())
                names = [fault.name for fault in faults]
                history.note("faults", names=names)
                self._say(f"{end - time.monotonic():6.1f} s left: {', '.join(names)}")
                await asyncio.gather(*(fault.run(Chaos(service, harm, self._dice_of(fault))) for fault in faults))
                history.note("faults over", names=names)
                self._report.fired.update(names)
                if self._dice.random() < WAITS:
                    await self._await_return(service, client, load, names)
                await asyncio.sleep(self._dice.uniform(0, 1.5))

    def _dice_of(self, fault: Fault) -> random.Random:
        """Other ones each time that it happens."""
        return random.Random(f"{self._seed} {fault.name} {self._report.fired[fault.name]}")

    async def _await_return(self, service: Tortured, client: Client, load: Load, names: Sequence[str]) -> None:
        """Until every campaign is decided again, and what was decided before is in the ledger."""
        begin, begin_ms = time.monotonic(), time.time_ns() // 1_000_000
        asking = {campaign.id: campaign for campaign in self._campaigns}
        while asking and time.monotonic() < begin + BACK_S:
            for call in [await load.ask(client, self._probe(campaign)) for campaign in asking.values()]:
                if call.outcome != "unknown":
                    del asking[call.request.order_id.partition(":")[2]]
        if asking:
            self._problem(f"not back within {BACK_S:.0f} s behind {', '.join(names)}: {sorted(asking)}")
        self._note_time(self._report.slowest_s, names, begin)

        async def all_written() -> bool:
            return min((await waiting(service.group)).values()) >= begin_ms

        try:
            await until(all_written, BACK_S)
        except TimeoutError:
            self._problem(f"not in the ledger within {BACK_S:.0f} s behind {', '.join(names)}")
        self._note_time(self._report.written_s, names, begin)

    def _note_time(self, times: dict[str, float], names: Sequence[str], begin: float) -> None:
        for name in names:
            times[name] = max(times.get(name, 0.0), time.monotonic() - begin)

    # -- mending -------------------------------------------------------------------------------------------------------

    async def _settle(self, service: Tortured, load: Load) -> None:
        """Everything is up; what is under way comes to its end by itself, within bounds."""
        begin = time.monotonic()
        # The primary may be another by now than when the service was started.
        service.settings = service.settings.model_copy(update={"valkey_url": service.group.url})
        await load.resolve()
        for request in load.unresolved.values():
            self._problem(f"nobody says what became of {request}")
        try:
            await until(lambda: self._nothing_held(service), BACK_S)
        except TimeoutError:
            self._problem(f"something is held {BACK_S:.0f} s after the last call")
        try:
            await settle(service.settings)
        except AssertionError as error:
            self._problem(str(error))
        self._report.settled_s = time.monotonic() - begin
        found = await audit(service)
        if not found.agrees or found.parts_in_flight or found.rollbacks_in_flight:
            self._problem(f"the stores disagree: {found}")
        try:
            service.check()
        except Unavailable as error:
            self._problem(str(error))

    def _problem(self, what: str) -> None:
        self._say(f"PROBLEM: {what}")
        self._report.findings.problems.append(what)

    async def _nothing_held(self, service: Tortured) -> bool:
        """No part of a transaction, no reservation, no rollback that has begun."""
        commands: dict[int, list[Command]] = {
            partition: [("ZCARD", keys.pending), ("HLEN", keys.returning)]
            for partition, keys in enumerate(map(Keys, range(PARTITIONS)))
        }
        for campaign in self._campaigns:
            partition = partition_of(campaign.id, PARTITIONS)
            keys = Keys(partition)
            commands[partition] += [("ZCARD", keys.holds(campaign.id)), ("HGET", keys.counters(campaign.id), "held")]
        answers = await service.group.ask(commands)
        return not sum(int(reply or 0) for replies in answers.values() for reply in replies)

    def _probe(self, campaign: Contested) -> Request:
        id_ = f"probe-{next(self._probes)}"
        return Request("redeem", id_, f"{id_}:{campaign.id}", campaign.codes[:1], id_, 1_000)
