"""Messages as people write them into files: in the names of the protos, enums without their prefix, times as RFC 3339,
durations as 90s, 30m, 12h, 7d or 2w.

A file comes here as a tree in which every scalar is still the text that stands there: the field that it is for says
what it means, never the look of it. So NO is Norway where a country is asked for, and 007 a code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, TypeAlias

import protovalidate
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from vouchsafe.domain.campaign import CodeEntry
from vouchsafe.domain.errors import InvalidRequest, Violation
from vouchsafe.domain.evaluator import timestamp_text
from vouchsafe.edge import convert, convert_campaigns
from vouchsafe.edge.paths import field_path
from vouchsafe.service.judge import RedeemRequest
from vouchsafe.v1.campaign_service_pb2 import CreateCampaignRequest
from vouchsafe.v1.definition_pb2 import CampaignDefinition
from vouchsafe.v1.redemption_service_pb2 import ValidateRequest

# None is a value that was left empty.
Tree: TypeAlias = "str | list[Tree] | dict[str, Tree] | None"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMESTAMP, _DURATION = "google.protobuf.Timestamp", "google.protobuf.Duration"
_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
# What a Duration of protobuf can hold.
_MAX_DURATION_MS = 315_576_000_000_000


# -- campaigns and orders ----------------------------------------------------------------------------------------------


def campaign_request(tree: Tree) -> tuple[CreateCampaignRequest, list[Violation]]:
    """What a tree in the form of a CreateCampaignRequest means, and all that is wrong with it; codes may be missing."""
    request = CreateCampaignRequest()
    violations = fill(request, tree)
    rules = [*_broken_rules(request), *convert_campaigns.definition_violations(request.definition)]
    try:
        campaign_codes(request)
    except InvalidRequest as error:
        rules += error.violations
    return request, [*violations, *_unrelated(rules, violations)]


def campaign_codes(request: CreateCampaignRequest) -> list[CodeEntry]:
    """The codes of a new campaign, as if they were given to their customers at the very beginning of time. Raises
    InvalidRequest when one is given twice."""
    return convert_campaigns.new_codes(request, 0)


def checkout_request(tree: Tree) -> tuple[RedeemRequest | None, list[Violation]]:
    """What a tree in the form of a ValidateRequest asks, None if anything is wrong with it."""
    message = ValidateRequest()
    violations = fill(message, tree)
    violations += _unrelated(_broken_rules(message), violations)
    if not violations:
        try:
            return convert.redeem_request(message), []
        except InvalidRequest as error:
            violations += error.violations
    return None, violations


def normal(message: CampaignDefinition) -> CampaignDefinition:
    """The same definition in its shortest form: of two that mean the same, the forms are equal."""
    return convert_campaigns.definition_message(convert_campaigns.definition(message))


@cache
def _validator() -> protovalidate.Validator:
    return protovalidate.Validator()


def _broken_rules(message: Message) -> list[Violation]:
    return [
        Violation(field_path(violation.proto.field), violation.proto.message or violation.proto.rule_id)
        for violation in _validator().collect_violations(message)
    ]


def _unrelated(rules: Iterable[Violation], told: list[Violation]) -> list[Violation]:
    """Without those that only follow from what was told already: what cannot be read is missing, too."""
    return [
        rule
        for rule in rules
        if not any(one.field.startswith(rule.field) or rule.field.startswith(one.field) for one in told)
    ]


# -- from trees to messages --------------------------------------------------------------------------------------------


def fill(message: Message, tree: Tree, path: str = "") -> list[Violation]:
    """Fills an empty message with what a tree says, and answers what it says that cannot be."""
    fields: Mapping[str, Any] = message.DESCRIPTOR.fields_by_name
    if not isinstance(tree, dict):
        return [Violation(path, f"{_shown(tree)}; give a mapping with any of {', '.join(fields)}")]
    violations = []
    for name, part in tree.items():
        here = f"{path}.{name}" if path else name
        field = fields.get(name)
        if field is None:
            violations.append(unknown_key(here, fields))
            continue
        oneof = field.containing_oneof
        other = message.WhichOneof(oneof.name) if oneof is not None else None
        if other is not None:
            violations.append(Violation(here, f"stands beside {other}; give one of the two"))
            continue
        violations += _fill_field(message, field, part, here)
    return violations


def unknown_key(path: str, accepted: Iterable[str]) -> Violation:
    """That nothing has this name here, and what has."""
    return Violation(path, f"is not known; accepted are {', '.join(accepted)}")


def _fill_field(message: Message, field: FieldDescriptor, tree: Tree, path: str) -> list[Violation]:
    is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    if is_map:
        if not isinstance(tree, dict):
            return [Violation(path, f"{_shown(tree)}; give a mapping of texts")]
        entries = getattr(message, field.name)
        return [one for key, part in tree.items() for one in _put(entries, key, part, f"{path}[{key!r}]")]
    if field.is_repeated:
        if not isinstance(tree, list):
            return [Violation(path, f"{_shown(tree)}; give a list")]
        violations = []
        for index, part in enumerate(tree):
            violations += _fill_one(message, field, part, f"{path}[{index}]")
        return violations
    return _fill_one(message, field, tree, path)


def _put(entries: Any, key: str, tree: Tree, path: str) -> list[Violation]:
    try:
        entries[key] = text(tree)
    except ValueError as error:
        return [Violation(path, str(error))]
    return []


def _fill_one(message: Message, field: FieldDescriptor, tree: Tree, path: str) -> list[Violation]:
    kind = field.message_type.full_name if field.message_type is not None else ""
    if kind and kind not in _TIMES:
        part = getattr(message, field.name)
        if field.is_repeated:
            part = part.add()
        part.SetInParent()
        return fill(part, tree, path)
    try:
        if kind:
            getattr(message, field.name).FromMilliseconds(_TIMES[kind](tree))
        elif field.is_repeated:
            getattr(message, field.name).append(_scalar(field, tree))
        else:
            setattr(message, field.name, _scalar(field, tree))
    except ValueError as error:
        return [Violation(path, str(error))]
    return []


def _scalar(field: FieldDescriptor, tree: Tree) -> str | int | bool:
    if field.enum_type is not None:
        prefix = _prefix(field.enum_type)
        name = member(tree, _members(field.enum_type), prefix)
        return field.enum_type.values_by_name[prefix + name].number
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_BOOL:
            return member(tree, ("true", "false")) == "true"
        case FieldDescriptor.CPPTYPE_INT32:
            return integer(tree, bits=32)
        case FieldDescriptor.CPPTYPE_INT64:
            return integer(tree)
        case FieldDescriptor.CPPTYPE_STRING:
            return text(tree)
        case _:
            raise TypeError(f"{field.full_name} is of a type that no file has had yet")


def _prefix(enum: EnumDescriptor) -> str:
    return str(enum.values[0].name).removesuffix("UNSPECIFIED")


def _members(enum: EnumDescriptor) -> list[str]:
    """Their short names, all but UNSPECIFIED: what is not specified is left out of a file."""
    return [value.name.removeprefix(_prefix(enum)) for value in enum.values if value.number]


# -- from trees to values: each raises ValueError, saying what would be accepted ---------------------------------------


def text(tree: Tree) -> str:
    """Text, whatever it looks like."""
    if isinstance(tree, str):
        return tree
    raise ValueError(f"{_shown(tree)}; give a text, or leave it out")


def integer(tree: Tree, *, bits: int = 64) -> int:
    """A whole number in decimal digits."""
    if isinstance(tree, str) and re.fullmatch("-?(0|[1-9][0-9]{0,18})", tree):
        number = int(tree)
        if -(2 ** (bits - 1)) <= number < 2 ** (bits - 1):
            return number
        raise ValueError(f"{_shown(tree)}, which is too large a number")
    raise ValueError(f"{_shown(tree)}; give a whole number")


def member(tree: Tree, names: Iterable[str], prefix: str = "") -> str:
    """One of these words, with or without the prefix."""
    if isinstance(tree, str):
        name = tree.removeprefix(prefix)
        if name in names:
            return name
    raise ValueError(f"{_shown(tree)}; give one of {', '.join(names)}")


def moment_ms(tree: Tree) -> int:
    """A moment as RFC 3339, in milliseconds since 1970 UTC."""
    form = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,3})?(Z|[+-]\d\d:\d\d)"
    if isinstance(tree, str) and re.fullmatch(form, tree, re.ASCII):
        try:
            return (datetime.fromisoformat(tree) - _EPOCH) // timedelta(milliseconds=1)
        except ValueError:
            raise ValueError(f"{_shown(tree)}, which does not exist") from None
    raise ValueError(f"{_shown(tree)}; give a time with an offset, such as 2026-11-27T00:00:00+01:00")


def duration_ms(tree: Tree) -> int:
    """A span of elapsed time in milliseconds."""
    found = re.fullmatch(r"(\d{1,12})(?:([mhdw])|(?:\.(\d{1,3}))?s)", tree, re.ASCII) if isinstance(tree, str) else None
    if found is None:
        raise ValueError(f"{_shown(tree)}; give a duration such as 90s, 30m, 12h, 7d or 2w")
    count, unit, fraction = found.groups()
    span_ms = int(count) * _UNITS_MS[unit or "s"] + int((fraction or "").ljust(3, "0"))
    if span_ms > _MAX_DURATION_MS:
        raise ValueError(f"{_shown(tree)}, which is too long")
    return span_ms


_TIMES: dict[str, Callable[[Tree], int]] = {_TIMESTAMP: moment_ms, _DURATION: duration_ms}


def _shown(tree: Tree) -> str:
    match tree:
        case None:
            return "is empty"
        case str():
            return f"is {tree[:60]!r}"
        case list():
            return "is a list"
        case dict():
            return "is a mapping"


# -- from messages to trees --------------------------------------------------------------------------------------------


def tree_of(message: Message) -> dict[str, Any]:
    """What `fill` reads back; numbers and booleans are such. What is unset is left out."""
    tree: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            tree[field.name] = dict(value)
        elif field.is_repeated:
            tree[field.name] = [_plain(field, one) for one in value]
        else:
            tree[field.name] = _plain(field, value)
    return tree


def _plain(field: FieldDescriptor, value: Any) -> Any:
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name.removeprefix(_prefix(field.enum_type))
    if field.message_type is None:
        return value
    match field.message_type.full_name:
        case "google.protobuf.Timestamp":
            return timestamp_text(value.ToMilliseconds())
        case "google.protobuf.Duration":
            return _duration_text(value.ToMilliseconds())
        case _:
            return tree_of(value)


def _duration_text(span_ms: int) -> str:
    for unit in reversed(_UNITS_MS):
        if span_ms % _UNITS_MS[unit] == 0:
            return f"{span_ms // _UNITS_MS[unit]}{unit}"
    return f"{span_ms // 1_000}.{span_ms % 1_000:03}s"
