"""The gate as operators and recovery use it: partitions, definitions, state. One typed method a function.

Checkout traffic has connections of its own (`gate.checkout`), so that a pause never queues behind a sale.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from vouchsafe.domain.campaign import Campaign, CampaignStatus
from vouchsafe.domain.errors import Misconfigured, NoReplica, Unavailable
from vouchsafe.domain.kill_switch import Engaged
from vouchsafe.domain.partitions import PartitionSeen, token_of
from vouchsafe.domain.redemption import STREAM_START, StreamId
from vouchsafe.domain.rollback import Rollback, RollbackClaim
from vouchsafe.gate.attempts import decode_place
from vouchsafe.gate.connection import CLOSED, Command, as_unavailable, checked, function_call, told
from vouchsafe.gate.connections import Connections
from vouchsafe.gate.keys import Keys, partition_of
from vouchsafe.gate.routes import Routes
from vouchsafe.gate.statuses import decode_status, describe_call
from vouchsafe.gate.store import NO_REPLICA, check_kind, find_problem
from vouchsafe.gate.transactions import Part, by_home, decided_place, home_of, settle_call
from vouchsafe.settings import Settings


class Clock:
    """The gate's clock as of its last answer, carried on by this process's own steady one. What is judged by it, the
    gate holds against its own."""

    def __init__(self) -> None:
        self._ahead_ms = 0

    def set(self, now_ms: int) -> None:
        """The gate has just said what time it is."""
        self._ahead_ms = now_ms - time.monotonic_ns() // 1_000_000

    def now_ms(self) -> int:
        """Milliseconds since 1970 UTC, within a round trip of what the gate would say."""
        return self._ahead_ms + time.monotonic_ns() // 1_000_000


class Gate:
    """Every method raises Unavailable when Valkey is out of reach, or when the partition in question is not open."""

    def __init__(self, settings: Settings, partitions: int, routes: Routes) -> None:
        self.partitions = partitions
        self.routes = routes
        self._keys = [Keys(partition) for partition in range(partitions)]
        self._tokens: dict[int, tuple[str, int]] = {}
        self._timeout_ms = settings.gate_timeout_ms
        self._connections = self.connections()
        self._acknowledge = settings.acknowledge
        # Why nothing may be decided, for as long as the store cannot keep what is acknowledged.
        self._problem: str | None = None
        self._lock = asyncio.Lock()
        self._request_ttl_ms = settings.request_ttl_ms
        self.clock = Clock()

    @classmethod
    async def connect(cls, settings: Settings, partitions: int) -> Gate:
        """Checks that the store can keep the promises. Raises Unavailable, or Misconfigured saying what to change."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                routes = await Routes.discover(settings.valkey_url, settings.gate_timeout_ms)
                stack.push_async_callback(routes.close)
                gate = cls(settings, partitions, routes)
                stack.push_async_callback(gate.close)
                await gate.check_store()
            except Unavailable as error:
                await check_kind(error, settings)
                raise
            stack.pop_all()
        return gate

    async def close(self) -> None:
        """Closes the connections."""
        await self._connections.close()
        await self.routes.close()

    def connections(self, timeout_ms: int | None = None) -> Connections:
        """Connections of one's own to the store, with the timeout of this gate's or with another."""
        return Connections(self.routes, self._timeout_ms if timeout_ms is None else timeout_ms)

    # -- the store and its partitions --------------------------------------------------------------------------------

    async def check_store(self) -> None:
        """Raises Misconfigured, saying what to change, when the store cannot keep the contract (any more). Then nothing
        is decided and no pause acknowledged until it is found mended."""
        await self.routes.refresh()
        async with self._lock:
            asked = (find_problem(node, self._acknowledge, self.routes) for node in self._connections.all())
            answers = await asyncio.gather(*asked, return_exceptions=True)
        # What a node that is away has is closed; the others go on.
        away = [answer for answer in answers if isinstance(answer, BaseException)]
        if away and (len(away) == len(answers) or not isinstance(away[0], Unavailable)):
            raise away[0]
        self._problem = next((answer for answer in answers if isinstance(answer, str)), None)
        if self._problem is not None:
            raise NoReplica(self._problem) if self._problem == NO_REPLICA else Misconfigured(self._problem)

    async def ping(self) -> None:
        """Returns when Valkey answers."""
        await self._execute(("PING",))

    async def inspect(self) -> list[PartitionSeen | None]:
        """What stands in every partition, in order, None where its node is away; sets the clock right as well."""
        await self.routes.refresh()
        calls = [function_call("inspect", [keys.meta, keys.outbox, keys.trimmed, keys.run], []) for keys in self._keys]
        async with self._lock:
            replies = await self._connections.try_to_call(calls)
        found = [None if isinstance(reply, Exception) else _seen(number, reply) for number, reply in enumerate(replies)]
        if not any(found):
            raise as_unavailable(next(reply for reply in replies if isinstance(reply, Exception)))
        self.clock.set(max(one.now_ms for one in found if one is not None))
        return found

    async def open_partition(
        self,
        seen: PartitionSeen,
        installation: str,
        epoch: int,
        epochs: Sequence[int],
        stops: Mapping[str, Engaged],
    ) -> bool:
        """Lets a partition decide in this epoch, from now on in no earlier one; False when it is not any more as it was
        seen. It has to be verified before. `epochs` are those of all partitions, as the ledger has begun them,
        and `stops` the kill switches that it knows to be engaged. To use it, call `use_partition`."""
        keys = self._keys[seen.partition]
        args: list[bytes | str | int] = [token_of(installation, epoch), seen.standing, seen.run, len(epochs), *epochs]
        for scope, engaged in stops.items():
            args += (scope, engaged.to_json())
        (opened,) = await self.call(function_call("open", [keys.meta, keys.run, keys.fences, keys.stops], args))
        return bool(opened)

    async def fence(self, seen: Sequence[PartitionSeen], epochs: Sequence[int]) -> dict[int, StreamId]:
        """From now on these partitions decide nothing of which a part was held elsewhere in an epoch before `epochs`.
        Answers for each the id that its outbox gave last; raises Unavailable when one is not as it was seen."""
        calls = []
        for one in seen:
            keys = self._keys[one.partition]
            calls.append(function_call("fence", [keys.meta, keys.outbox, keys.fences], [one.standing, *epochs]))
        replies = await self.call(*calls)
        if not all(replies):
            raise Unavailable("a partition was opened again meanwhile")
        return {one.partition: StreamId.parse(reply.decode()) for one, reply in zip(seen, replies, strict=True)}

    def use_partition(self, partition: int, installation: str, epoch: int) -> None:
        """From now on every call to the partition names this epoch."""
        self._tokens[partition] = (token_of(installation, epoch), epoch)

    def close_partition(self, partition: int) -> None:
        """Calls to the partition are Unavailable from now on."""
        self._tokens.pop(partition, None)

    @property
    def opened(self) -> int:
        """How many partitions are open."""
        return len(self._tokens)

    def partition_of(self, text: str) -> int:
        """The partition of a campaign id, a code or a request id."""
        return partition_of(text, self.partitions)

    def keys_and_token(self, partition: int) -> tuple[Keys, str]:
        """What a call to the partition names. Raises Unavailable when the partition is not open, or the store cannot
        keep what would be decided."""
        self.check_problem()
        return self._keys[partition], self._open(partition)[0]

    def keys(self, partition: int) -> Keys:
        """The names of what lies in the partition."""
        return self._keys[partition]

    def token_if_open(self, partition: int) -> str:
        """What a call to the partition names; empty when it is not open."""
        token, _ = self._tokens.get(partition, ("", 0))
        return token

    def keys_and_token_to_stop(self, partition: int) -> tuple[Keys, str]:
        """The same for what stops something, whatever the store can keep: it stops here and now, even if that cannot be
        acknowledged (`check_problem`)."""
        return self._keys[partition], self._open(partition)[0]

    def own_write(self, partition: int) -> Command | None:
        """The call whose write a replica has to confirm before anything is answered; None where none has to."""
        if self._acknowledge != "replica":
            return None
        keys = self._keys[partition]
        return function_call("touch", [keys.meta, keys.touched], [self._open(partition)[0]])

    def check_problem(self) -> None:
        """Raises Unavailable when the store cannot keep what was promised."""
        if self._problem is not None:
            raise Unavailable(self._problem)

    def epoch(self, partition: int) -> int:
        """The epoch under which the partition is open. Raises Unavailable when it is not."""
        return self._open(partition)[1]

    def _open(self, partition: int) -> tuple[str, int]:
        opened = self._tokens.get(partition)
        if opened is None:
            raise Unavailable(CLOSED)
        return opened

    # -- definitions -------------------------------------------------------------------------------------------------

    async def publish(self, campaign: Campaign) -> None:
        """Makes a definition the one that decides, unless it or a later one does already.

        Counters and state stay as they are; a campaign that is new to the gate is in the state that is kept of it.
        """
        keys, token = self.keys_and_token(self.partition_of(campaign.id))
        args: list[bytes | str | int] = [
            token,
            campaign.version,
            campaign.definition.to_json(),
            campaign.create_time_ms,
            " ".join(campaign.definition.labels),
            campaign.id,
            campaign.kept.value,
            "",
        ]
        names = [keys.meta, keys.campaign(campaign.id), keys.counters(campaign.id), keys.labels]
        await self.write(function_call("publish", names, args))

    # -- campaigns ---------------------------------------------------------------------------------------------------

    async def describe(self, campaign_ids: Sequence[str]) -> list[CampaignStatus | None]:
        """The campaigns with state and count as of now, in the order asked; None for one that the gate lacks."""
        by_partition: dict[int, list[int]] = {}
        for index, campaign_id in enumerate(campaign_ids):
            by_partition.setdefault(self.partition_of(campaign_id), []).append(index)
        calls = []
        for partition, indexes in by_partition.items():
            keys, token = self.keys_and_token(partition)
            calls.append(describe_call(keys, token, [campaign_ids[index] for index in indexes]))
        found: list[CampaignStatus | None] = [None] * len(campaign_ids)
        for indexes, replies in zip(by_partition.values(), await self.call(*calls), strict=True):
            for index, reply in zip(indexes, replies, strict=True):
                found[index] = decode_status(campaign_ids[index], reply)
        return found

    async def settle_to_stop(self, parts: Sequence[Part]) -> None:
        """Settles parts that are in the way of stopping; more may be left. Raises Unavailable when it is no use to ask
        again."""
        await self.settle(parts)
        if not any(home_of(part.holder_id) in self._tokens for part in parts):
            raise Unavailable("orders of several codes are being decided in a partition that is closed")

    # -- transactions over several codes -----------------------------------------------------------------------------

    async def overdue(self, count: int) -> list[Part]:
        """At most `count` parts of each partition that is open whose deadline has passed: whoever held them is late, or
        gone."""
        calls = []
        for partition in self._tokens:
            keys, token = self.keys_and_token(partition)
            calls.append(function_call("overdue", [keys.meta, keys.pending], [token, count]))
        return [Part.parse(part.decode()) for found in await self.call(*calls) for part in found]

    async def decisions(self, parts: Sequence[Part]) -> dict[str, str]:
        """The redemption that each transaction of these parts has become, by its id; '' for one that is undone, from
        now on for ever. Those that a closed partition decides are not there. They are as safe as was promised when this
        returns, but with the contract `ledger`."""
        return await self._decisions(parts, self.write)

    async def _decisions(
        self, parts: Sequence[Part], call: Callable[[Command], Awaitable[list[Any]]]
    ) -> dict[str, str]:
        decisions: dict[str, str] = {}
        for home, ids in by_home(parts):
            if home not in self._tokens:
                continue
            keys, token = self.keys_and_token(home)
            names = [keys.meta, *map(keys.transaction, ids)]
            (places,) = await call(function_call("decision", names, [token, self._request_ttl_ms]))
            decisions |= {id_: decided_place(home, place) for id_, place in zip(ids, places, strict=True)}
        return decisions

    async def settle(self, parts: Sequence[Part], decisions: Mapping[str, str] | None = None) -> int:
        """Makes redemptions of the parts whose transaction was decided and undoes the others; those of which nobody
        says so wait. Without `decisions` it asks for them. Answers how many were held until now. Safe to do twice, and
        twice at once.

        What was decided is not forgotten here: nobody knows whether other parts need it.
        """
        if decisions is None:
            decisions = await self._decisions(parts, self.call)
        by_partition: dict[int, list[tuple[Part, str]]] = {}
        told = [part for part in parts if part.holder_id in decisions]
        for part in told:
            settled = (part, decisions[part.holder_id])
            by_partition.setdefault(self.partition_of(part.campaign_id), []).append(settled)
        calls = [settle_call(*self.keys_and_token(partition), settled) for partition, settled in by_partition.items()]
        return sum(sum(reply) for reply in await self.call(*calls))

    # -- reservations ------------------------------------------------------------------------------------------------

    async def expire(self, count: int) -> int:
        """Gives back the reservations whose time is over, of at most `count` campaigns in each partition; answers of
        how many campaigns. Nobody needs to wait for that: whoever looks at a campaign does the same first."""
        partitions = [self.keys_and_token(partition) for partition in self._tokens]
        calls = [function_call("expiring", [keys.meta, keys.holding], [token, count]) for keys, token in partitions]
        expired = 0
        expiring = []
        for (keys, token), found in zip(partitions, await self.call(*calls), strict=True):
            if found:
                ids = [campaign_id.decode() for campaign_id in found]
                names = [keys.meta, keys.outbox, keys.holding, *keys.of_campaigns(ids)]
                expiring.append(function_call("expire", names, [token, len(ids), *ids]))
                expired += len(ids)
        await self.call(*expiring)
        return expired

    # -- rollbacks ---------------------------------------------------------------------------------------------------

    async def returning(self) -> list[Rollback]:
        """Rollbacks that are decided, in the partitions that are open, of which not everything may have come back. They
        are as safe as was promised when this returns."""
        partitions = list(self._tokens)
        calls = []
        for partition in partitions:
            keys, token = self.keys_and_token(partition)
            calls.append(function_call("returning", [keys.meta, keys.returning], [token]))
        found = []
        for partition, flat in zip(partitions, await self.write(*calls), strict=True):
            for place, body in zip(flat[::2], flat[1::2], strict=True):
                position = decode_place(partition, place.decode())
                found.append(Rollback(position, position.stream_id.ms, RollbackClaim.from_json(body)))
        return found

    async def waiting_events(self) -> int:
        """How many events of all partitions the ledger does not hold yet."""
        return sum(await self._execute_all([("XLEN", keys.outbox) for keys in self._keys]))

    async def outboxes(self) -> list[tuple[int, StreamId | None] | None]:
        """Of every partition how many events the ledger does not hold yet, and the first of them; None where its node
        is away."""
        commands: list[Command] = []
        for keys in self._keys:
            commands += [("XLEN", keys.outbox), ("XRANGE", keys.outbox, "-", "+", "COUNT", 1)]
        async with self._lock:
            replies = await self._connections.try_to_call(commands)
        return [
            None
            if isinstance(length, Exception) or isinstance(entries, Exception)
            else (length, StreamId.parse(entries[0][0].decode()) if entries else None)
            for length, entries in zip(replies[::2], replies[1::2], strict=True)
        ]

    async def _execute(self, command: Command) -> Any:
        return (await self._execute_all([command]))[0]

    async def _execute_all(self, commands: Sequence[Command]) -> list[Any]:
        async with self._lock:
            replies = await self._connections.execute(commands)
        return checked(replies)

    async def call(self, *calls: Command) -> list[Any]:
        """What function calls answer, in order. Raises Unavailable."""
        async with self._lock:
            replies = await self._connections.call(calls)
        return checked(replies)

    async def write(self, *calls: Command) -> list[Any]:
        """Like `call`, for what is not answered before it is as safe as was promised."""
        async with self._lock:
            replies = await self._connections.call(calls, self.own_write)
        return checked(replies)

    async def try_to_call(self, calls: Sequence[Command], *, writes: bool) -> list[Any]:
        """As `write` or `call`, with Unavailable in the place of what is not answered. Never raises it."""
        async with self._lock:
            return told(await self._connections.try_to_call(calls, self.own_write if writes else None))


def _seen(partition: int, reply: Sequence[bytes]) -> PartitionSeen:
    standing, open_under, last, first_kept, opened_in, run, now_ms = (word.decode() for word in reply)
    kept = StreamId.parse(first_kept) if first_kept else STREAM_START
    return PartitionSeen(partition, standing, open_under, StreamId.parse(last), kept, opened_in, run, int(now_ms))
