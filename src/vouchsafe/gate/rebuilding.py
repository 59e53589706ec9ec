"""Makes partitions anew, piece by piece, over a connection of its own; the contract stands in rebuild.lua."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from vouchsafe.domain.campaign import CodeEntry
from vouchsafe.domain.partitions import BUILDING, PartitionSeen, PartitionState, token_of
from vouchsafe.domain.redemption import StreamId
from vouchsafe.gate.codes import put_calls
from vouchsafe.gate.connection import Command, checked, function_call
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.keys import Keys

# How much one function call writes: nobody else is served meanwhile, and Lua unpacks no more than some thousand.
PAIRS_PER_CALL = 1_000
CALLS_PER_EXCHANGE = 20
KEYS_PER_SCAN = 5_000
TIMEOUT_MS = 30_000

Item = TypeVar("Item")


@dataclass(slots=True)
class Changes:
    """What events change in a partition, by campaign; see rebuild.lua. `distinct` are counters "?x:y" that have to be
    looked at again. `fields` are by key, `strings` are keys of any partition, each with its value and when it expires
    in milliseconds (0: never)."""

    counters: defaultdict[str, defaultdict[str, int]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(int))
    )
    moments: defaultdict[str, defaultdict[str, list[str]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    distinct: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    orders: defaultdict[str, dict[str, str | bytes]] = field(default_factory=lambda: defaultdict(dict))
    fields: defaultdict[str, dict[str, bytes | str]] = field(default_factory=lambda: defaultdict(dict))
    strings: list[tuple[int, str, bytes | str, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LostPart:
    """One code of a redemption that was decided, of which nothing is known where its campaign lies. `takes` are as
    counters.lua reads them."""

    campaign_id: str
    order_and_code: str
    fingerprint: str
    takes: str
    taken_ms: int
    redemption_id: str
    body: bytes
    reservation_id: str
    transaction_id: str


class Rebuilding:
    """The partitions that are being made anew, each in its epoch. Every method raises Unavailable, also when somebody
    else has taken a partition over."""

    def __init__(self, gate: Gate, installation: str) -> None:
        self._installation = installation
        self._partitions = gate.partitions
        self._connections = gate.connections(TIMEOUT_MS)
        self._tokens: dict[int, str] = {}

    async def close(self) -> None:
        """Closes the connection."""
        await self._connections.close()

    @property
    def partitions(self) -> Collection[int]:
        """Those that were begun."""
        return self._tokens.keys()

    async def begin(self, state: PartitionState, seen: PartitionSeen) -> PartitionSeen | None:
        """Takes a partition over in the ledger's epoch, and answers what it looks like while it is built; None when it
        is not any more as it was seen."""
        token = token_of(self._installation, state.epoch)
        call = function_call("build", [Keys(state.partition).meta], [token, seen.standing, seen.run])
        (begun,) = await self._call([call])
        if not begun:
            return None
        self._tokens[state.partition] = token
        return dataclasses.replace(seen, standing=BUILDING + token)

    async def clear(self) -> None:
        """Removes all that is left of the partitions."""
        for node in self._connections.all():
            cursor = b"0"
            while True:
                scan = ("SCAN", cursor, "MATCH", "{p[0-9][0-9]}:*", "COUNT", KEYS_PER_SCAN)
                ((cursor, found),) = checked(await node.execute([scan]))
                await self._call(list(self._clear_calls(map(bytes.decode, found))))
                if cursor == b"0":
                    break

    def _clear_calls(self, keys: Iterable[str]) -> Iterator[Command]:
        by_partition: defaultdict[int, list[str]] = defaultdict(list)
        for key in keys:
            partition = int(key[2:4])
            if partition in self._tokens and key != Keys(partition).meta:
                by_partition[partition].append(key)
        for partition, of_partition in by_partition.items():
            for piece in _pieces(of_partition, PAIRS_PER_CALL):
                yield self._function("clear", partition, piece, ())

    async def restore_outbox(self, state: PartitionState) -> None:
        """Lets the outbox go on behind what the ledger holds."""
        keys, offset = Keys(state.partition), state.offset
        if offset > (0, 0):
            following = StreamId(offset.ms, offset.seq + 1)
            names = (keys.outbox, keys.trimmed)
            await self._call([self._function("restore_outbox", state.partition, names, (str(offset), str(following)))])

    async def write(self, partition: int, changes: Changes) -> None:
        """Writes what events have changed."""
        calls = list(self._calls(partition, changes))
        for some in _pieces(calls, CALLS_PER_EXCHANGE):
            await self._call(some)

    async def write_codes(self, partition: int, entries: Sequence[CodeEntry]) -> None:
        """Enters codes of a partition into its directory."""

        def call(name: str, names: Sequence[str], args: Sequence[str | int]) -> Command:
            return self._function(name, partition, names, args)

        calls = put_calls(Keys(partition), self._partitions, entries, call, "restore_codes", "restore_given")
        for some in _pieces(calls, CALLS_PER_EXCHANGE):
            await self._call(some)

    async def restore_part(self, partition: int, part: LostPart) -> None:
        """Redeems a part as it was decided, unless it is there."""
        keys = Keys(partition)
        names = (keys.outbox, keys.pending, *keys.of_campaigns([part.campaign_id]))
        args = (
            part.campaign_id, part.order_and_code, part.fingerprint, part.takes, part.taken_ms, part.redemption_id,
            part.body,
            part.reservation_id,
            part.transaction_id,
        )  # fmt: skip
        await self._call([self._function("restore_part", partition, names, args)])

    def _calls(self, partition: int, changes: Changes) -> Iterator[Command]:
        keys = Keys(partition)
        for campaign_id, orders in changes.orders.items():
            names = [keys.holding, *keys.of_campaigns([campaign_id])]
            for pairs in _pieces(orders.items(), PAIRS_PER_CALL):
                yield self._function("restore_orders", partition, names, (campaign_id, *_flat(pairs)))
        for campaign_id in {**changes.counters, **changes.moments}:
            yield from self._counter_calls(partition, changes, campaign_id)
        for key, fields in changes.fields.items():
            for words in _pieces(fields.items(), PAIRS_PER_CALL):
                yield self._function("restore_fields", partition, [key], _flat(words))
        yield from self._string_calls(changes)

    def _counter_calls(self, partition: int, changes: Changes, campaign_id: str) -> Iterator[Command]:
        names = [Keys(partition).counters(campaign_id)]
        for amounts in _pieces(_amounts(changes, campaign_id), PAIRS_PER_CALL):
            yield self._function("restore_amounts", partition, names, _flat(amounts))
        for others in _pieces(_others(changes, campaign_id), PAIRS_PER_CALL):
            yield self._function("restore_counters", partition, names, _flat(others))

    def _string_calls(self, changes: Changes) -> Iterator[Command]:
        strings: defaultdict[int, list[tuple[str, bytes | str, int]]] = defaultdict(list)
        for home, key, value, expire_ms in changes.strings:
            strings[home].append((key, value, expire_ms))
        for home, entries in strings.items():
            for some in _pieces(entries, PAIRS_PER_CALL):
                names = [name for name, _, _ in some]
                values = [word for _, value, expire_ms in some for word in (value, expire_ms)]
                yield self._function("restore_strings", home, names, values)

    def _function(self, name: str, partition: int, keys: Sequence[str], args: Sequence[bytes | str | int]) -> Command:
        return function_call(name, [Keys(partition).meta, *keys], [self._tokens[partition], *args])

    async def _call(self, calls: Sequence[Command]) -> list[Any]:
        return checked(await self._connections.call(calls))


def _amounts(changes: Changes, campaign_id: str) -> Iterator[tuple[str, int]]:
    """Counters that nothing else hangs on."""
    distinct = changes.distinct[campaign_id]
    for counter, amount in changes.counters[campaign_id].items():
        if "?" + counter not in distinct:
            yield counter, amount


def _others(changes: Changes, campaign_id: str) -> Iterator[tuple[str, str | int]]:
    """Each "?x:y" right behind its "x:y": they are never of two calls, because PAIRS_PER_CALL is even and they come
    first."""
    plain = changes.counters[campaign_id]
    for counter in changes.distinct[campaign_id]:
        yield counter[1:], plain[counter[1:]]
        yield counter, ""
    for counter, moments in changes.moments[campaign_id].items():
        yield counter, " ".join(moments)


def _flat(pairs: Iterable[tuple[str, Any]]) -> list[Any]:
    return [word for pair in pairs for word in pair]


def _pieces(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while piece := list(islice(iterator, size)):
        yield piece
