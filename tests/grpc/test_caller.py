"""Who asks is known to whoever answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest

from vouchsafe.domain.access import ANYBODY, Principal
from vouchsafe.edge.access import Access
from vouchsafe.edge.admission import Admission
from vouchsafe.edge.campaigns import CampaignServicer
from vouchsafe.edge.guard import Guard, Guarded
from vouchsafe.edge.message_rules import MessageRules
from vouchsafe.service.caller import caller
from vouchsafe.service.keys import Keys
from vouchsafe.settings import Settings
from vouchsafe.v1 import campaign_service_pb2 as pb
from vouchsafe.v1.campaign_service_pb2_grpc import (
    CampaignServiceStub,
    add_CampaignServiceServicer_to_server,
)


class Noting(CampaignServicer):
    """Answers nothing, and notes who asked."""

    def __init__(self) -> None:
        self.seen: list[Principal] = []

    async def ListCampaigns(self, request: Any, context: Any) -> pb.ListCampaignsResponse:  # noqa: ARG002, N802
        self.seen.append(caller.get())
        return pb.ListCampaignsResponse()

    async def WatchCampaign(self, request: Any, context: Any) -> AsyncGenerator[pb.WatchCampaignResponse, None]:  # noqa: ARG002, N802
        self.seen.append(caller.get())
        yield pb.WatchCampaignResponse()
        self.seen.append(caller.get())


async def test_the_principal_is_at_hand_in_calls_and_streams() -> None:
    guard, noting = Guard(Access(Settings(auth="off"), Keys("", 1)), Admission(1, 1), MessageRules()), Noting()
    guard.open()
    server = grpc.aio.server()
    guarded: Any = Guarded(server, guard)
    add_CampaignServiceServicer_to_server(noting, guarded)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub: Any = CampaignServiceStub(channel)
            await stub.ListCampaigns(pb.ListCampaignsRequest(), timeout=20)
            async for _ in stub.WatchCampaign(pb.WatchCampaignRequest(campaign_id="x"), timeout=20):
                pass
    finally:
        await server.stop(0)
    assert noting.seen == [ANYBODY] * 3
    with pytest.raises(LookupError):
        caller.get()
