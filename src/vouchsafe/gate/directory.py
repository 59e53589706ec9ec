"""The directory of codes: where each leads, and whether it may be used."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from vouchsafe.domain.campaign import CodeEntry
from vouchsafe.domain.errors import Unavailable
from vouchsafe.domain.redemption import EventKind
from vouchsafe.domain.trail import UNKNOWN, Author
from vouchsafe.gate.codes import decode_entry, put_calls, resolve_keys
from vouchsafe.gate.connection import Command, function_call
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.transactions import Part


class CodeStanding(NamedTuple):
    """How often a code is used, uses that are held with it, and why it is disabled (None: it is not)."""

    uses: int
    disabled_reason: str | None


class Directory:
    """Every method raises Unavailable when Valkey is out of reach, or when the partition in question is not open."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def put(self, entries: Sequence[CodeEntry]) -> None:
        """Enters codes; entering one again changes nothing, and never takes it from its holder."""
        by_partition: defaultdict[int, list[CodeEntry]] = defaultdict(list)
        for entry in entries:
            by_partition[self._gate.partition_of(entry.code)].append(entry)
        calls: list[Command] = []
        for partition, of_partition in by_partition.items():
            keys, token = self._gate.keys_and_token(partition)

            def call(
                name: str, names: Sequence[str], args: Sequence[str | int], meta: str = keys.meta, token: str = token
            ) -> Command:
                return function_call(name, [meta, *names], [token, *args])

            calls += put_calls(keys, self._gate.partitions, of_partition, call, "put_codes", "give_codes")
        await self._gate.write(*calls)

    async def find(self, code: str) -> CodeEntry | None:
        """Where a code leads, or None when no campaign has it."""
        keys, token = self._gate.keys_and_token_to_stop(self._gate.partition_of(code))
        names = resolve_keys(keys, self._gate.partitions, [code])
        ((found,),) = await self._gate.call(function_call("resolve", [keys.meta, *names], [token, code]))
        return None if found is None else decode_entry(code, found.decode())

    async def look(self, entries: Sequence[CodeEntry]) -> list[CodeStanding]:
        """How it stands with codes now, in the order given."""
        by_campaign: defaultdict[str, list[int]] = defaultdict(list)
        for index, entry in enumerate(entries):
            by_campaign[entry.campaign_id].append(index)
        calls = []
        for campaign_id, indexes in by_campaign.items():
            keys, token = self._gate.keys_and_token(self._gate.partition_of(campaign_id))
            names = [keys.meta, keys.campaign(campaign_id), keys.counters(campaign_id)]
            calls.append(function_call("look_at_codes", names, [token, *(entries[index].code for index in indexes)]))
        found = [CodeStanding(0, None)] * len(entries)
        for indexes, replies in zip(by_campaign.values(), await self._gate.call(*calls), strict=True):
            for index, (uses, reason) in zip(indexes, replies, strict=True):
                found[index] = CodeStanding(int(uses), None if reason is None else reason.decode())
        return found

    async def disable(self, entry: CodeEntry, reason: str, author: Author = UNKNOWN) -> None:
        """Stops a code: once this returns, no later use of it succeeds anywhere. As for `Gate.pause`, what was held
        before of transactions over several codes is settled first."""
        while parts := await self._set_state(entry, "disabled", reason, EventKind.CODE_DISABLED, author):
            await self._gate.settle_to_stop(parts)

    async def enable(self, entry: CodeEntry, reason: str, author: Author = UNKNOWN) -> None:
        """Lets a code be used again."""
        await self._set_state(entry, "enabled", reason, EventKind.CODE_ENABLED, author)

    async def _set_state(
        self, entry: CodeEntry, state: str, reason: str, kind: EventKind, author: Author
    ) -> list[Part]:
        """Answers the parts that have to be settled before it is done."""
        campaign_id = entry.campaign_id
        keys, token = self._gate.keys_and_token_to_stop(self._gate.partition_of(campaign_id))
        body = json.dumps({"code": entry.code, "reason": reason, **author.told()}, ensure_ascii=False)
        names = [keys.meta, keys.outbox, keys.pending, keys.campaign(campaign_id)]
        args = [token, campaign_id, entry.code, state, reason, kind.value, body]
        (reply,) = await self._gate.write(function_call("set_code_state", names, args))
        self._gate.check_problem()
        if reply == 0:
            raise Unavailable(f"campaign {campaign_id} is being published; try again")
        return [Part.parse(part.decode()) for part in reply] if isinstance(reply, list) else []
