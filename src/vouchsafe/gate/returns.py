"""What comes back of redemptions; the contract stands in rollback.lua. Goes through the lanes of the checkout."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vouchsafe.domain.reasons import Refusal
from vouchsafe.domain.redemption import Position
from vouchsafe.domain.rollback import ReturnedCode, Rollback, RollbackClaim
from vouchsafe.domain.takes import uncapped_text
from vouchsafe.gate.attempts import Reused, Stale, Standing, Waiting, decode_answer, decode_place, reused
from vouchsafe.gate.connection import Command, function_call
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.lanes import Function, Lanes
from vouchsafe.gate.transactions import campaign_call


@dataclass(frozen=True, slots=True)
class Nothing:
    """The use that shall come back is none of the order's (any more): nothing of it counts."""


NOTHING: Final = Nothing()


class RollingBack:
    """A rollback to be decided: `seen` is what was read of the redemption before, b"" for nothing, `kept` what shall be
    kept of it now."""

    __slots__ = ("body", "claim", "digest", "kept", "redemption", "seen")

    def __init__(self, claim: RollbackClaim, redemption: Position, seen: bytes, kept: bytes) -> None:
        self.claim = claim
        self.redemption = redemption
        self.seen = seen
        self.kept = kept
        self.body = claim.to_json()
        self.digest = zlib.crc32(self.body)


class Returns:
    """Every method raises Overloaded and Unavailable as those of `Checkout` do."""

    def __init__(self, gate: Gate, lanes: Lanes, ttl_ms: int) -> None:
        self._gate = gate
        self._lanes = lanes
        self._ttl_ms = ttl_ms
        self._roll_back = Function(self._encode_roll_back, _decode_roll_back)
        self._rolled = Function(self._encode_rolled, _decode_rolled, decides=False)
        self._give_back = Function(self._encode_give_back, _decode_give_back)
        self._given_back = Function(self._encode_given_back, _decode_nothing)
        self._unmark = Function(self._encode_unmark, _decode_nothing)

    async def rolled(self, redemption: Position) -> bytes:
        """What is kept of a redemption, b"" when nothing of it was rolled back."""
        return await self._lanes.submit(self._rolled, redemption.partition, redemption)

    async def roll_back(self, rolling: RollingBack) -> Rollback | Standing | Refusal | Stale:
        """Decides in one atomic step, unless what was read is not so any more, or the request has its answer already.
        Raises RequestIdReused."""
        return await self._lanes.submit(self._roll_back, rolling.redemption.partition, rolling)

    async def give_back(self, returned: ReturnedCode) -> Waiting | Nothing | None:
        """Gives back what one code has counted, for the rollback that it names; unless the order has it in a
        transaction that is decided and not settled yet: that has to be settled first. Safe to do twice."""
        return await self._lanes.submit(self._give_back, self._gate.partition_of(returned.campaign_id), returned)

    async def given_back(self, rollback: Position, codes: Sequence[ReturnedCode]) -> None:
        """Everything of a rollback has come back: nobody needs to look after it any more."""
        await self._lanes.submit(self._given_back, rollback.partition, rollback)
        for code in codes:
            await self._lanes.submit(self._unmark, self._gate.partition_of(code.campaign_id), code)

    # -- the wire format ---------------------------------------------------------------------------------------------

    def _encode_roll_back(self, partition: int, items: Sequence[RollingBack]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        args: list[bytes | str | int] = [token, self._ttl_ms]
        for item in items:
            args += (item.claim.fingerprint, str(item.redemption), item.seen, item.kept, item.digest, item.body)
        requests = [keys.request(item.claim.request_id) for item in items]
        return function_call("roll_back", [keys.meta, keys.outbox, keys.rolled, keys.returning, *requests], args)

    def _encode_rolled(self, partition: int, redemptions: Sequence[Position]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        return function_call("rolled", [keys.meta, keys.rolled], [token, *map(str, redemptions)])

    def _encode_give_back(self, partition: int, items: Sequence[ReturnedCode]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        fields = []
        marks = []
        for returned in items:
            fields.append(
                (
                    returned.campaign_id,
                    (
                        returned.order_and_code,
                        returned.place,
                        returned.uses,
                        uncapped_text(returned.takes),
                        returned.taken_ms,
                        returned.to_json(),
                    ),
                )
            )
            marks.append(keys.mark(returned.rollback_id, returned.code))
        return campaign_call("give_back", keys, (keys.outbox,), (token,), fields, marks)

    def _encode_given_back(self, partition: int, rollbacks: Sequence[Position]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        places = [f"{epoch}-{stream_id}" for _, epoch, stream_id in rollbacks]
        return function_call("given_back", [keys.meta, keys.returning], [token, *places])

    def _encode_unmark(self, partition: int, codes: Sequence[ReturnedCode]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        marks = [keys.mark(code.rollback_id, code.code) for code in codes]
        return function_call("unmark", [keys.meta, *marks], [token, self._ttl_ms])


def _decode_roll_back(partition: int, rolling: RollingBack, answer: bytes) -> Rollback | Standing | Refusal | Stale:
    kind, _, rest = answer.decode().partition(" ")
    if kind == "R":
        place, at_ms, digest = rest.split(" ")
        position = decode_place(partition, place)
        # A repetition may have been worked out from something else; the first one stands.
        if int(digest) == rolling.digest:
            return Rollback(position, int(at_ms), rolling.claim)
        return Standing(position)
    match decode_answer(partition, "", answer.decode()):
        case Refusal() | Stale() as found:
            return found
        case Reused():
            raise reused(rolling.claim.request_id)
        case found:
            raise ValueError(f"unexpected answer {found}")


def _decode_rolled(_partition: int, _redemption: Position, kept: bytes | None) -> bytes:
    return kept or b""


def _decode_give_back(_partition: int, _returned: ReturnedCode, answer: bytes) -> Waiting | Nothing | None:
    kind, _, transaction_id = answer.decode().partition(" ")
    if kind == "E":
        return NOTHING
    return Waiting(transaction_id) if kind == "W" else None


def _decode_nothing(_partition: int, _item: object, _answer: object) -> None:
    """Done is all there is to say."""
