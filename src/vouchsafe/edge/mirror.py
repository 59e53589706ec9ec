"""Definitions between messages and domain values. Both sides use the same names, so one walk serves every type:

- a field of the message is the field of the struct with the same name; a Timestamp or Duration `x` is `x_ms` there;
- a oneof is a field with the oneof's name, whose value is the struct tagged with the name of the member;
- an enum's value is the member of the StrEnum without the enum's prefix, and UNSPECIFIED the struct's default;
- what is unset is the struct's default, and the other way round.

A field that one side has and the other lacks is an error at import, not a rule that is passed over.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

StructT = TypeVar("StructT", bound=msgspec.Struct)

_TIMES = ("google.protobuf.Timestamp", "google.protobuf.Duration")


def from_message(message: Message, type_: type[StructT]) -> StructT:
    """The struct that a message means. Required parts that are unset become None: the protos' own rules tell so."""
    values = {}
    for part in _plan(message.DESCRIPTOR, type_):
        found = part.read(message)
        if found is not None or part.default is msgspec.NODEFAULT:
            values[part.attribute] = found
    return type_(**values)


def to_message(value: msgspec.Struct, message: Message) -> None:
    """Fills an empty message with what a struct means, leaving defaults out."""
    for part in _plan(message.DESCRIPTOR, type(value)):
        found = getattr(value, part.attribute)
        if found is not None and found != part.default:
            part.write(message, found)


class _Part:
    """One field of a struct, and how it is read from and written to a message."""

    def __init__(
        self,
        attribute: str,
        default: Any,
        read: Callable[[Message], Any],
        write: Callable[[Message, Any], None],
    ) -> None:
        self.attribute = attribute
        self.default = default
        self.read = read
        self.write = write


@cache
def _plan(descriptor: Descriptor, type_: type[msgspec.Struct]) -> list[_Part]:
    hints = get_type_hints(type_)
    covered: set[str] = set()
    parts = []
    for field in msgspec.structs.fields(type_):
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        read, write = _accessors(descriptor, field.name, hints[field.name], covered)
        if default is not msgspec.NODEFAULT and default:
            read = _or_none(read)
        parts.append(_Part(field.name, default, read, write))
    missing = {one.name for one in descriptor.fields} - covered
    if missing:
        raise TypeError(f"{type_.__name__} has no {', '.join(sorted(missing))} of {descriptor.full_name}")
    return parts


def _or_none(read: Callable[[Message], Any]) -> Callable[[Message], Any]:
    """A field without presence says nothing by being empty, where the struct knows a better default."""
    return lambda message: read(message) or None


def _accessors(
    descriptor: Descriptor, name: str, hint: Any, covered: set[str]
) -> tuple[Callable[[Message], Any], Callable[[Message, Any], None]]:
    oneof = descriptor.oneofs_by_name.get(name)
    if oneof is not None:
        covered.update(member.name for member in oneof.fields)
        return _oneof(name, {str(one.__struct_config__.tag): one for one in get_args(hint)})
    base = name.removesuffix("_ms")
    field = descriptor.fields_by_name.get(name) or descriptor.fields_by_name.get(base)
    if field is None:
        raise TypeError(f"{descriptor.full_name} has no {name}")
    covered.add(field.name)
    if field.message_type is not None and field.message_type.full_name in _TIMES:
        return _time(field.name)
    inner = _inner(hint)
    if field.is_repeated:
        return _repeated(field, inner)
    if field.message_type is not None:
        return _submessage(field.name, inner)
    if field.enum_type is not None:
        numbers = _numbers(field.enum_type, inner)
        names = {number: member for member, number in numbers.items()}
        return (
            lambda message: names.get(getattr(message, field.name)),
            lambda message, value: setattr(message, field.name, numbers[value]),
        )
    has_presence = field.has_presence
    return (
        lambda message: getattr(message, field.name) if not has_presence or message.HasField(field.name) else None,
        lambda message, value: setattr(message, field.name, value),
    )


def _oneof(
    name: str, types_: Mapping[str, type[msgspec.Struct]]
) -> tuple[Callable[[Message], Any], Callable[[Message, Any], None]]:
    def read(message: Message) -> Any:
        member = message.WhichOneof(name)
        return None if member is None else from_message(getattr(message, member), types_[member])

    def write(message: Message, value: msgspec.Struct) -> None:
        part = getattr(message, str(value.__struct_config__.tag))
        part.SetInParent()
        to_message(value, part)

    return read, write


def _time(name: str) -> tuple[Callable[[Message], Any], Callable[[Message, Any], None]]:
    def read(message: Message) -> int | None:
        # Without the library's check of its range: a time out of all bounds is for the protos' own rules to refuse.
        if not message.HasField(name):
            return None
        part = getattr(message, name)
        return int(part.seconds) * 1_000 + int(part.nanos) // 1_000_000

    return (
        read,
        lambda message, value: getattr(message, name).FromMilliseconds(value),
    )


def _repeated(field: FieldDescriptor, inner: Any) -> tuple[Callable[[Message], Any], Callable[[Message, Any], None]]:
    name = field.name
    if field.message_type is not None:

        def write_messages(message: Message, values: tuple[msgspec.Struct, ...]) -> None:
            for value in values:
                to_message(value, getattr(message, name).add())

        return lambda message: tuple(from_message(one, inner) for one in getattr(message, name)), write_messages
    if field.enum_type is not None:
        numbers = _numbers(field.enum_type, inner)
        names = {number: member for member, number in numbers.items()}
        return (
            lambda message: tuple(names[one] for one in getattr(message, name) if one in names),
            lambda message, values: getattr(message, name).extend([numbers[one] for one in values]),
        )
    return (
        lambda message: tuple(getattr(message, name)),
        lambda message, values: getattr(message, name).extend(values),
    )


def _submessage(
    name: str, type_: type[msgspec.Struct]
) -> tuple[Callable[[Message], Any], Callable[[Message, Any], None]]:
    def write(message: Message, value: msgspec.Struct) -> None:
        part = getattr(message, name)
        part.SetInParent()
        to_message(value, part)

    return lambda message: from_message(getattr(message, name), type_) if message.HasField(name) else None, write


def _inner(hint: Any) -> Any:
    """The type inside of `X | None` and of `tuple[X, ...]`."""
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (one for one in get_args(hint) if one is not types.NoneType)
    if get_origin(hint) is tuple:
        hint = get_args(hint)[0]
    return hint


def _numbers(descriptor: EnumDescriptor, type_: type[StrEnum]) -> Mapping[StrEnum, int]:
    """The number of each member. Both sides have the same members, but for UNSPECIFIED."""
    values = {value.name: value.number for value in descriptor.values if value.number}
    prefix = next(iter(values)).removesuffix(next(iter(type_)).value)
    numbers = {member: values.pop(prefix + member.value) for member in type_}
    if values:
        raise TypeError(f"{type_.__name__} has no {', '.join(values)}")
    return numbers
