"""RedemptionService, for checkouts."""

from __future__ import annotations

from typing import Any

from grpc.aio import ServicerContext

from vouchsafe.domain.access import Role
from vouchsafe.edge import convert
from vouchsafe.edge.access import require
from vouchsafe.service.redeem import Redeem, Trial
from vouchsafe.v1 import redemption_service_pb2 as pb
from vouchsafe.v1.redemption_service_pb2_grpc import RedemptionServiceServicer

Context = ServicerContext[Any, Any]

DEFAULT_TTL_MS = 15 * 60_000


class RedemptionServicer(RedemptionServiceServicer):
    """Messages arrive validated, and errors leave through the interceptor (`edge.interceptors`)."""

    use_case: Redeem  # set before the first call is let through

    async def Validate(self, request: pb.ValidateRequest, context: Context) -> pb.ValidateResponse:
        """Whether the codes could be redeemed now, or in a trial."""
        trial = None
        if request.HasField("trial"):
            require("trial", Role.SUPPORT, Role.OPERATOR)
            trial = Trial(request.trial.time.ToMilliseconds())
        asked = convert.redeem_request(request)
        return convert.validation_message(
            await self.use_case.validate(asked, explain=request.explain, trial=trial), trial
        )

    async def ValidateAndRedeem(
        self, request: pb.ValidateAndRedeemRequest, context: Context
    ) -> pb.ValidateAndRedeemResponse:
        """Takes the uses, or says why not."""
        return convert.answer_message(await self.use_case.redeem(convert.redeem_request(request)))

    async def ReserveRedemption(
        self, request: pb.ReserveRedemptionRequest, context: Context
    ) -> pb.ReserveRedemptionResponse:
        """Holds the uses, or says why not."""
        ttl_ms = request.ttl.ToMilliseconds() if request.HasField("ttl") else DEFAULT_TTL_MS
        answer = await self.use_case.reservations.reserve(convert.redeem_request(request), ttl_ms)
        return convert.reserved_message(answer)

    async def ConfirmRedemption(
        self, request: pb.ConfirmRedemptionRequest, context: Context
    ) -> pb.ConfirmRedemptionResponse:
        """Redeems what is held."""
        return convert.confirmed_message(await self.use_case.reservations.confirm(request.reservation_id))

    async def ReleaseRedemption(
        self, request: pb.ReleaseRedemptionRequest, context: Context
    ) -> pb.ReleaseRedemptionResponse:
        """Gives back what is held."""
        return convert.released_message(await self.use_case.reservations.release(request.reservation_id))

    async def RollbackRedemption(
        self, request: pb.RollbackRedemptionRequest, context: Context
    ) -> pb.RollbackRedemptionResponse:
        """Takes a redemption back."""
        outcome = await self.use_case.rollbacks.roll_back(convert.rollback_request(request))
        return convert.rolled_back_message(outcome)

    async def GetRedemption(self, request: pb.GetRedemptionRequest, context: Context) -> pb.GetRedemptionResponse:
        """One redemption by its id."""
        redemption = await self.use_case.get(convert.position(request.redemption_id))
        return pb.GetRedemptionResponse(redemption=convert.redemption_message(redemption))
