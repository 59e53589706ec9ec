"""Between messages and domain values: planned changes. Messages have passed their validation rules before."""

from __future__ import annotations

from contextlib import suppress

from google.protobuf.timestamp_pb2 import Timestamp

from vouchsafe.domain.plans import Plan, PlannedChange, PlannedPause, PlannedResume, PlannedUpdate, PlanState
from vouchsafe.edge.convert import timestamp
from vouchsafe.edge.convert_campaigns import definition, definition_message
from vouchsafe.edge.convert_pages import MAX_TIME_MS, decode_time_and_id, encode_token
from vouchsafe.ledger.plans import PlanKey
from vouchsafe.v1 import planned_change_pb2 as pb
from vouchsafe.v1.campaign_service_pb2 import ListPlannedChangesRequest

STATES = {
    PlanState.PLANNED: pb.PLANNED_CHANGE_STATE_PLANNED,
    PlanState.APPLYING: pb.PLANNED_CHANGE_STATE_APPLYING,
    PlanState.APPLIED: pb.PLANNED_CHANGE_STATE_APPLIED,
    PlanState.CANCELLED: pb.PLANNED_CHANGE_STATE_CANCELLED,
    PlanState.FAILED: pb.PLANNED_CHANGE_STATE_FAILED,
}


def time_ms(message: Timestamp) -> int:
    """A moment in milliseconds since 1970 UTC."""
    return message.seconds * 1_000 + message.nanos // 1_000_000


def plan(message: pb.ChangePlan) -> Plan:
    """What is to happen, and when."""
    at_ms = time_ms(message.time)
    match message.WhichOneof("change"):
        case "pause":
            return Plan(at_ms, PlannedPause(message.pause.reason))
        case "resume":
            return Plan(at_ms, PlannedResume(message.resume.reason))
        case _:
            update = message.update
            return Plan(at_ms, PlannedUpdate(definition(update.definition), tuple(update.update_mask.paths)))


def planned_message(planned: PlannedChange) -> pb.PlannedChange:
    """A planned change, and what has become of it."""
    message = pb.PlannedChange(
        id=planned.id,
        campaign_id=planned.campaign_id,
        plan=pb.ChangePlan(time=timestamp(planned.time_ms)),
        state=STATES[planned.state],
        end_time=None if planned.end_time_ms is None else timestamp(planned.end_time_ms),
        note=planned.note,
        of_pause=planned.of_pause,
    )
    # One that this release cannot read is shown without.
    with suppress(ValueError):
        match planned.change:
            case PlannedPause(reason=reason):
                message.plan.pause.CopyFrom(pb.PlannedPause(reason=reason))
            case PlannedResume(reason=reason):
                message.plan.resume.CopyFrom(pb.PlannedResume(reason=reason))
            case PlannedUpdate() as update:
                message.plan.update.definition.CopyFrom(definition_message(update.definition))
                message.plan.update.update_mask.paths.extend(update.paths)
    return message


def span_ms(request: ListPlannedChangesRequest) -> tuple[int, int]:
    """From when to before when."""
    to_ms = time_ms(request.to_time) if request.HasField("to_time") else MAX_TIME_MS + 1
    return time_ms(request.from_time), to_ms


def page_token(key: PlanKey | None) -> str:
    """The token that leads to the next page, empty after the last."""
    return encode_token(None if key is None else (key[0], str(key[1])))


def page_key(token: str) -> PlanKey | None:
    """Reads what `page_token` wrote. Raises InvalidRequest."""
    if not token:
        return None
    at_ms, change_id = decode_time_and_id(token, r"[0-9]{1,18}")
    return at_ms, int(change_id)
