"""Between messages and domain values: campaigns. Messages have passed their validation rules before they come here."""

from __future__ import annotations

import re
from collections.abc import Iterator

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from vouchsafe.domain.campaign import (
    CampaignFilter,
    CampaignState,
    CampaignStatus,
    CodeEntry,
    Definition,
    normalise_code,
)
from vouchsafe.domain.check import check
from vouchsafe.domain.errors import InvalidRequest, Violation
from vouchsafe.edge.convert import GIVEN_TWICE, timestamp
from vouchsafe.edge.convert_pages import decode_time_and_id, encode_token
from vouchsafe.edge.mirror import from_message, to_message
from vouchsafe.service.campaigns import CampaignStats, PageKey
from vouchsafe.v1 import campaign_pb2, definition_pb2
from vouchsafe.v1.campaign_service_pb2 import CreateCampaignRequest, ListCampaignsRequest

MAX_DEFINITION_BYTES = 65_536

STATES = {
    CampaignState.DRAFT: campaign_pb2.CAMPAIGN_STATE_DRAFT,
    CampaignState.SCHEDULED: campaign_pb2.CAMPAIGN_STATE_SCHEDULED,
    CampaignState.ACTIVE: campaign_pb2.CAMPAIGN_STATE_ACTIVE,
    CampaignState.PAUSED: campaign_pb2.CAMPAIGN_STATE_PAUSED,
    CampaignState.ENDED: campaign_pb2.CAMPAIGN_STATE_ENDED,
    CampaignState.ARCHIVED: campaign_pb2.CAMPAIGN_STATE_ARCHIVED,
}
_STATES_BY_NUMBER = {number: state for state, number in STATES.items()}


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


def definition_violations(message: definition_pb2.CampaignDefinition, *, is_part: bool = False) -> list[Violation]:
    """What contradicts itself in a definition, or is not known here; the rules of the protos are asked beside these. Of
    a part of one, the definition that it is laid over has a say in what contradicts itself, so that comes later."""
    if message.ByteSize() > MAX_DEFINITION_BYTES:
        return [Violation("definition", f"has {message.ByteSize()} bytes; at most {MAX_DEFINITION_BYTES} are accepted")]
    return [
        Violation(f"definition.{violation.field}" if violation.field else "definition", violation.description)
        for violation in (*_unknown_fields(message, ""), *(() if is_part else check(definition(message))))
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
        create_time=timestamp(campaign.create_time_ms),
        pause_reason=status.pause_reason,
        etag=etag(campaign.version),
        resume_time=None if status.resume_time_ms is None else timestamp(status.resume_time_ms),
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
            held_count=status.held_count,
            held_minor=status.held_minor,
        ),
        gate_time=timestamp(status.now_ms),
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


# -- pages -----------------------------------------------------------------------------------------------------------


def campaign_filter(request: ListCampaignsRequest) -> CampaignFilter:
    """Which campaigns are asked for."""
    state = _STATES_BY_NUMBER.get(request.state)
    return CampaignFilter(request.show_archived or state is CampaignState.ARCHIVED, state, request.label)


def page_token(key: PageKey | None) -> str:
    """The token that leads to the next page, empty after the last."""
    return encode_token(key)


def page_key(token: str) -> PageKey | None:
    """Reads what `page_token` wrote. Raises InvalidRequest."""
    if not token:
        return None
    # What the protos say of a campaign's id.
    return decode_time_and_id(token, r"[a-z0-9-]{1,63}")
