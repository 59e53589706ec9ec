"""Between messages and domain values: what checkouts ask and are answered. Messages have passed their validation rules
before they come here."""

from __future__ import annotations

import hashlib

from google.protobuf.timestamp_pb2 import Timestamp

from vouchsafe.domain.campaign import normalise_code
from vouchsafe.domain.combine import Combining
from vouchsafe.domain.errors import InvalidRequest, NotFound, Violation
from vouchsafe.domain.order import Customer, Line, Order
from vouchsafe.domain.pricing import Cap, Discount
from vouchsafe.domain.reasons import Refusal
from vouchsafe.domain.redemption import CombinedClaim, Position, Redemption
from vouchsafe.domain.reservation import Reservation
from vouchsafe.domain.rollback import ReturnedLine, Rollback
from vouchsafe.edge.mirror import from_message
from vouchsafe.service.combined import Answer
from vouchsafe.service.judge import RedeemRequest
from vouchsafe.service.offers import Offer, Trace, Trial, Validation
from vouchsafe.service.reserve import ReserveAnswer
from vouchsafe.service.rollback import RollbackRequest
from vouchsafe.v1 import (
    order_pb2,
    redemption_pb2,
    redemption_service_pb2,
    refusal_pb2,
    reservation_pb2,
    rollback_pb2,
    trace_pb2,
)

AnyRequest = (
    redemption_service_pb2.ValidateAndRedeemRequest
    | redemption_service_pb2.ValidateRequest
    | redemption_service_pb2.ReserveRedemptionRequest
)

ALONE = Combining()
GIVEN_TWICE = "is given twice (capitals and small letters are the same); once is enough"

CAPS = {cap: redemption_pb2.DiscountCap.Value(f"DISCOUNT_CAP_{cap.value}") for cap in Cap}


def redeem_request(
    message: AnyRequest,
    *,
    discreet: bool = False,
) -> RedeemRequest:
    """What a checkout asks. A ValidateRequest has no request id: it is empty then. Raises InvalidRequest."""
    codes = tuple([normalise_code(code) for code in message.codes])
    if len(set(codes)) < len(codes):
        twice = next(index for index, code in enumerate(codes) if code in codes[:index])
        raise InvalidRequest(Violation(f"codes[{twice}]", GIVEN_TWICE))
    return RedeemRequest(
        request_id=getattr(message, "request_id", ""),
        fingerprint=_fingerprint(codes, message),
        codes=codes,
        customer=_customer(message.customer),
        order=_order(message.order),
        combining=from_message(message.combining, Combining) if message.HasField("combining") else ALONE,
        quote_token=getattr(message, "quote_token", ""),
        discreet=discreet,
    )


def _fingerprint(
    codes: tuple[str, ...],
    message: AnyRequest,
) -> str:
    """32 hex digits over what a request asks for, so not its id nor a quote, nor where it comes from: a phone that
    repeats it may have another address by then. Spelling a code differently changes nothing."""
    digest = hashlib.blake2b(" ".join(codes).encode(), digest_size=16)
    customer = message.customer
    if customer.source:
        customer = order_pb2.Customer()
        customer.CopyFrom(message.customer)
        customer.source = ""
    for part in (customer, message.order, message.combining):
        data = part.SerializeToString(deterministic=True)
        digest.update(len(data).to_bytes(4, "big"))
        digest.update(data)
    return digest.hexdigest()


def _customer(message: order_pb2.Customer) -> Customer:
    return Customer(
        id=message.id,
        email=message.email,
        segments=tuple(message.segments),
        country_code=message.country_code,
        region_code=message.region_code,
        attributes=dict(message.attributes),
        order_count=message.order_count if message.HasField("order_count") else None,
        card_fingerprint=message.card_fingerprint,
        device_id=message.device_id,
    )


def _order(message: order_pb2.Order) -> Order:
    return Order(
        id=message.id,
        currency_code=message.currency_code,
        lines=tuple(
            [
                Line(
                    sku=line.sku,
                    quantity=line.quantity,
                    unit_price_minor=line.unit_price_minor,
                    product_id=line.product_id,
                    categories=tuple(line.categories),
                )
                for line in message.lines
            ]
        ),
        shipping_minor=message.shipping_minor,
        channel=message.channel,
        metadata=dict(message.metadata),
    )


def redemption_message(redemption: Redemption) -> redemption_pb2.Redemption:
    """A use that was taken."""
    message = redemption_pb2.Redemption()
    _fill_redemption(message, redemption)
    return message


