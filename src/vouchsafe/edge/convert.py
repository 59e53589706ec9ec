"""Between messages and domain values. Messages have passed their validation rules before they come here."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterator

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.unknown_fields import UnknownFieldSet

from vouchsafe.domain.campaign import CampaignState, CampaignStatus, CodeEntry, Definition, normalise_code
from vouchsafe.domain.check import check
from vouchsafe.domain.combine import Combining
from vouchsafe.domain.errors import InvalidRequest, Violation
from vouchsafe.domain.order import Customer, Line, Order
from vouchsafe.domain.pricing import Cap, Discount
from vouchsafe.domain.reasons import Refusal
from vouchsafe.domain.redemption import CombinedClaim, Redemption
from vouchsafe.edge.mirror import from_message, to_message
from vouchsafe.service.campaigns import CampaignStats, PageKey
from vouchsafe.service.combined import Answer
from vouchsafe.service.judge import RedeemRequest
from vouchsafe.service.redeem import Offer, Trace, Validation
from vouchsafe.v1 import campaign_pb2, definition_pb2, order_pb2, redemption_pb2, redemption_service_pb2, refusal_pb2
from vouchsafe.v1.campaign_service_pb2 import CreateCampaignRequest

ALONE = Combining()
GIVEN_TWICE = "is given twice (capitals and small letters are the same); once is enough"
MAX_DEFINITION_BYTES = 65_536

CAPS = {cap: redemption_pb2.DiscountCap.Value(f"DISCOUNT_CAP_{cap.value}") for cap in Cap}
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
    )


def _fingerprint(
    codes: tuple[str, ...],
    message: redemption_service_pb2.ValidateAndRedeemRequest | redemption_service_pb2.ValidateRequest,
) -> str:
    """32 hex digits over what a request asks for, so not its id nor a quote. Spelling a code differently changes
    nothing."""
    digest = hashlib.blake2b(" ".join(codes).encode(), digest_size=16)
    for part in (message.customer, message.order, message.combining):
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
    claim = redemption.claim
    message = redemption_pb2.Redemption(
        id=redemption.id,
        request_id=claim.request_id,
        order_id=claim.order_id,
        customer_id=claim.customer_id,
        applied_codes=[
            _applied_code(one.code, one.campaign_id, one.campaign_version, one.discount) for one in redemption.applied
        ],
        currency_code=claim.currency_code,
        order_amount_minor=claim.order_amount_minor,
        discount_minor=redemption.discount_minor,
        redeem_time=_timestamp(redemption.at_ms),
    )
    if isinstance(claim, CombinedClaim) and claim.is_best is not None:
        message.is_best_deal = claim.is_best
    return message


def answer_message(answer: Answer) -> redemption_service_pb2.ValidateAndRedeemResponse:
    """What was taken or why not, and why codes were left out."""
    message = redemption_service_pb2.ValidateAndRedeemResponse(
        inapplicable=map(refusal_message, answer.inapplicable), skipped=map(refusal_message, answer.skipped)
    )
    if isinstance(answer.outcome, Refusal):
        message.refusal.CopyFrom(refusal_message(answer.outcome))
    else:
        message.redemption.CopyFrom(redemption_message(answer.outcome))
    return message


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
    return redemption_pb2.AppliedCode(
        code=code,
        campaign_id=campaign_id,
        campaign_version=version,
        discount_minor=discount.applied_minor,
        desired_minor=discount.desired_minor,
        lines=[
            redemption_pb2.LineDiscount(
                line_index=line.line,
                sku=line.sku,
                discount_minor=line.applied_minor,
                desired_minor=line.desired_minor,
                caps=[CAPS[cap] for cap in line.caps] if line.caps else None,
            )
            for line in discount.lines
        ],
        shipping_discount_minor=discount.shipping_minor,
        granted_units=[
            redemption_pb2.GrantedUnits(sku=granted.sku, quantity=granted.quantity)
            for granted in discount.granted_units
        ],
        caps=[CAPS[cap] for cap in discount.caps],
    )


def refusal_message(refusal: Refusal) -> refusal_pb2.Refusal:
    """Why not. The numbers of the reasons are the same on both sides; a test holds them together."""
    return refusal_pb2.Refusal(
        reason=refusal_pb2.RefusalReason.ValueType(refusal.reason.value),
        message=refusal.message,
        code=refusal.code,
        metadata=refusal.metadata,
    )


def validation_message(validation: Validation) -> redemption_service_pb2.ValidateResponse:
    """Whether the codes could be redeemed, and why those that could not."""
    message = redemption_service_pb2.ValidateResponse(
        inapplicable=map(refusal_message, validation.inapplicable),
        skipped=map(refusal_message, validation.skipped),
        traces=map(_trace_message, validation.traces),
    )
    if isinstance(validation.outcome, Refusal):
        message.refusal.CopyFrom(refusal_message(validation.outcome))
    else:
        message.offer.CopyFrom(offer_message(validation.outcome))
    return message


def _trace_message(trace: Trace) -> redemption_service_pb2.CodeTrace:
    campaign = trace.candidate.evaluator.campaign if trace.candidate else None
    return redemption_service_pb2.CodeTrace(
        code=trace.code,
        campaign_id=campaign.id if campaign else "",
        campaign_version=campaign.version if campaign else 0,
        entries=[
            redemption_service_pb2.TraceEntry(
                path=entry.path, wanted=entry.wanted, saw=entry.saw, held=entry.held, note=entry.note
            )
            for entry in trace.entries
        ],
    )


# -- campaigns -------------------------------------------------------------------------------------------------------


def new_codes(request: CreateCampaignRequest, now_ms: int) -> list[CodeEntry]:
    """The codes of a new campaign; those for one customer are given to them now. Raises InvalidRequest when one is
    given twice."""
    campaign_id = request.campaign_id
    entries = {}
    spelled = (
        *((f"shared_codes[{index}]", code, None, "") for index, code in enumerate(request.shared_codes)),
        *((f"single_use_codes[{index}]", code, 1, "") for index, code in enumerate(request.single_use_codes)),
        *(
            (f"assigned_codes[{index}].code", given.code, 1, given.customer_id)
            for index, given in enumerate(request.assigned_codes)
        ),
    )
    for field, text, use_limit, holder_id in spelled:
        code = normalise_code(text)
        if code in entries:
            raise InvalidRequest(Violation(field, GIVEN_TWICE))
        entries[code] = CodeEntry(code, campaign_id, use_limit, holder_id, now_ms if holder_id else None)
    return list(entries.values())


def definition(message: definition_pb2.CampaignDefinition) -> Definition:
    """What an operator says about a campaign."""
    return from_message(message, Definition)


def definition_violations(message: definition_pb2.CampaignDefinition) -> list[Violation]:
    """What contradicts itself in a definition, or is not known here; the rules of the protos are asked beside these."""
    if message.ByteSize() > MAX_DEFINITION_BYTES:
        return [Violation("definition", f"has {message.ByteSize()} bytes; at most {MAX_DEFINITION_BYTES} are accepted")]
    return [
        Violation(f"definition.{violation.field}" if violation.field else "definition", violation.description)
        for violation in (*_unknown_fields(message, ""), *check(definition(message)))
    ]


def _unknown_fields(message: Message, path: str) -> Iterator[Violation]:
    """Fields that this release does not know: a rule that is not understood must not be passed over."""
    unknown = UnknownFieldSet(message)
    for index in range(len(unknown)):
        number = unknown[index].field_number
        yield Violation(path, f"has a field number {number}, which this release does not know; leave it out")
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.full_name.startswith("google.protobuf."):
            continue
        for index, part in enumerate(value if field.is_repeated else [value]):
            here = f"{field.name}[{index}]" if field.is_repeated else field.name
            yield from _unknown_fields(part, f"{path}.{here}" if path else here)


def etag(version: int) -> str:
    """What UpdateCampaign wants to see again."""
    return f"v{version}"


def etag_version(text: str) -> int | None:
    """Reads what `etag` wrote; None for none. Raises InvalidRequest."""
    if not text:
        return None
    if not re.fullmatch(r"v[0-9]{1,18}", text):
        raise InvalidRequest(Violation("etag", "is not one; give Campaign.etag as it was read, or nothing"))
    return int(text[1:])


def campaign_message(status: CampaignStatus) -> campaign_pb2.Campaign:
    """A campaign, and what the service knows of it."""
    campaign = status.campaign
    return campaign_pb2.Campaign(
        id=campaign.id,
        definition=definition_message(campaign.definition),
        version=campaign.version,
        state=STATES[status.state],
        redeemed_count=status.redeemed_count,
        create_time=_timestamp(campaign.create_time_ms),
        pause_reason=status.pause_reason,
        etag=etag(campaign.version),
    )


def stats_message(stats: CampaignStats) -> campaign_pb2.CampaignStats:
    """What a campaign has given."""
    status, ledger = stats.status, stats.ledger
    message = campaign_pb2.CampaignStats(
        campaign_id=status.campaign.id,
        state=STATES[status.state],
        gate=campaign_pb2.CampaignCounters(
            redeemed_count=status.redeemed_count,
            discount_minor=status.discount_minor,
            customer_count=status.customer_count,
        ),
        gate_time=_timestamp(status.now_ms),
    )
    if ledger is not None:
        message.ledger_position = ledger.position
        message.ledger.CopyFrom(
            campaign_pb2.CampaignCounters(
                redeemed_count=ledger.redeemed_count,
                discount_minor=ledger.discount_minor,
                customer_count=ledger.customer_count,
            )
        )
    return message


def definition_message(value: Definition) -> definition_pb2.CampaignDefinition:
    """A definition in its shortest form: two that mean the same are equal."""
    message = definition_pb2.CampaignDefinition()
    to_message(value, message)
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
