"""What the gate is asked to decide, and its answers, as its functions spell them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from vouchsafe.domain.errors import RequestIdReused, Unavailable
from vouchsafe.domain.reasons import Reason, Refusal
from vouchsafe.domain.redemption import Claim, CombinedClaim, Position, Redemption, StreamId
from vouchsafe.domain.rules import ALWAYS
from vouchsafe.domain.takes import Take, takes_text
from vouchsafe.gate.connection import CLOSED


class Attempt:
    """One item to decide: what it would record and take, and what the campaign's rules object to, true in
    [from_ms, until_ms) by the gate's clock."""

    __slots__ = ("body", "claim", "digest", "from_ms", "objection", "takes", "until_ms")

    def __init__(
        self,
        claim: Claim,
        takes: Iterable[Take],
        objection: Refusal | None = None,
        from_ms: int = ALWAYS[0],
        until_ms: int = ALWAYS[1],
    ) -> None:
        self.claim = claim
        self.takes = takes_text(takes)
        self.objection = objection
        self.from_ms = from_ms
        self.until_ms = until_ms
        self.body = claim.to_json()
        self.digest = zlib.crc32(self.body)

    @property
    def order_and_code(self) -> str:
        """What an order has at most once."""
        return f"{self.claim.order_id} {self.claim.code}"

    def reserved_by(self, reservation_id: str) -> Attempt:
        """The same, to be recorded as what the reservation holds."""
        twin = Attempt.__new__(Attempt)
        twin.claim = msgspec.structs.replace(self.claim, reservation_id=reservation_id)
        twin.takes, twin.objection = self.takes, self.objection
        twin.from_ms, twin.until_ms = self.from_ms, self.until_ms
        twin.body = twin.claim.to_json()
        twin.digest = zlib.crc32(twin.body)
        return twin

    @property
    def part(self) -> tuple[str, tuple[bytes | str | int, ...]]:
        """The id of its campaign, and the item as decide.lua reads it."""
        claim = self.claim
        return claim.campaign_id, (
            claim.campaign_version,
            claim.fingerprint,
            self.order_and_code,
            self.takes,
            "" if self.objection is None else encode_refusal(self.objection),
            self.from_ms,
            self.until_ms,
            self.digest,
            self.body,
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """The redemption that stands: this request has taken it before, or this order with the same contents has."""

    position: Position


@dataclass(frozen=True, slots=True)
class Stale:
    """The campaign's definition has changed since it was read; nothing was decided."""


@dataclass(frozen=True, slots=True)
class Moved:
    """By the gate's clock, what was judged is not true now; nothing was decided. The clock is set right already."""

    now_ms: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """The order has the code in a transaction that is not settled yet; nothing was decided."""

    transaction_id: str


@dataclass(frozen=True, slots=True)
class Redeemable:
    """Nothing speaks against it, now."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What a trial found: what would be decided at the time that it pretends, if the campaign were active then; and
    whether it is active now."""

    answer: Redeemable | Refusal | Stale | Waiting
    is_active: bool


@dataclass(frozen=True, slots=True)
class Held:
    """The part is held for its transaction or its reservation: since when, and until when the reservation lasts (0 for
    none), in milliseconds by the gate's clock; and in which epoch of its partition. `replaced` is the reservation that
    gave way to it, empty for none; `place` is where the event lies that this call has written, as named within its
    partition, empty for none."""

    taken_ms: int
    expire_ms: int
    epoch: int
    replaced: str = ""
    place: str = ""


@dataclass(frozen=True, slots=True)
class Reserved:
    """The order has a reservation of the same contents already, or the request has made one."""

    reservation_id: str


@dataclass(frozen=True, slots=True)
class Gone:
    """The order does not have the reservation, or not any more."""

    now_ms: int


@dataclass(frozen=True, slots=True)
class Released:
    """The reservation was given back."""


@dataclass(frozen=True, slots=True)
class Crowded:
    """Reservations whose time is over are being given back, and there are more of them; nothing was decided."""


@dataclass(frozen=True, slots=True)
class Undone:
    """The transaction cannot be decided any more."""


@dataclass(frozen=True, slots=True)
class Missing:
    """The gate does not have the campaign; nothing was decided."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The partition of the request id is closed; nothing was decided."""


@dataclass(frozen=True, slots=True)
class Reused:
    """The request id is another request's."""


Answer = (
    Redemption
    | Refusal
    | Standing
    | Stale
    | Moved
    | Waiting
    | Redeemable
    | Held
    | Reserved
    | Gone
    | Released
    | Crowded
    | Undone
    | Missing
    | Closed
    | Reused
)

STALE: Final = Stale()
REDEEMABLE: Final = Redeemable()
RELEASED: Final = Released()
CROWDED: Final = Crowded()
UNDONE: Final = Undone()
MISSING: Final = Missing()
HOME_CLOSED: Final = Closed()
REUSED: Final = Reused()
_PLAIN: Final[Mapping[str, Answer]] = {
    "S": STALE,
    "V": REDEEMABLE,
    "L": RELEASED,
    "E": CROWDED,
    "A": UNDONE,
    "U": MISSING,
    "C": HOME_CLOSED,
    "X": REUSED,
}


def _held(words: str) -> Held:
    taken_ms, expire_ms, epoch, place, *replaced = words.split(" ")
    return Held(int(taken_ms), int(expire_ms), int(epoch), "".join(replaced), "" if place == "-" else place)


_WITH_WORDS: Final[Mapping[str, Callable[[str], Answer]]] = {
    "T": lambda words: Moved(int(words)),
    "W": Waiting,
    "H": _held,
    "Y": Reserved,
    "G": lambda words: Gone(int(words)),
}


def decode_answer(
    partition: int, code: str, text: str, claimed: tuple[int, Claim | CombinedClaim] | None = None
) -> Answer:
    """Any answer of the functions that decide. `claimed` is the digest and the claim that a fresh redemption records;
    without it, or with another digest, the answer is that one stands. Raises ValueError."""
    kind, _, rest = text.partition(" ")
    if kind in _PLAIN:
        return _PLAIN[kind]
    if kind in _WITH_WORDS:
        return _WITH_WORDS[kind](rest)
    match kind:
        case "R":
            place, at_ms, digest = rest.split(" ")
            position = decode_place(partition, place)
            # A repetition may have been judged by another version of the definition; the first one stands.
            if claimed is None or int(digest) != claimed[0]:
                return Standing(position)
            return Redemption(position, int(at_ms), claimed[1])
        case "D":
            return Standing(decode_place(partition, rest))
        case "N":
            return decode_refusal(partition, code, rest)
        case _:
            raise ValueError(f"unknown answer {kind!r}")


def decode_for(
    attempt: Attempt, partition: int, answer: bytes, set_clock: Callable[[int], None], *, claimed: bool = False
) -> Answer:
    """An answer about an attempt; sets the clock where it is behind, and raises what is an error. `claimed`: a fresh
    redemption is the attempt's."""
    claim = attempt.claim
    found = decode_answer(partition, claim.code, answer.decode(), (attempt.digest, claim) if claimed else None)
    match found:
        case Moved(now_ms):
            set_clock(now_ms)
        case Reused():
            raise reused(claim.request_id)
        case Missing():
            raise Unavailable(f"campaign {claim.campaign_id} is being published; try again")
        case Closed():
            raise Unavailable(CLOSED)
        case _:
            pass
    return found


def decode_place(partition: int, place: str) -> Position:
    """A place as the gate names it: within the partition, or the whole id of a redemption of several codes."""
    if place.startswith("r"):
        return Position.parse(place)
    epoch, ms, seq = place.split("-")
    return Position(partition, int(epoch), StreamId(int(ms), int(seq)))


class _Words(msgspec.Struct, frozen=True):
    """What a refusal says beside its reason."""

    metadata: Mapping[str, str]
    message: str
    code: str = ""


_read_words = msgspec.json.Decoder(_Words).decode
_write_words = msgspec.json.Encoder().encode


def encode_refusal(refusal: Refusal, *, with_code: bool = False) -> bytes:
    """A refusal of our own as the gate remembers it; with the code where the request alone does not tell it."""
    words = _Words(refusal.metadata, refusal.own_message, refusal.code if with_code else "")
    return b"N %d %b" % (refusal.reason.value, _write_words(words))


def decode_refusal(partition: int, code: str, text: str) -> Refusal:
    """A refusal as the gate answers it, "<reason> ...": the caller's own in JSON, the gate's as pairs."""
    number, _, rest = text.partition(" ")
    reason = Reason(int(number))
    if rest.startswith("{"):
        words = _read_words(rest)
        return Refusal(reason, words.code or code, words.metadata, words.message)
    pairs = dict(pair.split("=", 1) for pair in rest.split(" ")) if rest else {}
    if "place" in pairs:
        return Refusal(reason, code, {"redemption_id": str(decode_place(partition, pairs["place"]))})
    return Refusal(reason, code, pairs)


def reused(request_id: str) -> RequestIdReused:
    """What to raise for an answer that says so."""
    return RequestIdReused(f"request id {request_id} was used for another request; make a new one for each attempt")
