"""The directory of codes as it is written: small hashes that stay runs of bytes; the contract stands in codes.lua."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from vouchsafe.domain.campaign import CodeEntry
from vouchsafe.gate.connection import Command
from vouchsafe.gate.keys import Keys, bucket_of

# How much one function call writes: nobody else is served meanwhile.
CODES_PER_CALL = 1_000

MakeCall = Callable[[str, Sequence[str], Sequence[str | int]], Command]


def put_calls(
    keys: Keys, partitions: int, entries: Iterable[CodeEntry], call: MakeCall, put: str, give: str
) -> Iterator[Command]:
    """The calls that enter codes of one partition. `call` makes one of a function's name, its keys behind meta and its
    arguments behind the token; `put` and `give` name the functions for codes that were given to nobody and for others.
    """
    alike: defaultdict[tuple[str, int, bool], list[CodeEntry]] = defaultdict(list)
    for entry in entries:
        alike[entry.campaign_id, entry.use_limit or 0, bool(entry.holder_id)].append(entry)
    for (campaign_id, use_limit, is_given), of_one_kind in alike.items():
        for at in range(0, len(of_one_kind), CODES_PER_CALL):
            names = [keys.numbers]
            args: list[str | int] = [campaign_id, use_limit]
            for entry in of_one_kind[at : at + CODES_PER_CALL]:
                bucket = bucket_of(entry.code, partitions)
                names.append(keys.codes(bucket))
                args.append(entry.code)
                if is_given:
                    names.append(keys.given(bucket))
                    args.append(f"{entry.holder_id} {entry.assign_time_ms} {entry.expire_time_ms or 0}")
            yield call(give if is_given else put, names, args)


def resolve_keys(keys: Keys, partitions: int, codes: Iterable[str]) -> list[str]:
    """The keys, behind meta, of the call that looks codes of one partition up."""
    names = [keys.numbers]
    for code in codes:
        bucket = bucket_of(code, partitions)
        names += (keys.codes(bucket), keys.given(bucket))
    return names


def decode_entry(code: str, text: str) -> CodeEntry:
    """A code as `resolve` answers it."""
    use_limit, campaign_id, *given = text.split(" ")
    if not given:
        return CodeEntry(code, campaign_id, int(use_limit) or None)
    holder_id, assign_time_ms, expire_time_ms = given
    return CodeEntry(
        code, campaign_id, int(use_limit) or None, holder_id, int(assign_time_ms), int(expire_time_ms) or None
    )
