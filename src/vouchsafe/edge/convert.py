"""Between messages and domain values. Messages have passed their validation rules before they come here."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from typing import assert_never

from google.protobuf.timestamp_pb2 import Timestamp

from vouchsafe.domain.campaign import (
    AmountDiscount,
    CampaignState,
    CampaignStatus,
    CodeEntry,
    Definition,
    Limits,
    PercentDiscount,
    normalise_code,
)
from vouchsafe.domain.errors import InvalidRequest, Violation
from vouchsafe.domain.order import Customer, Line, Order
from vouchsafe.domain.reasons import Refusal
from vouchsafe.domain.redemption import Redemption
from vouchsafe.service.campaigns import PageKey
from vouchsafe.service.redeem import Offer, RedeemRequest
from vouchsafe.v1 import campaign_pb2, money_pb2, order_pb2, redemption_pb2, redemption_service_pb2, refusal_pb2
from vouchsafe.v1.campaign_service_pb2 import CreateCampaignRequest

STATES = {
    CampaignState.SCHEDULED: campaign_pb2.CAMPAIGN_STATE_SCHEDULED,
    CampaignState.ACTIVE: campaign_pb2.CAMPAIGN_STATE_ACTIVE,
    CampaignState.PAUSED: campaign_pb2.CAMPAIGN_STATE_PAUSED,
    CampaignState.ENDED: campaign_pb2.CAMPAIGN_STATE_ENDED,
}


# -- redemptions -----------------------------------------------------------------------------------------------------


def redeem_request(
    message: redemption_service_pb2.ValidateAndRedeemRequest | redemption_service_pb2.ValidateRequest,
) -> RedeemRequest:
    """What a checkout asks. A ValidateRequest has no request id: it is empty then."""
    code = normalise_code(message.codes[0])
    return RedeemRequest(
        request_id=getattr(message, "request_id", ""),
        fingerprint=_fingerprint(code, message.customer, message.order),
        code=code,
        customer=_customer(message.customer),
        order=_order(message.order),
    )


def _fingerprint(code: str, customer: order_pb2.Customer, order: order_pb2.Order) -> str:
    """32 hex digits over all that a request says except its id. Spelling a code differently changes nothing."""
    digest = hashlib.blake2b(code.encode(), digest_size=16)
    for part in (customer, order):
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
        attributes=dict(message.attributes),
    )


def _order(message: order_pb2.Order) -> Order:
    return Order(
        id=message.id,
        currency_code=message.currency_code,
        lines=tuple(
            Line(
                sku=line.sku,
                quantity=line.quantity,
                unit_price_minor=line.unit_price_minor,
                product_id=line.product_id,
                categories=tuple(line.categories),
            )
            for line in message.lines
        ),
        shipping_minor=message.shipping_minor,
    )


def redemption_message(redemption: Redemption) -> redemption_pb2.Redemption:
    """A use that was taken."""
    claim = redemption.claim
    return redemption_pb2.Redemption(
        id=redemption.id,
        request_id=claim.request_id,
        order_id=claim.order_id,
        customer_id=claim.customer_id,
        applied_codes=[
            redemption_pb2.AppliedCode(
                code=claim.code,
                campaign_id=claim.campaign_id,
                campaign_version=claim.campaign_version,
                discount_minor=claim.discount_minor,
            )
        ],
        currency_code=claim.currency_code,
        order_amount_minor=claim.order_amount_minor,
        discount_minor=claim.discount_minor,
        redeem_time=_timestamp(redemption.at_ms),
    )


def offer_message(offer: Offer) -> redemption_pb2.Offer:
    """What a redemption would give."""
    return redemption_pb2.Offer(
        applied_codes=[
            redemption_pb2.AppliedCode(
                code=offer.code,
                campaign_id=offer.campaign_id,
                campaign_version=offer.campaign_version,
                discount_minor=offer.discount_minor,
            )
        ],
        currency_code=offer.currency_code,
        order_amount_minor=offer.order_amount_minor,
        discount_minor=offer.discount_minor,
    )


def refusal_message(refusal: Refusal) -> refusal_pb2.Refusal:
    """Why not. The numbers of the reasons are the same on both sides; a test holds them together."""
    return refusal_pb2.Refusal(
        reason=refusal_pb2.RefusalReason.ValueType(refusal.reason.value),
        message=refusal.message,
        code=refusal.code,
        metadata=refusal.metadata,
    )


# -- campaigns -------------------------------------------------------------------------------------------------------


def new_codes(request: CreateCampaignRequest) -> list[CodeEntry]:
    """The codes of a new campaign. Raises InvalidRequest when one is given twice."""
    entries: dict[str, CodeEntry] = {}
    for field, codes, use_limit in (
        ("shared_codes", request.shared_codes, None),
        ("single_use_codes", request.single_use_codes, 1),
    ):
        for index, text in enumerate(codes):
            code = normalise_code(text)
            if code in entries:
                raise InvalidRequest(
                    Violation(
                        f"{field}[{index}]", "is given twice (capitals and small letters are the same); once is enough"
                    )
                )
            entries[code] = CodeEntry(code, request.campaign_id, use_limit)
    return list(entries.values())


def definition(message: campaign_pb2.CampaignDefinition) -> Definition:
    """What an operator says about a campaign."""
    discount: PercentDiscount | AmountDiscount
    if message.HasField("percent"):
        discount = PercentDiscount(message.percent.basis_points)
    else:
        discount = AmountDiscount(message.amount.amount.currency_code, message.amount.amount.amount_minor)
    limits = message.limits
    return Definition(
        display_name=message.display_name,
        discount=discount,
        limits=Limits(
            total=limits.total if limits.HasField("total") else None,
            per_customer=limits.per_customer if limits.HasField("per_customer") else None,
        ),
        start_ms=message.start_time.ToMilliseconds() if message.HasField("start_time") else None,
        end_ms=message.end_time.ToMilliseconds() if message.HasField("end_time") else None,
    )


def campaign_message(status: CampaignStatus) -> campaign_pb2.Campaign:
    """A campaign, and what the service knows of it."""
    campaign = status.campaign
    return campaign_pb2.Campaign(
        id=campaign.id,
        definition=_definition_message(campaign.definition),
        version=campaign.version,
        state=STATES[status.state],
        redeemed_count=status.redeemed_count,
        create_time=_timestamp(campaign.create_time_ms),
        pause_reason=status.pause_reason,
    )


def _definition_message(value: Definition) -> campaign_pb2.CampaignDefinition:
    message = campaign_pb2.CampaignDefinition(
        display_name=value.display_name,
        limits=campaign_pb2.Limits(total=value.limits.total, per_customer=value.limits.per_customer),
        start_time=None if value.start_ms is None else _timestamp(value.start_ms),
        end_time=None if value.end_ms is None else _timestamp(value.end_ms),
    )
    match value.discount:
        case PercentDiscount(basis_points):
            message.percent.basis_points = basis_points
        case AmountDiscount(currency_code, amount_minor):
            message.amount.amount.CopyFrom(money_pb2.Money(currency_code=currency_code, amount_minor=amount_minor))
        case _:
            assert_never(value.discount)
    return message


def _timestamp(ms: int) -> Timestamp:
    message = Timestamp()
    message.FromMilliseconds(ms)
    return message


# -- pages -----------------------------------------------------------------------------------------------------------


def page_token(key: PageKey | None) -> str:
    """The token that leads to the next page, empty after the last."""
    if key is None:
        return ""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


def page_key(token: str) -> PageKey | None:
    """Reads what `page_token` wrote. Raises InvalidRequest."""
    if not token:
        return None
    try:
        create_time_ms, campaign_id = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
        # What the protos say of a campaign's id; and a time that the ledger can hold, up to the year 2200.
        if not 0 <= int(create_time_ms) < 7_258_118_400_000 or not re.fullmatch(r"[a-z0-9-]{1,63}", campaign_id):
            raise ValueError
    except (ValueError, TypeError, OverflowError, binascii.Error):
        violation = Violation("page_token", "is not one; give next_page_token of the answer before, or nothing")
        raise InvalidRequest(violation) from None
    return int(create_time_ms), campaign_id
