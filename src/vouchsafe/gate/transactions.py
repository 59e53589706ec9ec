"""Parts of transactions and reservations as the gate names them, and the calls that several callers make of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from vouchsafe.domain.redemption import Position
from vouchsafe.gate.connection import Command, function_call
from vouchsafe.gate.keys import Keys


@dataclass(frozen=True, slots=True)
class Part:
    """One code of a transaction or of a reservation, held in the partition of its campaign. `holder_id` is the id of
    the transaction or the reservation."""

    campaign_id: str
    order_and_code: str
    holder_id: str

    @classmethod
    def parse(cls, text: str) -> Part:
        """Reads "<campaign> <order> <code> <transaction>"."""
        campaign_id, order_id, code, transaction_id = text.split(" ")
        return cls(campaign_id, f"{order_id} {code}", transaction_id)


def transaction_id(home: int, unique: str) -> str:
    """The name of a transaction that is decided in partition `home`."""
    return f"p{home:02}-{unique}"


def new_reservation_id(home: int, unique: str) -> str:
    """The name of a reservation that is noted in partition `home`; its transactions are decided there, too."""
    return f"h{home:02}-{unique}"


def home_of(name: str) -> int:
    """The partition that the name of a transaction or a reservation says."""
    return int(name[1:3])


def campaign_call(
    name: str,
    keys: Keys,
    own_keys: Sequence[str],
    first_args: Sequence[str | int],
    items: Sequence[tuple[str, Sequence[bytes | str | int]]],
    item_keys: Sequence[str] = (),
) -> Command:
    """A call about items of campaigns of one partition. An item is the id of its campaign and its values; it is sent as
    the index of the campaign, from 1, and the values."""
    indexes: dict[str, int] = {}
    values: list[bytes | str | int] = []
    for campaign_id, fields in items:
        values.append(indexes.setdefault(campaign_id, len(indexes) + 1))
        values += fields
    names = [keys.meta, *own_keys, *keys.of_campaigns(indexes), *item_keys]
    return function_call(name, names, [*first_args, len(indexes), *indexes, *values])


def settle_call(keys: Keys, token: str, settled: Sequence[tuple[Part, str]]) -> Command:
    """The call that settles parts of one partition, each with the id of its redemption, or '' to undo it."""
    items = [(part.campaign_id, (part.order_and_code, part.holder_id, redemption)) for part, redemption in settled]
    return campaign_call("settle", keys, (keys.outbox, keys.pending, keys.holding), (token,), items)


def forget_call(keys: Keys, token: str, transaction_ids: Sequence[str], ttl_ms: int) -> Command:
    """The call that lets decisions of one partition expire."""
    return function_call("forget", [keys.meta, *map(keys.transaction, transaction_ids)], [token, ttl_ms])


def decided_place(home: int, place: bytes) -> str:
    """The id of the redemption that `decision` answers; '' when the transaction is undone."""
    return str(Position.parse(f"r{home:02}-{place.decode()}")) if place else ""


def by_home(parts: Iterable[Part]) -> list[tuple[int, list[str]]]:
    """The different transactions of parts, by the partition that decides them."""
    ids = sorted({part.holder_id for part in parts})
    return [(home, list(group)) for home, group in groupby(ids, key=home_of)]
