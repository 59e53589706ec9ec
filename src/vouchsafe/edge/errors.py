"""The one table that says how an error looks on the wire."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from vouchsafe.domain import errors

DOMAIN = "vouchsafe"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class WireError:
    """A status code, the ErrorInfo reason beside it, and after how long a repetition makes sense (None: never)."""

    code: Code
    reason: str
    retry_ms: int | None = None


TABLE: Mapping[type[Exception], WireError] = {
    errors.InvalidRequest: WireError(Code.INVALID_ARGUMENT, "INVALID_REQUEST"),
    errors.Unauthenticated: WireError(Code.UNAUTHENTICATED, "CREDENTIALS_NOT_VALID"),
    errors.PermissionDenied: WireError(Code.PERMISSION_DENIED, "ROLE_MISSING"),
    errors.NotFound: WireError(Code.NOT_FOUND, "NOT_FOUND"),
    errors.AlreadyExists: WireError(Code.ALREADY_EXISTS, "ALREADY_EXISTS"),
    errors.Changed: WireError(Code.ABORTED, "ETAG_MISMATCH"),
    errors.NotAllowed: WireError(Code.FAILED_PRECONDITION, "NOT_ALLOWED"),
    errors.RequestIdReused: WireError(Code.ALREADY_EXISTS, "REQUEST_ID_REUSED"),
    errors.Throttled: WireError(Code.RESOURCE_EXHAUSTED, "THROTTLED"),
    errors.Overloaded: WireError(Code.RESOURCE_EXHAUSTED, "OVERLOADED"),
    errors.Unavailable: WireError(Code.UNAVAILABLE, "STORE_UNAVAILABLE", retry_ms=100),
    errors.OutboxFull: WireError(Code.UNAVAILABLE, "OUTBOX_FULL", retry_ms=1_000),
}


def told(error: Exception, method: str) -> Status:
    """The status that answers a call, or one of its many requests, that has failed. What is not in the table goes to
    the log."""
    if isinstance(error, errors.Overloaded):
        # The same is told to many, when there is no time to lose.
        return _overloaded(str(error), error.retry_ms)
    error_id = uuid.uuid4().hex
    if type(error) not in TABLE:
        log.error("internal error", method=method, error_id=error_id, exc_info=error)
    return status_of(error, error_id)


@lru_cache(maxsize=100)
def _overloaded(message: str, retry_ms: int) -> Status:
    return status_of(errors.Overloaded(message, retry_ms), "")


def status_of(error: Exception, error_id: str) -> Status:
    """The status to send. What is not in the table is INTERNAL and shows only `error_id`, which the log explains."""
    wire = TABLE.get(type(error))
    if wire is None:
        info = ErrorInfo(reason="INTERNAL", domain=DOMAIN, metadata={"error_id": error_id})
        return _status(Code.INTERNAL, f"internal error; the server's log explains it under {error_id}", info)
    details: list[Message] = [ErrorInfo(reason=wire.reason, domain=DOMAIN)]
    if isinstance(error, errors.InvalidRequest):
        violations = [
            BadRequest.FieldViolation(field=violation.field, description=violation.description)
            for violation in error.violations
        ]
        details.append(BadRequest(field_violations=violations))
        # The fields are told once, not again in the text: headers have little room.
        return _status(
            wire.code, f"the request breaks {len(violations)} rule(s); the details name the fields", *details
        )
    retry_ms = wire.retry_ms
    if isinstance(error, errors.Throttled):
        details[0] = ErrorInfo(reason=wire.reason, domain=DOMAIN, metadata={"by": error.by})
    if isinstance(error, errors.Throttled | errors.Overloaded):
        retry_ms = error.retry_ms
    if retry_ms is not None:
        delay = Duration()
        delay.FromMilliseconds(retry_ms)
        details.append(RetryInfo(retry_delay=delay))
    return _status(wire.code, str(error), *details)


def _status(code: Code, message: str, *details: Message) -> Status:
    status = Status(code=code, message=message)
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status
