"""Field masks: which fields of a definition a change is about. It lays those over the definition that stands; what a
mask does not name is left as it is, and what it names and the change does not say is cleared.

Paths are those of the protos below CampaignDefinition, as deep as messages go: `end_time`, `limits.total`, `effects`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import protovalidate
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from vouchsafe.domain.campaign import Definition
from vouchsafe.domain.errors import InvalidRequest, Violation
from vouchsafe.edge.convert_campaigns import definition, definition_message, definition_violations
from vouchsafe.edge.paths import field_path
from vouchsafe.v1.definition_pb2 import CampaignDefinition

# A definition with nothing wrong: what a mask does not name is taken from here while the rest is judged.
_SOUND = CampaignDefinition(display_name="sound")
_SOUND.effects.add().percent_off.basis_points = 1

_validator = protovalidate.Validator()


def mask_violations(paths: Iterable[str], field: str) -> list[Violation]:
    """Paths that name no field of a definition."""
    return [
        Violation(field, f"{path[:100]!r} is no field of a definition; give paths such as end_time and limits.total")
        for path in paths
        if path not in PATHS
    ]


def complete(message: CampaignDefinition, paths: Sequence[str]) -> None:
    """Keeps of a definition what the paths name and makes the rest sound, so that it can be judged as a whole. Without
    paths it stays as it is."""
    if paths:
        whole = CampaignDefinition()
        whole.CopyFrom(_SOUND)
        _lay_over(whole, message, paths)
        message.CopyFrom(whole)


def merged(current: Definition, given: Definition, paths: Sequence[str]) -> Definition:
    """The definition with what the paths name of another in it; without paths it is the other one. Raises
    InvalidRequest, with paths of fields in `definition`, when that is not sound."""
    message = definition_message(current if paths else given)
    _lay_over(message, definition_message(given), paths)
    violations = [
        Violation(f"definition.{field_path(one.proto.field)}", one.proto.message or one.proto.rule_id)
        for one in _validator.collect_violations(message)
    ]
    violations += definition_violations(message)
    if violations:
        raise InvalidRequest(*violations)
    return definition(message)


def _lay_over(target: Message, source: Message, paths: Iterable[str]) -> None:
    for path in paths:
        to, given = target, source
        *parents, name = path.split(".")
        for parent in parents:
            to, given = getattr(to, parent), getattr(given, parent)
        to.ClearField(name)
        field = to.DESCRIPTOR.fields_by_name[name]
        if field.is_repeated:
            getattr(to, name).MergeFrom(getattr(given, name))
        elif field.has_presence and not given.HasField(name):
            continue
        elif field.message_type is not None:
            getattr(to, name).CopyFrom(getattr(given, name))
        else:
            setattr(to, name, getattr(given, name))


def _all_paths(descriptor: Descriptor, above: str = "") -> Iterator[str]:
    for field in descriptor.fields:
        yield above + field.name
        inner = field.message_type
        if inner is not None and not field.is_repeated and not inner.full_name.startswith("google.protobuf."):
            yield from _all_paths(inner, f"{above}{field.name}.")


# Every path that a mask may have.
PATHS = frozenset(_all_paths(CampaignDefinition.DESCRIPTOR))