def _fill_redemption(message: redemption_pb2.Redemption, redemption: Redemption) -> None:
    """Field by field in its place, as what it holds is: half the time of putting finished messages together, which
    copies each of them."""
    claim = redemption.claim
    message.id = redemption.id
    message.request_id = claim.request_id
    message.order_id = claim.order_id
    message.customer_id = claim.customer_id
    for one in redemption.applied:
        _fill_applied_code(message.applied_codes.add(), one.code, one.campaign_id, one.campaign_version, one.discount)
    message.currency_code = claim.currency_code
    message.order_amount_minor = claim.order_amount_minor
    message.discount_minor = redemption.discount_minor
    message.redeem_time.FromMilliseconds(redemption.at_ms)
    if isinstance(claim, CombinedClaim) and claim.is_best is not None:
        message.is_best_deal = claim.is_best


def reservation_message(reservation: Reservation) -> reservation_pb2.Reservation:
    """A use that is held."""
    claim = reservation.claim
    message = reservation_pb2.Reservation(
        id=reservation.id,
        request_id=claim.request_id,
        order_id=claim.order_id,
        customer_id=claim.customer_id,
        applied_codes=[
            _applied_code(one.code, one.campaign_id, one.campaign_version, one.discount) for one in reservation.applied
        ],
        currency_code=claim.currency_code,
        order_amount_minor=claim.order_amount_minor,
        discount_minor=reservation.discount_minor,
        expire_time=timestamp(reservation.expire_ms),
    )
    if claim.is_best is not None:
        message.is_best_deal = claim.is_best
    return message


def reserved_message(answer: ReserveAnswer) -> redemption_service_pb2.ReserveRedemptionResponse:
    """What is held or why not, and why codes were left out."""
    message = redemption_service_pb2.ReserveRedemptionResponse(
        inapplicable=map(refusal_message, answer.inapplicable), skipped=map(refusal_message, answer.skipped)
    )
    if isinstance(answer.outcome, Refusal):
        message.refusal.CopyFrom(refusal_message(answer.outcome))
    else:
        message.reservation.CopyFrom(reservation_message(answer.outcome))
    return message


def confirmed_message(answer: Answer) -> redemption_service_pb2.ConfirmRedemptionResponse:
    """What was redeemed of a reservation, or why not."""
    if isinstance(answer.outcome, Refusal):
        return redemption_service_pb2.ConfirmRedemptionResponse(refusal=refusal_message(answer.outcome))
    return redemption_service_pb2.ConfirmRedemptionResponse(redemption=redemption_message(answer.outcome))


def released_message(answer: ReserveAnswer) -> redemption_service_pb2.ReleaseRedemptionResponse:
    """What was given back, or why not."""
    if isinstance(answer.outcome, Refusal):
        return redemption_service_pb2.ReleaseRedemptionResponse(refusal=refusal_message(answer.outcome))
    return redemption_service_pb2.ReleaseRedemptionResponse(reservation=reservation_message(answer.outcome))


def rollback_request(message: redemption_service_pb2.RollbackRedemptionRequest) -> RollbackRequest:
    """What is to be taken back. Raises InvalidRequest."""
    lines: list[ReturnedLine] = []
    for place, line in enumerate(message.lines):
        if any(line.line_index == earlier.line for earlier in lines):
            raise InvalidRequest(Violation(f"lines[{place}].line_index", "is given twice; once is enough"))
        is_quantity = line.WhichOneof("extent") == "quantity"
        lines.append(
            ReturnedLine(line.line_index, line.quantity, None)
            if is_quantity
            else ReturnedLine(line.line_index, None, line.discount_minor)
        )
    copy = redemption_service_pb2.RollbackRedemptionRequest()
    copy.CopyFrom(message)
    copy.request_id = ""
    return RollbackRequest(
        request_id=message.request_id,
        fingerprint=hashlib.blake2b(copy.SerializeToString(deterministic=True), digest_size=16).hexdigest(),
        redemption=position(message.redemption_id),
        lines=tuple(lines),
        order=_order(message.order) if message.HasField("order") else None,
        reason=message.reason,
    )


def position(redemption_id: str) -> Position:
    """The place that an id of a redemption names. Raises NotFound when it can be none."""
    try:
        return Position.parse(redemption_id)
    except ValueError as error:
        raise NotFound(str(error)) from None


def rolled_back_message(outcome: Rollback | Refusal) -> redemption_service_pb2.RollbackRedemptionResponse:
    """What was taken back, or why not."""
    if isinstance(outcome, Refusal):
        return redemption_service_pb2.RollbackRedemptionResponse(refusal=refusal_message(outcome))
    claim = outcome.claim
    message = rollback_pb2.Rollback(
        id=outcome.id,
        request_id=claim.request_id,
        redemption_id=claim.redemption_id,
        order_id=claim.order_id,
        codes=[
            rollback_pb2.RolledBackCode(
                code=one.code,
                campaign_id=one.campaign_id,
                discount_minor=one.discount_minor,
                left_minor=one.left_minor,
                use_returned=one.uses > 0,
            )
            for one in claim.codes
        ],
        currency_code=claim.currency_code,
        discount_minor=outcome.discount_minor,
        left_minor=claim.left_minor,
        reason=claim.reason,
        rollback_time=timestamp(outcome.at_ms),
    )
    return redemption_service_pb2.RollbackRedemptionResponse(rollback=message)


