"""AuditService, for operators."""

from __future__ import annotations

from typing import Any

from grpc.aio import ServicerContext

from vouchsafe.domain.errors import InvalidRequest, Violation
from vouchsafe.domain.trail import Action, AuditEvent, TrailFilter
from vouchsafe.edge.convert import timestamp
from vouchsafe.edge.convert_pages import decode_number, encode_token
from vouchsafe.service.trail import Trail
from vouchsafe.v1 import audit_service_pb2 as pb
from vouchsafe.v1.audit_service_pb2_grpc import AuditServiceServicer

Context = ServicerContext[Any, Any]

DEFAULT_PAGE_SIZE = 50


class AuditServicer(AuditServiceServicer):
    """Messages arrive validated, and errors leave through the guard (`edge.guard`)."""

    # Set before the first call is let through.
    use_case: Trail

    async def ListAuditEvents(self, request: pb.ListAuditEventsRequest, context: Context) -> pb.ListAuditEventsResponse:
        """A page of what operators did."""
        before = decode_number(request.page_token) if request.page_token else None
        wanted = _filter(request.filter)
        events, following = await self.use_case.list(wanted, request.page_size or DEFAULT_PAGE_SIZE, before)
        return pb.ListAuditEventsResponse(
            audit_events=map(_event_message, events), next_page_token=encode_token(following)
        )


def _filter(message: pb.AuditEventFilter) -> TrailFilter:
    if message.action and message.action not in set(Action):
        raise InvalidRequest(Violation("filter.action", f"is none; give one of {', '.join(Action)}, or nothing"))
    return TrailFilter(
        principal=message.principal or None,
        action=message.action or None,
        target=message.target or None,
        start_time_ms=message.start_time.ToMilliseconds() if message.HasField("start_time") else None,
        end_time_ms=message.end_time.ToMilliseconds() if message.HasField("end_time") else None,
    )


def _event_message(event: AuditEvent) -> pb.AuditEvent:
    return pb.AuditEvent(
        number=event.number,
        action_time=timestamp(event.at_ms),
        principal=event.principal,
        action=event.action,
        target=event.target,
        before_json=event.before,
        after_json=event.after,
        reason=event.reason,
        action_id=event.action_id or "",
        hash=event.hash.hex(),
    )
