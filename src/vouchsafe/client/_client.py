"""The client: what checkouts call, and by inheritance what operators do."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime

from vouchsafe.client._audits import AuditCalls
from vouchsafe.client._batches import redeem_in_batches
from vouchsafe.client._calls import Tries
from vouchsafe.client._campaigns import CampaignCalls
from vouchsafe.client._codes import CodeCalls
from vouchsafe.client._errors import ClientError
from vouchsafe.v1 import redemption_service_pb2 as redemptions_pb
from vouchsafe.v1.combining_pb2 import Combining
from vouchsafe.v1.order_pb2 import Customer, Order
from vouchsafe.v1.redemption_pb2 import Offer, Redemption
from vouchsafe.v1.redemption_service_pb2 import (
    ReserveRedemptionResponse,
    ValidateAndRedeemResponse,
    ValidateResponse,
)
from vouchsafe.v1.refusal_pb2 import Refusal
from vouchsafe.v1.reservation_pb2 import Reservation
from vouchsafe.v1.rollback_pb2 import ReturnedLine, Rollback


class Client(CampaignCalls, CodeCalls, AuditCalls):
    """Talks to one target over `channels` connections, kept open and used in turn.

    `api_key` is sent with every call; a signed token does as well, and a function is asked for one before each call, as
    tokens do not last. Redeeming is no call each time: tasks share a stream on each connection, which is opened anew
    when a token is over.

    With `tls_ca_file`, who signs the server's certificate, calls are encrypted; `tls_cert_file` and `tls_key_file` are
    this caller's own certificate. All three are PEM files.

    Every call ends within `timeout_s`, repetitions included. Methods raise `ClientError`.
    """

    async def redeem(
        self,
        code: str,
        customer: Customer,
        order: Order,
        *,
        request_id: str | None = None,
        quote_token: str = "",
    ) -> Redemption | Refusal:
        """Redeems a code on an order, exactly once however often it has to be asked. `quote_token` is that of the offer
        which `validate` has made, if there is one: a campaign may honour it at its limits.

        The request id is made here unless given, and kept over repetitions. After `Unavailable` or
        `DeadlineExceeded` the outcome is not known: call again with the error's `request_id` to learn it.
        """
        response = await self.redeem_codes([code], customer, order, request_id=request_id, quote_token=quote_token)
        return response.redemption if response.HasField("redemption") else response.refusal

    async def redeem_codes(
        self,
        codes: Sequence[str],
        customer: Customer,
        order: Order,
        *,
        combining: Combining | None = None,
        request_id: str | None = None,
        quote_token: str = "",
    ) -> ValidateAndRedeemResponse:
        """Redeems several codes on an order, all that apply or none: the redemption or the refusal, and the codes left
        out with their reasons. As safe to repeat as `redeem`. A `quote_token` is for just the codes that its offer
        applied."""
        request = redemptions_pb.ValidateAndRedeemRequest(
            request_id=request_id or str(uuid.uuid4()),
            codes=codes,
            customer=customer,
            order=order,
            combining=combining,
            quote_token=quote_token,
        )
        try:
            return await self._tried(lambda timeout_s: next(self._redeemers).redeem(request, timeout_s))
        except ClientError as error:
            error.request_id = request.request_id
            raise

    async def redeem_many(
        self, requests: Sequence[redemptions_pb.ValidateAndRedeemRequest]
    ) -> list[ValidateAndRedeemResponse | ClientError]:
        """Redeems up to 500 requests in one call, for those who have them all at once: an answer for each, in their
        order, or the error that a call of its own would have ended with. As safe to repeat as `redeem`, and repeated
        the same; a request without an id is given one."""
        return await redeem_in_batches(
            lambda batch, timeout_s: next(self._redemptions).BatchValidateAndRedeem(
                batch, timeout=timeout_s, metadata=self._metadata()
            ),
            requests,
            Tries(self._timeout_s),
        )

    async def validate(self, code: str, customer: Customer, order: Order) -> Offer | Refusal:
        """What `redeem` would answer now. Takes nothing."""
        response = await self.validate_codes([code], customer, order)
        return response.offer if response.HasField("offer") else response.refusal

    async def validate_codes(
        self,
        codes: Sequence[str],
        customer: Customer,
        order: Order,
        *,
        combining: Combining | None = None,
        explain: bool = False,
        at: datetime | None = None,
    ) -> ValidateResponse:
        """How codes go together on an order now: the offer or the refusal, the codes left out with their reasons, and
        with `explain` all that was looked at. Takes nothing.

        With `at`, which has to be aware of its zone, it is a trial, for support and operators: what would be answered
        then, by the counters as they are now and as if every campaign were active."""
        if at is not None and at.tzinfo is None:
            raise ValueError("at has no time zone; give one, as in datetime(2026, 11, 27, 8, tzinfo=UTC)")
        request = redemptions_pb.ValidateRequest(
            codes=codes, customer=customer, order=order, combining=combining, explain=explain
        )
        if at is not None:
            request.trial.time.FromDatetime(at)
        return await self._call(lambda: next(self._redemptions).Validate, request)

    async def reserve(
        self,
        codes: Sequence[str],
        customer: Customer,
        order: Order,
        *,
        ttl_s: float | None = None,
        combining: Combining | None = None,
        request_id: str | None = None,
        quote_token: str = "",
    ) -> ReserveRedemptionResponse:
        """Holds what redeeming the codes would take, for `ttl_s` (None: the server's 15 minutes): the reservation or
        the refusal, and the codes left out with their reasons. As safe to repeat as `redeem`."""
        request = redemptions_pb.ReserveRedemptionRequest(
            request_id=request_id or str(uuid.uuid4()),
            codes=codes,
            customer=customer,
            order=order,
            combining=combining,
            quote_token=quote_token,
        )
        if ttl_s is not None:
            request.ttl.FromMilliseconds(round(ttl_s * 1000))
        try:
            return await self._call(lambda: next(self._redemptions).ReserveRedemption, request)
        except ClientError as error:
            error.request_id = request.request_id
            raise

    async def confirm(self, reservation_id: str) -> Redemption | Refusal:
        """Redeems what is held; again answers the same. Raises NotFound."""
        request = redemptions_pb.ConfirmRedemptionRequest(reservation_id=reservation_id)
        response = await self._call(lambda: next(self._redemptions).ConfirmRedemption, request)
        return response.redemption if response.HasField("redemption") else response.refusal

    async def release(self, reservation_id: str) -> Reservation | Refusal:
        """Gives back what is held; again answers the same. Raises NotFound."""
        request = redemptions_pb.ReleaseRedemptionRequest(reservation_id=reservation_id)
        response = await self._call(lambda: next(self._redemptions).ReleaseRedemption, request)
        return response.reservation if response.HasField("reservation") else response.refusal

    async def roll_back(
        self,
        redemption_id: str,
        *,
        lines: Sequence[ReturnedLine] = (),
        order: Order | None = None,
        reason: str = "",
        request_id: str | None = None,
    ) -> Rollback | Refusal:
        """Takes a redemption back: all that is left, or what `lines` say. As safe to repeat as `redeem`. Raises
        NotFound."""
        request = redemptions_pb.RollbackRedemptionRequest(
            request_id=request_id or str(uuid.uuid4()),
            redemption_id=redemption_id,
            lines=lines,
            order=order,
            reason=reason,
        )
        try:
            response = await self._call(lambda: next(self._redemptions).RollbackRedemption, request)
        except ClientError as error:
            error.request_id = request.request_id
            raise
        return response.rollback if response.HasField("rollback") else response.refusal

    async def get_redemption(self, redemption_id: str) -> Redemption:
        """One redemption by its id. Raises NotFound."""
        request = redemptions_pb.GetRedemptionRequest(redemption_id=redemption_id)
        response = await self._call(lambda: next(self._redemptions).GetRedemption, request)
        return response.redemption