def fill_answer(message: redemption_service_pb2.ValidateAndRedeemResponse, answer: Answer) -> None:
    """What was taken or why not, and why codes were left out, into a message that is empty."""
    if isinstance(answer.outcome, Refusal):
        _fill_refusal(message.refusal, answer.outcome)
    else:
        _fill_redemption(message.redemption, answer.outcome)
    for refusal in answer.inapplicable:
        _fill_refusal(message.inapplicable.add(), refusal)
    for refusal in answer.skipped:
        _fill_refusal(message.skipped.add(), refusal)


def offer_message(offer: Offer) -> redemption_pb2.Offer:
    """What a redemption would give."""
    message = redemption_pb2.Offer(
        applied_codes=[
            _applied_code(
                one.candidate.code.code,
                one.candidate.code.campaign_id,
                one.candidate.evaluator.campaign.version,
                one.discount,
            )
            for one in offer.applied
        ],
        currency_code=offer.currency_code,
        order_amount_minor=offer.order_amount_minor,
        discount_minor=offer.discount_minor,
        quote_token=offer.quote_token,
    )
    if offer.is_best is not None:
        message.is_best_deal = offer.is_best
    return message


def _applied_code(code: str, campaign_id: str, version: int, discount: Discount) -> redemption_pb2.AppliedCode:
    message = redemption_pb2.AppliedCode()
    _fill_applied_code(message, code, campaign_id, version, discount)
    return message


def _fill_applied_code(
    message: redemption_pb2.AppliedCode, code: str, campaign_id: str, version: int, discount: Discount
) -> None:
    message.code = code
    message.campaign_id = campaign_id
    message.campaign_version = version
    message.discount_minor = discount.applied_minor
    message.desired_minor = discount.desired_minor
    for line in discount.lines:
        added = message.lines.add(
            line_index=line.line, sku=line.sku, discount_minor=line.applied_minor, desired_minor=line.desired_minor
        )
        if line.caps:
            added.caps.extend([CAPS[cap] for cap in line.caps])
    message.shipping_discount_minor = discount.shipping_minor
    for granted in discount.granted_units:
        message.granted_units.add(sku=granted.sku, quantity=granted.quantity)
    if discount.caps:
        message.caps.extend([CAPS[cap] for cap in discount.caps])


def refusal_message(refusal: Refusal) -> refusal_pb2.Refusal:
    """Why not. The numbers of the reasons are the same on both sides; a test holds them together."""
    message = refusal_pb2.Refusal()
    _fill_refusal(message, refusal)
    return message


def _fill_refusal(message: refusal_pb2.Refusal, refusal: Refusal) -> None:
    message.reason = refusal_pb2.RefusalReason.ValueType(refusal.reason.value)
    message.message = refusal.message
    message.code = refusal.code
    message.metadata.update(refusal.metadata)


def validation_message(validation: Validation, trial: Trial | None = None) -> redemption_service_pb2.ValidateResponse:
    """Whether the codes could be redeemed, and why those that could not; and of which trial that is the answer."""
    message = redemption_service_pb2.ValidateResponse(
        inapplicable=map(refusal_message, validation.inapplicable),
        skipped=map(refusal_message, validation.skipped),
        traces=map(_trace_message, validation.traces),
    )
    if trial is not None:
        message.trial.time.FromMilliseconds(trial.at_ms)
        message.trial.inactive_campaign_ids.extend(sorted(trial.inactive))
    if isinstance(validation.outcome, Refusal):
        message.refusal.CopyFrom(refusal_message(validation.outcome))
    else:
        message.offer.CopyFrom(offer_message(validation.outcome))
    return message


def _trace_message(trace: Trace) -> trace_pb2.CodeTrace:
    campaign = trace.candidate.evaluator.campaign if trace.candidate else None
    return trace_pb2.CodeTrace(
        code=trace.code,
        campaign_id=campaign.id if campaign else "",
        campaign_version=campaign.version if campaign else 0,
        entries=[
            trace_pb2.TraceEntry(path=entry.path, wanted=entry.wanted, saw=entry.saw, held=entry.held, note=entry.note)
            for entry in trace.entries
        ],
    )


def timestamp(ms: int) -> Timestamp:
    """A moment in milliseconds since 1970 UTC."""
    message = Timestamp()
    message.FromMilliseconds(ms)
    return message
