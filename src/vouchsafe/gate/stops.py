"""The kill switch of every partition, and which campaigns have a label; the contract stands in stop.lua."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from vouchsafe.domain.errors import Unavailable
from vouchsafe.domain.kill_switch import Engaged, SwitchEvent
from vouchsafe.domain.trail import UNKNOWN, Author
from vouchsafe.gate.connection import Command, function_call
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.transactions import Part


class Stops:
    """All partitions in one go, since each round trip more is time in which redeeming goes on. What is out of reach is
    answered as Unavailable in its place, and holds up no other."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def engage(self, scope: str, engaged: Engaged, author: Author = UNKNOWN) -> list[Unavailable | None]:
        """Ends redeeming: nothing is admitted from the first step on; what was held before of transactions over several
        codes is settled before the second, so that none of them is decided later. Again changes nothing. Answers for
        each partition why it is not stopped."""
        body = SwitchEvent(scope, engaged.reason, engaged.at_ms, *author).to_json()

        def stop(partition: int) -> Command:
            keys, token = self._gate.keys_and_token_to_stop(partition)
            names = [keys.meta, keys.outbox, keys.pending, keys.stops, keys.labels]
            return function_call("stop", names, [token, scope, engaged.to_json(), body])

        async def finish(partition: int, parts: list[bytes] | Unavailable) -> Unavailable | None:
            try:
                while parts:
                    if isinstance(parts, Unavailable):
                        return parts
                    await self._gate.settle_to_stop([Part.parse(part.decode()) for part in parts])
                    (parts,) = await self._gate.write(stop(partition))
                self._gate.check_problem()
            except Unavailable as error:
                return error
            return None

        found = await self._everywhere(stop, writes=True)
        return list(await asyncio.gather(*(finish(partition, parts) for partition, parts in enumerate(found))))

    async def release(self, event: SwitchEvent) -> list[Unavailable | None]:
        """Lets redeeming go on. Answers for each partition why it does not."""

        def go_on(partition: int) -> Command:
            keys, token = self._gate.keys_and_token(partition)
            args: list[bytes | str | int] = [token, event.scope, event.to_json()]
            return function_call("release_stop", [keys.meta, keys.outbox, keys.stops], args)

        found = await self._everywhere(go_on, writes=True)
        return [one if isinstance(one, Unavailable) else None for one in found]

    async def read(self) -> list[dict[str, Engaged] | None]:
        """The scopes that are engaged in each partition, also those that are just being engaged; None where it cannot
        be asked."""

        def look(partition: int) -> Command:
            keys, token = self._gate.keys_and_token_to_stop(partition)
            return function_call("stops", [keys.meta, keys.stops], [token])

        found = await self._everywhere(look, writes=False)
        return [None if isinstance(flat, Unavailable) else _engaged(flat) for flat in found]

    async def _everywhere(self, make: Callable[[int], Command], *, writes: bool) -> list[Any]:
        """What each partition replies to its call, or Unavailable."""
        found: list[Any] = [None] * self._gate.partitions
        calls = {}
        for partition in range(self._gate.partitions):
            try:
                calls[partition] = make(partition)
            except Unavailable as error:
                found[partition] = error
        replies = await self._gate.try_to_call(list(calls.values()), writes=writes)
        for partition, reply in zip(calls, replies, strict=True):
            found[partition] = reply
        return found

    async def labelled(self, partition: int, label: str) -> list[str]:
        """The ids of the campaigns that have a label."""
        keys, token = self._gate.keys_and_token_to_stop(partition)
        (ids,) = await self._gate.call(function_call("labelled", [keys.meta, keys.labels], [token, label]))
        return [id_.decode() for id_ in ids]


def _engaged(flat: Sequence[bytes]) -> dict[str, Engaged]:
    return {scope.decode(): Engaged.from_json(kept[1:]) for scope, kept in zip(flat[::2], flat[1::2], strict=True)}
