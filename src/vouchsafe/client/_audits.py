"""The calls about the audit trail, as part of the client."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from vouchsafe.client._calls import Calls
from vouchsafe.v1 import audit_service_pb2 as pb
from vouchsafe.v1.audit_service_pb2 import AuditEvent, AuditEventFilter


class AuditCalls(Calls):
    """What `Client` offers for the audit trail."""

    async def list_audit_events(
        self, wanted: AuditEventFilter | None = None, *, page_size: int = 100
    ) -> AsyncGenerator[AuditEvent, None]:
        """What operators did, newest first, fetched page by page."""
        token = ""
        while True:
            request = pb.ListAuditEventsRequest(filter=wanted, page_size=page_size, page_token=token)
            response = await self._call(lambda: next(self._audits).ListAuditEvents, request)
            for event in response.audit_events:
                yield event
            token = response.next_page_token
            if not token:
                return
