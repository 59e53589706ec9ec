"""Between messages and domain values: codes. Messages have passed their validation rules before they come here."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from vouchsafe.domain.codes import CodeFilter, CodeForm, CodeState, KeptCode, Operation, OperationState, code_form
from vouchsafe.edge.convert import timestamp
from vouchsafe.service.codes import CodeStatus
from vouchsafe.v1 import code_pb2
from vouchsafe.v1 import code_service_pb2 as pb

CSV_COLUMNS = ("code", "campaign_id", "use_limit", "customer_id", "assign_time", "expire_time", "state")

STATES = {
    CodeState.AVAILABLE: code_pb2.CODE_STATE_AVAILABLE,
    CodeState.ASSIGNED: code_pb2.CODE_STATE_ASSIGNED,
    CodeState.DISABLED: code_pb2.CODE_STATE_DISABLED,
}
FILTERED_STATES = {number: state for state, number in STATES.items()}
IS_USED = {code_pb2.CODE_USE_UNSPECIFIED: None, code_pb2.CODE_USE_UNUSED: False, code_pb2.CODE_USE_USED: True}
OPERATION_STATES = {
    OperationState.RUNNING: code_pb2.OPERATION_STATE_RUNNING,
    OperationState.SUCCEEDED: code_pb2.OPERATION_STATE_SUCCEEDED,
    OperationState.FAILED: code_pb2.OPERATION_STATE_FAILED,
}


def form(message: code_pb2.CodeForm) -> CodeForm:
    """What codes shall look like. Raises InvalidRequest."""
    return code_form(
        charset=message.charset,
        length=message.length,
        prefix=message.prefix,
        postfix=message.postfix,
        pattern=message.pattern,
    )


def valid_for_ms(request: pb.AssignCodeRequest | pb.GiftCodeRequest) -> int | None:
    """How long a code shall be valid, None when the request does not say."""
    return request.valid_for.ToMilliseconds() if request.HasField("valid_for") else None


def code_filter(message: pb.CodeFilter) -> CodeFilter:
    """Which codes are asked for."""
    return CodeFilter(message.campaign_id or None, FILTERED_STATES.get(message.state), message.customer_id or None)


def code_message(status: CodeStatus) -> code_pb2.Code:
    """A code, and what the service knows of it."""
    entry = status.entry
    return code_pb2.Code(
        code=entry.code,
        campaign_id=entry.campaign_id,
        use_limit=entry.use_limit or 0,
        used_count=status.uses,
        customer_id=entry.holder_id,
        assign_time=None if entry.assign_time_ms is None else timestamp(entry.assign_time_ms),
        expire_time=None if entry.expire_time_ms is None else timestamp(entry.expire_time_ms),
        state=STATES[status.state],
        disabled_reason=status.disabled_reason or "",
    )


def operation_message(operation: Operation) -> code_pb2.Operation:
    """An operation as it is now."""
    return code_pb2.Operation(
        id=operation.id,
        campaign_id=operation.campaign_id,
        state=OPERATION_STATES[operation.state],
        wanted_count=operation.wanted,
        done_count=operation.done,
        pattern=operation.form.pattern,
        charset=operation.form.charset,
        use_limit=operation.use_limit,
        guesses_per_code=float(operation.form.guesses_per_code(operation.wanted)),
        error=operation.error,
        create_time=timestamp(operation.create_time_ms),
        end_time=None if operation.end_time_ms is None else timestamp(operation.end_time_ms),
    )


def csv_header() -> str:
    """The first line of an export."""
    return ",".join(CSV_COLUMNS) + "\n"


def csv_lines(codes: Iterable[KeptCode]) -> str:
    """A line for each code."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for entry, disabled_reason in codes:
        writer.writerow(
            (
                entry.code,
                entry.campaign_id,
                "" if entry.use_limit is None else entry.use_limit,
                entry.holder_id,
                _time_text(entry.assign_time_ms),
                _time_text(entry.expire_time_ms),
                CodeStatus(entry, 0, disabled_reason).state,
            )
        )
    return text.getvalue()


def _time_text(ms: int | None) -> str:
    return "" if ms is None else timestamp(ms).ToJsonString()
