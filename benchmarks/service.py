"""The service as it is measured: what it runs on, what it has done, and what it costs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import asyncpg
import grpc
import psutil

from benchmarks.message import BATCH, DEFINITION, Way, redeem_request
from benchmarks.processes import wait_while
from benchmarks.sides import Side
from vouchsafe.domain.errors import VouchsafeError
from vouchsafe.edge.convert_campaigns import definition_message
from vouchsafe.gate.gate import Gate
from vouchsafe.local import LocalService
from vouchsafe.v1.campaign_service_pb2 import CreateCampaignRequest, GetCampaignRequest
from vouchsafe.v1.campaign_service_pb2_grpc import CampaignServiceStub
from vouchsafe.v1.redemption_service_pb2 import (
    BatchValidateAndRedeemResponse,
    RedemptionResult,
    StreamValidateAndRedeemResponse,
)
from vouchsafe.v1.redemption_service_pb2_grpc import RedemptionServiceStub

CODE = "BENCH"
CAMPAIGN = "bench"
SETTLE_WAIT_S = 60.0
NO_MATTER_HOW_LONG_MS = "10000"

LAGS = """
select (extract(epoch from pg_xact_commit_timestamp(xmin)) * 1000 - ms)::float8 as lag_ms
from events where kind = 'redeemed' and ms >= $1 order by 1
"""


class Service(LocalService):
    """The service, with a PostgreSQL that notes when it commits.

    It is asked without asyncio: gRPC complains aloud when it is used from one event loop after the other.
    """

    def _start(self) -> None:
        # Nobody is refused: what is measured beside it refuses nobody either.
        os.environ["VOUCHSAFE_MAX_WAIT_MS"] = NO_MATTER_HOW_LONG_MS
        with self._postgres:
            asyncio.run(_note_commits(self._postgres.url))
        super()._start()
        channel = self._stack.enter_context(grpc.insecure_channel(self.target))
        self._campaigns = CampaignServiceStub(channel)
        self._redemptions = RedemptionServiceStub(channel)

    @property
    def _metadata(self) -> tuple[tuple[str, str]]:
        return (("authorization", f"Bearer {self.api_key}"),)

    @property
    def valkey_port(self) -> int:
        """Where to reach Valkey."""
        return self._valkey.port

    def side(self, campaign_ids: Sequence[str] = (CAMPAIGN,)) -> Side:
        """To be measured, when these are the campaigns that are redeemed."""
        return Side(
            target=self.target,
            api_key=self.api_key,
            parts={
                "server": psutil.Process(self._children["serve"].pid),
                "Valkey": psutil.Process(self._valkey.pid),
                "PostgreSQL": psutil.Process(self._postgres.pid),
                "persister": psutil.Process(self._children["persist"].pid),
            },
            settle=self.settle,
            redeemed=lambda: sum(map(self._redeemed, campaign_ids)),
        )

    def create_campaign(self, campaign_id: str = CAMPAIGN, code: str = CODE) -> None:
        """Creates a campaign to redeem, with a code that all use."""
        request = CreateCampaignRequest(
            campaign_id=campaign_id, definition=definition_message(DEFINITION), shared_codes=[code]
        )
        self._campaigns.CreateCampaign(request, metadata=self._metadata)

    def response_bytes(self) -> dict[Way, int]:
        """Redeems once, and answers how large a response is."""
        request = redeem_request(CODE, 0)
        response = self._redemptions.ValidateAndRedeem(request, metadata=self._metadata)
        if not response.HasField("redemption"):
            raise VouchsafeError(f"there is nothing to measure: {response}")
        result = RedemptionResult(request_id=request.request_id, response=response)
        return {
            "unary": response.ByteSize(),
            "stream": StreamValidateAndRedeemResponse(result=result).ByteSize(),
            "batch": BatchValidateAndRedeemResponse(results=[result] * BATCH).ByteSize(),
        }

    def settle(self) -> None:
        """Returns when everything is in the ledger. Raises Unavailable when it takes too long, or something has
        ended."""
        wait_while(lambda: asyncio.run(self._waiting_events()) > 0, SETTLE_WAIT_S)
        self.check()

    def lags_ms(self, since_ms: int) -> list[float]:
        """From the decision by Valkey's clock until PostgreSQL began to flush its commit, of every redemption from that
        moment on; sorted."""
        return asyncio.run(self._lags_ms(since_ms))

    async def _lags_ms(self, since_ms: int) -> list[float]:
        connection = await asyncpg.connect(self.settings.postgres_url)
        try:
            return [row[0] for row in await connection.fetch(LAGS, since_ms)]
        finally:
            await connection.close()

    async def _waiting_events(self) -> int:
        gate = await Gate.connect(self.settings, self.settings.partitions)
        try:
            return await gate.waiting_events()
        finally:
            await gate.close()

    def _redeemed(self, campaign_id: str) -> int:
        request = GetCampaignRequest(campaign_id=campaign_id)
        return self._campaigns.GetCampaign(request, metadata=self._metadata).campaign.redeemed_count


async def _note_commits(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("alter system set track_commit_timestamp = on")
    finally:
        await connection.close()
