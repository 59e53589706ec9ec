"""Buckets of failed codes; the contract stands in guesses.lua. Goes through the lanes of the checkout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vouchsafe.domain.guessing import Rate
from vouchsafe.gate.connection import Command, function_call
from vouchsafe.gate.gate import Gate
from vouchsafe.gate.lanes import Function, Lanes


@dataclass(frozen=True, slots=True)
class Taking:
    """`count` tokens to be taken from a bucket, which is known by a hash."""

    bucket: str
    rate: Rate
    count: int


@dataclass(frozen=True, slots=True)
class Taken:
    """How many were there and were taken, and when the bucket is full again, in milliseconds by the gate's clock."""

    count: int
    full_ms: int


class Guesses:
    """Every method raises Overloaded and Unavailable as those of `Checkout` do."""

    def __init__(self, gate: Gate, lanes: Lanes) -> None:
        self._gate = gate
        self._lanes = lanes
        self._take = Function(self._encode_take, self._decode_take, decides=False)

    async def take(self, taking: Taking) -> Taken:
        """Takes as many of the tokens as are there."""
        return await self._lanes.submit(self._take, self._gate.partition_of(taking.bucket), taking)

    def _encode_take(self, partition: int, takings: Sequence[Taking]) -> Command:
        keys, token = self._gate.keys_and_token(partition)
        args: list[str | int] = [token]
        for taking in takings:
            args += (*taking.rate, taking.count)
        return function_call("take_tokens", [keys.meta, *(keys.bucket(taking.bucket) for taking in takings)], args)

    def _decode_take(self, _partition: int, _taking: Taking, answer: bytes) -> Taken:
        count, full_ms, now_ms = map(int, answer.split())
        self._gate.clock.set(now_ms)
        return Taken(count, full_ms)
