"""What can go wrong, whichever room it goes wrong in.

VouchsafeError
├── InvalidRequest       the request breaks a rule that the caller can read about in the protos
├── Unauthenticated      the caller gave no credentials, or none that are good
├── PermissionDenied     none of the caller's roles may do this
├── NotFound             nothing has this id
├── AlreadyExists        the id or the code is taken
├── Changed              it is not any more as the caller has read it
├── NotAllowed           it cannot be done where the campaign is in its life; the text says what can
├── RequestIdReused      the request id was used for another request
├── Throttled            too many codes or credentials of this caller were wrong; come back later
├── Overloaded           more is waiting than the server takes on; come back later
├── Unavailable          a store is out of reach or not to be trusted; nothing was decided, or it is not known
│   └── OutboxFull       too much waits for the ledger; what was begun can be ended, and nothing new begins
└── Misconfigured        the server cannot keep its promises with these settings or stores; the text says what to change
    └── NoReplica        nothing confirms what the contract waits for; a replica may be on its way back

A refusal to redeem is an outcome (`domain.reasons`), never one of these.
"""

from __future__ import annotations

from dataclasses import dataclass


class VouchsafeError(Exception):
    """Base of every error that the service raises on purpose. Its text is meant for callers."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule: the field's path in the request, and what would be accepted."""

    field: str
    description: str


class InvalidRequest(VouchsafeError):
    """The request breaks a rule."""

    def __init__(self, *violations: Violation) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = violations


class Unauthenticated(VouchsafeError):
    """The caller gave no credentials, or none that are good."""


class PermissionDenied(VouchsafeError):
    """None of the caller's roles may do this."""


class NotFound(VouchsafeError):
    """Nothing has this id."""


class AlreadyExists(VouchsafeError):
    """The id or the code is taken."""


class Changed(VouchsafeError):
    """It is not any more as the caller has read it. Read it again."""


class NotAllowed(VouchsafeError):
    """It cannot be done with the thing as it is. The text says what to do first."""


class RequestIdReused(VouchsafeError):
    """The request id was used for another request."""


class Throttled(VouchsafeError):
    """Too many codes or credentials of a caller were wrong. `retry_ms` is when to come back, `by` what is counted."""

    def __init__(self, what: str, retry_ms: int, by: str) -> None:
        super().__init__(f"too many {what} of this {by} were wrong; try again in {-(-retry_ms // 1_000)} s")
        self.retry_ms = retry_ms
        self.by = by


class Overloaded(VouchsafeError):
    """More is waiting than the server takes on. `retry_ms` is when to come back."""

    def __init__(self, message: str, retry_ms: int = 100) -> None:
        super().__init__(message)
        self.retry_ms = retry_ms


class Unavailable(VouchsafeError):
    """A store is out of reach or not to be trusted. Repeat the request with the same request id."""


class OutboxFull(Unavailable):
    """Too much waits for the ledger. New uses are taken again once less does; what was begun can be ended."""


class Misconfigured(VouchsafeError):
    """The server cannot keep its promises with these settings or stores."""


class NoReplica(Misconfigured):
    """No replica is connected that could confirm what the contract waits for."""
