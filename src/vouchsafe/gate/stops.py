"""The kill switch of each partition, and which campaigns have a label; the contract stands in stop.lua."""

from __future__ import annotations

from vouchsafe.domain.kill_switch import Engaged, SwitchEvent
from vouchsafe.domain.trail import UNKNOWN, Author
from vouchsafe.gate.connection import function_call
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.transactions import Part


class Stops:
    """One partition at a time; every method raises Unavailable when it is out of reach."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def engage(self, partition: int, scope: str, engaged: Engaged, author: Author = UNKNOWN) -> None:
        """Ends redeeming: nothing is admitted from the first step on; what was held before of transactions over several
        codes is settled before the second, so that none of them is decided later. Again changes nothing."""
        body = SwitchEvent(scope, engaged.reason, engaged.at_ms, *author).to_json()
        while True:
            keys, token = self._gate.keys_and_token_to_stop(partition)
            names = [keys.meta, keys.outbox, keys.pending, keys.stops, keys.labels]
            args: list[bytes | str | int] = [token, scope, engaged.to_json(), body]
            (parts,) = await self._gate.write(function_call("stop", names, args))
            if not parts:
                break
            await self._gate.settle_to_stop([Part.parse(part.decode()) for part in parts])
        self._gate.check_problem()

    async def release(self, partition: int, event: SwitchEvent) -> None:
        """Lets redeeming go on."""
        keys, token = self._gate.keys_and_token(partition)
        args: list[bytes | str | int] = [token, event.scope, event.to_json()]
        await self._gate.write(function_call("release_stop", [keys.meta, keys.outbox, keys.stops], args))

    async def read(self, partition: int) -> dict[str, Engaged]:
        """The scopes that are engaged here, also those that are just being engaged."""
        keys, token = self._gate.keys_and_token_to_stop(partition)
        (flat,) = await self._gate.call(function_call("stops", [keys.meta, keys.stops], [token]))
        return {scope.decode(): Engaged.from_json(kept[1:]) for scope, kept in zip(flat[::2], flat[1::2], strict=True)}

    async def labelled(self, partition: int, label: str) -> list[str]:
        """The ids of the campaigns that have a label."""
        keys, token = self._gate.keys_and_token_to_stop(partition)
        (ids,) = await self._gate.call(function_call("labelled", [keys.meta, keys.labels], [token, label]))
        return [id_.decode() for id_ in ids]
