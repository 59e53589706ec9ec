"""Campaign files: YAML in, messages out, and the other way round. `docs/campaigns/README.md` tells the format.

The YAML is read as a tree of texts, so that no text turns into something else: what a field means is for the field to
say (`edge.files`). Anchors, aliases, tags and a second document are refused.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    Event,
    MappingEndEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from vouchsafe.cli.cases import Case, read_cases
from vouchsafe.client import AssignedCode, CampaignDefinition, Customer, Order
from vouchsafe.domain.errors import InvalidRequest, Violation, VouchsafeError
from vouchsafe.edge.files import Tree, campaign_codes, campaign_request, fill, unknown_key

MAX_BYTES = 1_048_576
MAX_DEPTH = 32

PARTS = ("campaign", "draft", "definition", "codes", "tests")
CHECKOUT = ("customer", "order")
CODES = {"shared": "shared_codes", "single_use": "single_use_codes", "assigned": "assigned_codes"}


class BadFile(VouchsafeError):
    """A file that is wrong, with all that is."""

    def __init__(self, path: Path, *violations: Violation) -> None:
        super().__init__(f"{path} is not as it should be")
        self.path = path
        self.violations = violations

    @property
    def lines(self) -> list[str]:
        """What is wrong, a line each, with the file and the place in it."""
        return [": ".join([str(self.path), *filter(None, [one.field]), one.description]) for one in self.violations]


@dataclass(frozen=True)
class CampaignFile:
    """What a file says."""

    path: Path
    campaign_id: str
    is_draft: bool
    definition: CampaignDefinition
    shared_codes: list[str]
    single_use_codes: list[str]
    assigned_codes: list[AssignedCode]
    cases: list[Case]

    @property
    def names_codes(self) -> bool:
        """Whether it has any."""
        return bool(self.shared_codes or self.single_use_codes or self.assigned_codes)


def read(path: Path) -> CampaignFile:
    """Reads a file and judges it as a server would. Raises BadFile with all that is wrong."""
    tree = _mapping(path, PARTS)
    violations = [unknown_key(name, PARTS) for name in tree if name not in PARTS]
    arranged: dict[str, Tree] = {"campaign_id": tree.get("campaign", ""), "definition": tree.get("definition", {})}
    if "draft" in tree:
        arranged["draft"] = tree["draft"]
    codes = tree.get("codes", {})
    if isinstance(codes, dict):
        violations += [unknown_key(f"codes.{name}", CODES) for name in codes if name not in CODES]
        arranged |= {CODES[name]: part for name, part in codes.items() if name in CODES}
    else:
        violations.append(Violation("codes", f"is no mapping; give {', '.join(CODES)}"))
    request, found = campaign_request(arranged)
    violations += [Violation(place(one.field), one.description) for one in found]
    try:
        entries = campaign_codes(request)
    except InvalidRequest:  # told already
        entries = []
    cases, found = read_cases(tree.get("tests", []), request.definition, entries)
    violations += found
    if violations:
        raise BadFile(path, *violations)
    return CampaignFile(
        path,
        request.campaign_id,
        request.draft,
        request.definition,
        list(request.shared_codes),
        list(request.single_use_codes),
        list(request.assigned_codes),
        cases,
    )


def read_checkout(path: Path) -> tuple[Customer, Order]:
    """Reads a file with a customer and an order, in the names of the protos. Raises BadFile with what cannot be read;
    what is missing is for the server to tell."""
    tree = _mapping(path, CHECKOUT)
    violations = [unknown_key(name, CHECKOUT) for name in tree if name not in CHECKOUT]
    customer, order = Customer(), Order()
    violations += fill(customer, tree.get("customer", {}), "customer")
    violations += fill(order, tree.get("order", {}), "order")
    if violations:
        raise BadFile(path, *violations)
    return customer, order


def _mapping(path: Path, keys: Sequence[str]) -> dict[str, Tree]:
    """What a file says, if that is a mapping. Raises BadFile."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadFile(path, Violation("", f"cannot be read: {error.strerror}")) from None
    try:
        tree = read_tree(data)
    except ValueError as error:
        raise BadFile(path, Violation("", str(error))) from None
    if not isinstance(tree, dict):
        raise BadFile(path, Violation("", f"is no mapping; give {', '.join(keys)}"))
    return tree


def place(field: str) -> str:
    """Where a field of a request to create or update a campaign stands in a file."""
    if field == "request":
        return ""
    for name, part in CODES.items():
        field = re.sub(f"^{part}", f"codes.{name}", field)
    return re.sub("^campaign_id", "campaign", field)


# -- YAML --------------------------------------------------------------------------------------------------------------


def read_tree(data: bytes) -> Tree:
    """Reads YAML 1.2. Raises ValueError with what is wrong and where."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"is larger than {MAX_BYTES} bytes")
    try:
        events: Iterator[Event] = iter(_yaml().parse(data.decode("utf-8-sig")))
        next(events)
        document = next(events)
        if isinstance(document, StreamEndEvent):
            return None
        if getattr(document, "version", None):
            raise ValueError("has a %YAML directive; leave it out: the file is read as YAML 1.2")
        tree = _tree(next(events), events, "", 0)
        next(events)
        if not isinstance(next(events), StreamEndEvent):
            raise ValueError("has a second document; give each campaign a file of its own")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (at byte {error.start})") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"is no YAML: {where}{error.problem or error.context}") from None
    except YAMLError as error:
        raise ValueError("is no YAML: " + str(error).replace("\n", " ")) from None
    return tree


def _tree(event: Event, events: Iterator[Event], path: str, depth: int) -> Tree:
    if isinstance(event, AliasEvent) or getattr(event, "anchor", None) or getattr(event, "tag", None):
        raise ValueError(f"{_line(event)}: anchors, aliases and tags are not accepted; write it out")
    if depth > MAX_DEPTH:
        raise ValueError(f"{_line(event)}: is nested more than {MAX_DEPTH} deep")
    if isinstance(event, ScalarEvent):
        return _scalar(event)
    if isinstance(event, SequenceStartEvent):
        parts: list[Tree] = []
        while not isinstance(event := next(events), SequenceEndEvent):
            parts.append(_tree(event, events, f"{path}[{len(parts)}]", depth + 1))
        return parts
    mapping: dict[str, Tree] = {}
    while not isinstance(event := next(events), MappingEndEvent):
        key = _tree(event, events, path, depth + 1)
        if not isinstance(key, str):
            raise ValueError(f"{_line(event)}: a key has to be a name")
        here = f"{path}.{key}" if path else key
        if key in mapping:
            raise ValueError(f"{_line(event)}: {here} is given twice")
        mapping[key] = _tree(next(events), events, here, depth + 1)
    return mapping


def _scalar(event: ScalarEvent) -> str | None:
    value = str(event.value)
    if not event.style and value in ("", "~", "null", "Null", "NULL"):
        return None
    if re.search("[\ud800-\udfff]", value):
        raise ValueError(f"{_line(event)}: half of a surrogate pair is no text")
    return value


def _line(event: Event) -> str:
    return f"line {event.start_mark.line + 1}"


def write_tree(tree: dict[str, Any]) -> str:
    """Writes YAML that `read_tree` reads as the same."""
    stream = io.StringIO()
    _yaml().dump(tree, stream)
    return stream.getvalue()


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # declared as if it were always None
    yaml.width = 1_000_000
    return yaml
