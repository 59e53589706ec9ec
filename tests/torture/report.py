"""What has really happened: how often each fault, and how often each way back from one was gone."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tests.torture.book import Book
from tests.torture.check import Findings
from tests.torture.history import History
from tests.torture.service import Tortured
from vouchsafe.client import Redemption
from vouchsafe.domain.redemption import Position

# What server and persisters say, by the words of their log.
SAID = {
    "worker started again": "process ended by itself",
    "start waited for the stores": "waiting for the stores",
    "readiness lost": "not ready",
    "readiness found again": "ready",
    "waited for a store": "waiting",
    "went on with a store that is back": "going on",
    "late persister gave a partition up": "another persister has written; giving the partition up",
    "parts settled behind their deadline": "settled what was left behind",
    "part left to be settled later": "a part of a redemption is settled later",
    "rollback of a dead server gone on with": "went on with a rollback that was left behind",
    "half-made reservation left to its time": "a reservation that is not wanted ends by its time",
    "definitions published late": "published what the gate lacked",
    "partitions held against the ledger, reopened": "opened again what nothing is missing of",
}
# What the stores say.
STORES_SAID = {
    "Valkey read its append-only file": ("valkey", "DB loaded from append only file"),
    "PostgreSQL recovered from a crash": ("postgres", "database system was not properly shut down"),
    "PostgreSQL refused to write, read-only": ("postgres", "in a read-only transaction"),
    "PostgreSQL refused to write, disk full": ("postgres", "File too large"),
}
# Whoever loses data comes back by these, so they are asked for only where data was lost.
AFTER_A_LOSS: Mapping[str, str] = {
    "partitions rebuilt from the ledger": "rebuilt partitions",
    "decided part lost and redeemed anew": "redeemed a part that was decided and lost",
}


# What server and persisters never say, whatever breaks: each would be a bug, or a false alarm for somebody at night.
NEVER_SAID = (
    "internal error",
    "failed",
    "misconfigured",
    "an exchange with Valkey went wrong",
    "events cannot be moved; they and all after them wait in the outbox",
    "an entry of the outbox was set aside",
    "partitions are closed: ledger behind",
    "partitions are closed: foreign",
)

# Takes a loss within the few milliseconds between a decision and its last part.
BY_LUCK = "decided part lost and redeemed anew"


@dataclass
class Report:
    """`fired` is how often each fault was there; `slowest_s` and `written_s` are how long the service then took at most
    to answer again everywhere, and to have everything in the ledger that was decided before. `paths` is how often each
    way back was gone. `settled_s` is how long everything took in the end, `worst_lag_ms` how far the ledger was behind
    when Valkey lost its data."""

    seed: int
    fired: Counter[str] = field(default_factory=Counter)
    slowest_s: dict[str, float] = field(default_factory=dict)
    written_s: dict[str, float] = field(default_factory=dict)
    paths: dict[str, int] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)
    settled_s: float = 0.0
    calls: int = 0
    worst_lag_ms: int = 0

    def never(self) -> list[str]:
        """What did not happen, though there was time for it."""
        counted = [*self.fired.items(), *self.paths.items()]
        return [f"never: {name}" for name, count in counted if not count and name != BY_LUCK]

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"seed {self.seed}: {self.calls} calls, settled {self.settled_s:.1f} s after the last"
        yield "  faults, how often, and how long at most until all was answered again, and all was in the ledger:"
        for name, count in self.fired.items():
            waited = name in self.written_s
            times = f"  {self.slowest_s[name]:5.1f} s {self.written_s[name]:5.1f} s" if waited else ""
            yield f"    {name:42} {count:6}{times}"
        yield "  ways back, how often:"
        for name, count in self.paths.items():
            yield f"    {name:42} {count:6}"
        yield "  calls, by what came of them, and limits, by how far they were used:"
        for name, count in sorted(self.findings.counts.items()):
            yield f"    {name:42} {count:6}"
        if self.worst_lag_ms:
            yield f"  lost with Valkey's data, when the ledger was {self.worst_lag_ms} ms behind at worst:"
            for name, count in self.findings.allowed.items() or [("nothing", 0)]:
                yield f"    {name:42} {count:6}"


def alarms(service: Tortured) -> list[str]:
    """What was said that must not be, and how often."""
    said = Counter(event for command in ("serve", "persist") for event in _events(service.said(command)))
    return [f"said {said[words]} times: {words}" for words in NEVER_SAID if said[words]]


def ways_back(
    service: Tortured, history: History, book: Book, refused_for_memory: int, *, lost: bool
) -> dict[str, int]:
    """How often each was gone."""
    said = Counter(event for command in ("serve", "persist") for event in _events(service.said(command)))
    counted = {name: said[words] for name, words in SAID.items()}
    counted |= {name: service.store_said(store).count(words) for name, (store, words) in STORES_SAID.items()}
    if lost:
        counted |= {name: said[words] for name, words in AFTER_A_LOSS.items()}
    for store, wires in service.wires.items():
        for what in ("swallowed", "torn", "cut", "delayed", "held up"):
            counted[f"wire to {store}: {what}"] = sum(wire.seen[what] for wire in wires)
    kinds = Counter(event.kind for event in book.events)
    counted["calls refused for lack of memory"] = refused_for_memory
    counted["reservations ended by their time"] = kinds["expired"]
    counted["uses that came back"] = kinds["returned"]
    counted["requests that had gone through unheard"] = _answered_late(history)
    counted["orders told that they have the code"] = _told(history, "ORDER_ALREADY_REDEEMED")
    counted["orders told again what they have"] = _told_under_another_id(history)
    counted["refused because of a pause"] = _told(history, "CAMPAIGN_PAUSED")
    counted["refused at a limit"] = sum(
        _told(history, f"{limit}_LIMIT_REACHED") for limit in ("CODE", "CUSTOMER", "CAMPAIGN")
    ) + _told(history, "BUDGET_EXHAUSTED")
    return counted


def _events(log: str) -> Iterator[str]:
    for line in log.splitlines():
        if line.startswith("{"):
            # The last line of a process that was killed may be half a line, or one with another behind it.
            try:
                told = json.loads(line)
            except ValueError:
                continue
            found = told.get("found")
            yield told["event"] if found is None else f"{told['event']}: {found}"


def _told(history: History, reason: str) -> int:
    return sum(call.reason == reason for call in history.calls)


def _told_under_another_id(history: History) -> int:
    """How many redemptions were told to more than one request to redeem."""
    told: defaultdict[str, set[str]] = defaultdict(set)
    for call in history.calls:
        if call.request.what == "redeem" and call.told_id:
            told[call.told_id].add(call.request.id)
    return sum(len(requests) > 1 for requests in told.values())


def _answered_late(history: History) -> int:
    """Answers that were decided before the call that learnt of them began: by one whose answer was lost."""
    heard: set[tuple[str, str]] = set()
    found = 0
    for call in history.calls:
        if isinstance(call.answer, Redemption):
            decided_ms = Position.parse(call.told_id).stream_id.ms
            found += call.request.key not in heard and decided_ms < history.ms(call.begin) - 1
            heard.add(call.request.key)
    return found
