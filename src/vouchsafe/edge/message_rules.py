"""The rules of messages: those that the protos say, and those of definitions, which have some of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import protovalidate
from google.protobuf.message import DecodeError

from vouchsafe.domain.errors import InvalidRequest, Violation
from vouchsafe.edge.convert_campaigns import definition_violations
from vouchsafe.edge.masks import complete, mask_violations
from vouchsafe.edge.paths import field_path
from vouchsafe.v1.buf.validate import validate_pb2
from vouchsafe.v1.campaign_service_pb2 import CreateCampaignRequest, ScheduleCampaignRequest, UpdateCampaignRequest
from vouchsafe.v1.redemption_service_pb2 import BatchValidateAndRedeemRequest

LARGE_MESSAGE_BYTES = 4_096
LARGE_DEFINITION_BYTES = 16_384
TOLD_VIOLATIONS = 20
MAX_BATCH: int = (
    BatchValidateAndRedeemRequest.DESCRIPTOR.fields_by_name["requests"]
    .GetOptions()
    .Extensions[validate_pb2.field]
    .repeated.max_items
)


class MessageRules:
    """Compiled once."""

    def __init__(self) -> None:
        self._validator = protovalidate.Validator()

    def read(self, data: bytes, deserialize: Any) -> Any:
        """A message that keeps the rules. Raises InvalidRequest."""
        request = decoded(data, deserialize)
        self.check(request, len(data))
        return request

    def check(self, request: Any, size_bytes: int) -> None:
        """Raises InvalidRequest when a message breaks its rules."""
        if isinstance(request, BatchValidateAndRedeemRequest) and 1 <= len(request.requests) <= MAX_BATCH:
            # Each request is checked by itself, and looking at all of them for nothing would cost nearly as much.
            return
        definitions = list(_definitions(request))
        wrong = [one for prefix, part in definitions for one in mask_violations(_paths(part), f"{prefix}update_mask")]
        if wrong:
            raise InvalidRequest(*wrong[:TOLD_VIOLATIONS])
        for _, part in definitions:
            complete(part.definition, _paths(part))
        # A large message may break more rules than there is time to collect, or room to tell.
        large = LARGE_DEFINITION_BYTES if definitions else LARGE_MESSAGE_BYTES
        violations = [
            Violation(field_path(violation.proto.field), violation.proto.message or violation.proto.rule_id)
            for violation in self._validator.collect_violations(request, fail_fast=size_bytes > large)
        ]
        for prefix, part in definitions:
            found = definition_violations(part.definition, is_part=bool(_paths(part)))
            violations += [Violation(prefix + one.field, one.description) for one in found]
        if len(violations) > TOLD_VIOLATIONS:
            untold = len(violations) - TOLD_VIOLATIONS
            violations[TOLD_VIOLATIONS:] = [Violation("request", f"breaks {untold} more rules; mend these first")]
        if violations:
            raise InvalidRequest(*violations)


def decoded(data: bytes, deserialize: Any) -> Any:
    """A message from its bytes. Raises InvalidRequest."""
    try:
        return deserialize(data)
    except DecodeError:
        raise InvalidRequest(Violation("request", "is not a message of the type that the method takes")) from None


def _definitions(request: Any) -> Iterator[tuple[str, Any]]:
    """The messages in a request that have a definition, and where each is."""
    if isinstance(request, CreateCampaignRequest | UpdateCampaignRequest):
        yield "", request
    elif isinstance(request, ScheduleCampaignRequest):
        for index, plan in enumerate(request.planned_changes):
            if plan.WhichOneof("change") == "update":
                yield f"planned_changes[{index}].update.", plan.update


def _paths(message: Any) -> list[str]:
    """The fields of its definition that a message is about; none is all."""
    return [] if isinstance(message, CreateCampaignRequest) else list(message.update_mask.paths)
