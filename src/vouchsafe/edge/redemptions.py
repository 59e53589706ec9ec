"""RedemptionService, for checkouts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

from google.protobuf.message import Message
from grpc.aio import ServicerContext

from vouchsafe.domain.access import Principal, Role
from vouchsafe.domain.errors import InvalidRequest, PermissionDenied
from vouchsafe.edge import convert
from vouchsafe.edge.access import require
from vouchsafe.edge.admission import Admission
from vouchsafe.edge.errors import told
from vouchsafe.edge.many import Streams, answer_batch
from vouchsafe.edge.peers import address_of
from vouchsafe.service.caller import caller
from vouchsafe.service.guessing import Asker, Guessing, told_to
from vouchsafe.service.offers import Trial
from vouchsafe.service.redeem import Redeem
from vouchsafe.service.together import Ask, Together
from vouchsafe.v1 import redemption_service_pb2 as pb
from vouchsafe.v1.redemption_service_pb2_grpc import RedemptionServiceServicer

Context = ServicerContext[Any, Any]

DEFAULT_TTL_MS = 15 * 60_000
METHOD = "ValidateAndRedeem"
# Of a request id that may be anything.
TOLD_REQUEST_ID_CHARACTERS = 128


class RedemptionServicer(RedemptionServiceServicer):
    """Messages arrive validated, and errors leave through the guard (`edge.guard`)."""

    use_case: Redeem  # set before the first call is let through
    guessing: Guessing
    together: Together

    def __init__(self, check: Callable[[Message, int], None], admission: Admission, streams: Streams) -> None:
        """`check` raises InvalidRequest when one of many requests, with its size in bytes, breaks its rules;
        `admission` says whether it is taken on."""
        self._check = check
        self._admission = admission
        self._streams = streams

    async def Validate(self, request: pb.ValidateRequest, context: Context) -> pb.ValidateResponse:
        """Whether the codes could be redeemed now, or in a trial."""
        if request.HasField("trial"):
            require("trial", Role.SUPPORT, Role.OPERATOR)
            trial = Trial(request.trial.time.ToMilliseconds())
            # Whoever may try out may look codes up, so no guess is counted: a trial writes nothing.
            tried = await self.use_case.validate(convert.redeem_request(request), explain=request.explain, trial=trial)
            return convert.validation_message(tried, trial)
        asker = _asker(request, caller.get(), context)
        if request.explain and not asker.principal.is_trusted:
            raise PermissionDenied("explain is not for the role storefront; ask without it")
        wanted = convert.redeem_request(request, discreet=not asker.principal.is_trusted)
        validation = await self.guessing.ask(
            asker, wanted, lambda: self.use_case.validate(wanted, explain=request.explain)
        )
        return convert.validation_message(validation)

    async def ValidateAndRedeem(  # type: ignore[override]  # the guard hands over how to read the message
        self, read: Callable[[], pb.ValidateAndRedeemRequest], context: Context
    ) -> pb.ValidateAndRedeemResponse:
        """Takes the uses, or says why not. The message is read when its turn comes."""
        principal = caller.get()
        response = pb.ValidateAndRedeemResponse()
        answer = await self.together.redeem(lambda: _ask(read(), principal, context))
        convert.fill_answer(response, answer)
        return response

    def StreamValidateAndRedeem(
        self, requests: AsyncIterator[pb.StreamValidateAndRedeemRequest | InvalidRequest], context: Context
    ) -> AsyncGenerator[pb.StreamValidateAndRedeemResponse, None]:
        """The same for each request that comes, until no more do."""

        async def answer(
            message: pb.StreamValidateAndRedeemRequest | InvalidRequest,
        ) -> pb.StreamValidateAndRedeemResponse:
            if isinstance(message, InvalidRequest):
                return pb.StreamValidateAndRedeemResponse(result=pb.RedemptionResult(error=told(message, "")))
            (result,) = await self._results((message.request,), context)
            return pb.StreamValidateAndRedeemResponse(result=result)

        return self._streams.answers(requests, answer)

    async def BatchValidateAndRedeem(
        self, request: pb.BatchValidateAndRedeemRequest, context: Context
    ) -> pb.BatchValidateAndRedeemResponse:
        """The same for each request."""
        results = await answer_batch(request.requests, lambda some: self._results(some, context))
        return pb.BatchValidateAndRedeemResponse(results=results)

    async def _results(
        self, requests: Sequence[pb.ValidateAndRedeemRequest], context: Context
    ) -> list[pb.RedemptionResult]:
        """What a call of its own would have come to for each."""
        principal = caller.get()
        results = [pb.RedemptionResult(request_id=one.request_id[:TOLD_REQUEST_ID_CHARACTERS]) for one in requests]
        entered_s, taken = self._admission.enter_some(len(requests))
        if taken < len(requests):
            refusal = told(self._admission.refusal(), METHOD)
            for result in results[taken:]:
                result.error.CopyFrom(refusal)
        if not taken:
            return results
        try:
            reads = [partial(self._read, request, principal, context) for request in requests[:taken]]
            answers = await self.together.redeem_each(reads)
        finally:
            self._admission.leave(entered_s, taken)
        for result, answer in zip(results[:taken], answers, strict=True):
            if isinstance(answer, Exception):
                result.error.CopyFrom(told(answer, METHOD))
            else:
                convert.fill_answer(result.response, answer)
        return results

    def _read(self, request: pb.ValidateAndRedeemRequest, principal: Principal, context: Context) -> Ask:
        self._check(request, request.ByteSize())
        return _ask(request, principal, context)

    async def ReserveRedemption(
        self, request: pb.ReserveRedemptionRequest, context: Context
    ) -> pb.ReserveRedemptionResponse:
        """Holds the uses, or says why not."""
        ttl_ms = request.ttl.ToMilliseconds() if request.HasField("ttl") else DEFAULT_TTL_MS
        asker = _asker(request, caller.get(), context)
        wanted = convert.redeem_request(request, discreet=not asker.principal.is_trusted)
        answer = await self.guessing.ask(asker, wanted, lambda: self.use_case.reservations.reserve(wanted, ttl_ms))
        return convert.reserved_message(answer)

    async def ConfirmRedemption(
        self, request: pb.ConfirmRedemptionRequest, context: Context
    ) -> pb.ConfirmRedemptionResponse:
        """Redeems what is held."""
        answer = await self.use_case.reservations.confirm(request.reservation_id)
        return convert.confirmed_message(told_to(caller.get(), answer))

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


def _ask(request: pb.ValidateAndRedeemRequest, principal: Principal, context: Context) -> Ask:
    asker = _asker(request, principal, context)
    return Ask(asker, convert.redeem_request(request, discreet=not principal.is_trusted))


def _asker(request: convert.AnyRequest, principal: Principal, context: Context) -> Asker:
    """Who asks. What a storefront does not say about the shopper, its connection does: there is no shop in between."""
    source = request.customer.source
    return Asker(principal, source if source or principal.is_trusted else address_of(context.peer()))
