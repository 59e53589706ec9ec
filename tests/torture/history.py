"""What was asked and what was answered: every call, as it ends, a line each in a file."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vouchsafe.client import (
    Campaign,
    ClientError,
    DeadlineExceeded,
    NotFound,
    Redemption,
    Refusal,
    RefusalReason,
    Reservation,
    Rollback,
    Unavailable,
)

Answer = Redemption | Refusal | Reservation | Rollback | Campaign


@dataclass(frozen=True)
class Request:
    """What a shopper or an operator wants; asked again it is the same. `what` is redeem, reserve, confirm, release,
    roll_back, pause or resume. `id` is the request id; of confirm and release the reservation's, of pause and resume
    the campaign's with a number. `of` is the redemption to roll back, or the request id that a reservation was made
    by."""

    what: str
    id: str
    order_id: str = ""
    codes: tuple[str, ...] = ()
    customer_id: str = ""
    amount_minor: int = 0
    of: str = ""
    part: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Calls with the same key want the same answer."""
        return self.what, self.id


@dataclass(frozen=True)
class Call:
    """One call. Times are seconds of this process's steady clock. `outcome` is the kind of answer in small letters;
    `unknown` when the call has said nothing about what became of it, `not_found`, or `error` for what must not be."""

    request: Request
    begin: float
    end: float
    outcome: str
    answer: Answer | None = None
    error: str = ""

    @property
    def reason(self) -> str:
        """Of a refusal, else empty."""
        if not isinstance(self.answer, Refusal):
            return ""
        return RefusalReason.Name(self.answer.reason).removeprefix("REFUSAL_REASON_")

    @property
    def told_id(self) -> str:
        """Of what was answered: a redemption, a reservation or a rollback, else empty."""
        return self.answer.id if isinstance(self.answer, Redemption | Reservation | Rollback) else ""


class History:
    """All calls, in the order of their ends, in memory and in a file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.calls: list[Call] = []
        self._file = path.open("w")
        # The stores tell the time of day, and run on this machine.
        self.since_1970_s = time.time() - time.monotonic()

    def close(self) -> None:
        """Writes what is left to be written."""
        self._file.close()

    def ms(self, moment: float) -> int:
        """A moment of the steady clock as the stores tell it: milliseconds since 1970."""
        return round((moment + self.since_1970_s) * 1000)

    async def call(self, request: Request, send: Callable[[], Awaitable[Answer]]) -> Call:
        """Calls, and keeps what came of it."""
        begin = time.monotonic()
        answer: Answer | None = None
        error = ""
        try:
            answer = await send()
            outcome = type(answer).__name__.lower()
        except NotFound as caught:
            outcome, error = "not_found", str(caught)
        except (Unavailable, DeadlineExceeded) as caught:
            outcome, error = "unknown", str(caught)
        except ClientError as caught:
            outcome, error = "error", f"{caught.code.name}: {caught} {caught.violations or ''}"
        call = Call(request, begin, time.monotonic(), outcome, answer, error)
        self.calls.append(call)
        self._write(call)
        return call

    def note(self, what: str, **facts: Any) -> None:
        """A line about something else that has happened, such as a fault."""
        self._file.write(json.dumps({"at": self.ms(time.monotonic()), "note": what, **facts}) + "\n")
        self._file.flush()

    def _write(self, call: Call) -> None:
        request = call.request
        facts = {
            "begin": self.ms(call.begin),
            "end": self.ms(call.end),
            "what": request.what,
            "id": request.id,
            "outcome": call.outcome,
            "told": call.told_id,
            "until": call.answer.expire_time.ToMilliseconds() if isinstance(call.answer, Reservation) else 0,
            "reason": call.reason,
            "error": call.error,
            "order": request.order_id,
            "codes": request.codes,
            "customer": request.customer_id,
            "of": request.of,
            "part": request.part,
        }
        self._file.write(json.dumps({name: value for name, value in facts.items() if value}) + "\n")
