"""What a call can fail with. A refusal to redeem is an outcome, not one of these.

ClientError
├── InvalidArgument      the request breaks a rule; `violations` names the fields
├── Unauthenticated      no credentials were sent, or none that are good
├── PermissionDenied     the credentials are good for other methods; the text names the roles that may
├── NotFound             nothing has this id
├── AlreadyExists        the id or the code is taken
│   └── RequestIdReused  the request id was used for another request
├── NotAllowed           it cannot be done with the campaign as it is; the text says what to do first
├── Changed              it is not any more as it was read; read it again
├── Throttled            too many codes, or credentials, were wrong; `retry_after_s` says when to come back
├── Unavailable          the service could not answer, in spite of repetitions; repeat with the same request id
├── DeadlineExceeded     no answer in time; repeat with the same request id to learn the outcome
└── ServerError          anything else; `code` says what
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc_status import rpc_status

DROPPED_RETRY_S = 0.25


class ClientError(Exception):
    """Base of all. `code` is the gRPC status, `violations` maps fields to what would be accepted, `request_id` is that
    of a request to redeem, to repeat it with."""

    def __init__(self, code: grpc.StatusCode, message: str, violations: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.violations = dict(violations or {})
        self.request_id = ""


class InvalidArgument(ClientError):
    """The request breaks a rule."""


class Unauthenticated(ClientError):
    """No credentials were sent, or none that are good."""


class PermissionDenied(ClientError):
    """The credentials are good for other methods."""


class NotFound(ClientError):
    """Nothing has this id."""


class AlreadyExists(ClientError):
    """The id or the code is taken."""


class RequestIdReused(AlreadyExists):
    """The request id was used for another request."""


class NotAllowed(ClientError):
    """It cannot be done with the thing as it is."""


class Changed(ClientError):
    """It is not any more as it was read."""


class Throttled(ClientError):
    """Too many codes of this customer, source or caller, or too many credentials, were wrong: see docs/guessing.md. Not
    repeated by itself; `retry_after_s` is how long to wait."""

    retry_after_s = 0.0


class Unavailable(ClientError):
    """The service could not answer."""


class DeadlineExceeded(ClientError):
    """No answer in time."""


class ServerError(ClientError):
    """Anything else."""


_BY_CODE: Mapping[grpc.StatusCode, type[ClientError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: NotAllowed,
    grpc.StatusCode.ABORTED: Changed,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}
_BY_REASON: Mapping[str, type[ClientError]] = {"REQUEST_ID_REUSED": RequestIdReused, "THROTTLED": Throttled}


def retry_delay_s(error: grpc.aio.AioRpcError) -> float:
    """How long the server asks to wait before a repetition; 0 when it does not say. One that drops calls has too much
    to do to say it."""
    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        retry = RetryInfo()
        if detail.Unpack(retry):
            return float(retry.retry_delay.ToMilliseconds() / 1000)
    return DROPPED_RETRY_S if error.code() is grpc.StatusCode.CANCELLED else 0.0


def from_rpc_error(error: grpc.aio.AioRpcError) -> ClientError:
    """The typed form of a failed call, with the details that the server sent along."""
    kind = _BY_CODE.get(error.code(), ServerError)
    violations: dict[str, str] = {}
    # rpc_status knows the synchronous call's methods, which the error shares.
    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        info, bad_request = ErrorInfo(), BadRequest()
        if detail.Unpack(info):
            kind = _BY_REASON.get(info.reason, kind)
        elif detail.Unpack(bad_request):
            violations = {violation.field: violation.description for violation in bad_request.field_violations}
    found = kind(error.code(), error.details() or error.code().name, violations)
    if isinstance(found, Throttled):
        found.retry_after_s = retry_delay_s(error)
    return found
