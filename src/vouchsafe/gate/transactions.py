"""Transactions over several codes as the gate knows them; the contract stands in transaction.lua."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from vouchsafe.domain.redemption import Position
from vouchsafe.gate.connection import Command, function_call
from vouchsafe.gate.keys import Keys


@dataclass(frozen=True, slots=True)
class Part:
    """One code of a transaction, held in the partition of its campaign."""

    campaign_id: str
    order_and_code: str
    transaction_id: str

    @classmethod
    def parse(cls, text: str) -> Part:
        """Reads "<campaign> <order> <code> <transaction>"."""
        campaign_id, order_id, code, transaction_id = text.split(" ")
        return cls(campaign_id, f"{order_id} {code}", transaction_id)


def transaction_id(home: int, unique: str) -> str:
    """The name of a transaction that is decided in partition `home`."""
    return f"p{home:02}-{unique}"


def home_of(transaction: str) -> int:
    """The partition in which a transaction is decided."""
    return int(transaction[1:3])


def settle_call(keys: Keys, token: str, settled: Sequence[tuple[Part, str]]) -> Command:
    """The call that settles parts of one partition, each with the id of its redemption, or '' to undo it."""
    ids = dict.fromkeys(part.campaign_id for part, _ in settled)
    campaigns = {campaign_id: index for index, campaign_id in enumerate(ids, 1)}
    args: list[str | int] = [token, len(campaigns), *campaigns]
    for part, redemption_id in settled:
        args += (campaigns[part.campaign_id], part.order_and_code, part.transaction_id, redemption_id)
    return function_call("settle", [keys.meta, keys.outbox, keys.pending, *campaign_keys(keys, campaigns)], args)


def forget_call(keys: Keys, token: str, transaction_ids: Sequence[str], ttl_ms: int) -> Command:
    """The call that lets decisions of one partition expire."""
    return function_call("forget", [keys.meta, *map(keys.transaction, transaction_ids)], [token, ttl_ms])


def campaign_keys(keys: Keys, campaign_ids: Iterable[str]) -> list[str]:
    """The keys of campaigns, as every function that decides takes them."""
    found: list[str] = []
    for campaign_id in campaign_ids:
        found += (keys.campaign(campaign_id), keys.counters(campaign_id), keys.orders(campaign_id))
    return found


def decided_place(home: int, place: bytes) -> str:
    """The id of the redemption that `decision` answers; '' when the transaction is undone."""
    return str(Position.parse(f"r{home:02}-{place.decode()}")) if place else ""


def by_home(parts: Iterable[Part]) -> list[tuple[int, list[str]]]:
    """The different transactions of parts, by the partition that decides them."""
    ids = sorted({part.transaction_id for part in parts})
    return [(home, list(group)) for home, group in groupby(ids, key=home_of)]
