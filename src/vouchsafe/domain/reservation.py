"""A use that is held for an order while it is paid for."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from vouchsafe.domain.redemption import AppliedCode, CombinedClaim


class Reservation(msgspec.Struct, frozen=True):
    """What is held, as it will be redeemed, until `expire_ms` by the gate's clock (milliseconds since 1970 UTC).
    `held_at` are the places of the events of its parts, each as a redemption's id would say it."""

    id: str
    expire_ms: int
    claim: CombinedClaim
    held_at: tuple[str, ...] = ()

    @property
    def applied(self) -> Sequence[AppliedCode]:
        """The codes, in the order in which they are applied."""
        return self.claim.applied

    @property
    def discount_minor(self) -> int:
        """What all codes take off."""
        return sum([one.discount.applied_minor for one in self.applied])

    def to_json(self) -> bytes:
        """The form in which the gate keeps it; `from_json` reads it back."""
        return _encode(self)

    @classmethod
    def from_json(cls, text: bytes) -> Reservation:
        """Reads what `to_json` wrote. Raises ValueError on anything else."""
        return _decode(text)


class ReservedEvent(msgspec.Struct, frozen=True):
    """What is recorded of a reservation once all of it is held, and the fingerprint of the request that made it."""

    request_fingerprint: str
    reservation: Reservation

    def to_json(self) -> bytes:
        """The body of its event; `from_json` reads it back."""
        return _encode(self)

    @classmethod
    def from_json(cls, body: bytes | str) -> ReservedEvent:
        """Reads what `to_json` wrote. Raises ValueError on anything else."""
        return _decode_event(body)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Reservation).decode
_decode_event = msgspec.json.Decoder(ReservedEvent).decode
