"""The rule of a campaign in words of its own: one boolean expression in CEL over `customer`, `order` and `now`.

The language is that of https://github.com/google/cel-spec (doc/langdef.md) with its standard functions, but for what
has no bound on its cost. Refused are: loops more than two deep; the macro `map`; adding up strings, bytes or lists;
`==` and `in` between anything but single values; values whose type is only known when they are read; `matches` in a
loop; and regular expressions and time zones that are not written out. What is left is bounded by the length of the
text, by 32 levels of nesting and by 10,000 steps of all loops together, of which the library keeps the last two. The
slowest expression found takes 0.3 s on an order of 200 lines with 32 categories each; usual ones take microseconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

from cel_expr_python import cel  # type: ignore[import-untyped]
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from vouchsafe.domain.order import Customer, Order

MAX_LENGTH = 1_000
MAX_DEPTH = 2
MAX_PATTERN = 100
_MAX_REASON = 300

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ERROR = re.compile(
    r"^(?:[A-Z_]+: )?ERROR: <input>:(-?\d+):(-?\d+): (.*?)(?: \(in container ''\))?(?: \[\w+\])?$", re.MULTILINE
)
_STATUS = re.compile(r"^[A-Z_]+: (.*?)(?: \[[A-Z_]+\])?$", re.DOTALL)
_MISSING = re.compile(r'NOT_FOUND: Key not found in map : "?(.*?)"?', re.DOTALL)
_ZONE = re.compile(r"(?!localtime)[A-Za-z][\w+-]*(/[\w+-]+)*|[+-]?\d\d:\d\d", re.ASCII)  # no other file

_TYPES = {
    "string": FieldDescriptorProto.TYPE_STRING,
    "int64": FieldDescriptorProto.TYPE_INT64,
    "message": FieldDescriptorProto.TYPE_MESSAGE,
}
_FACTS = {
    "Customer": "id:string email:string segments:string* country_code:string region_code:string"
    " attributes:Customer.AttributesEntry* order_count:int64",
    "Customer.AttributesEntry": "key:string value:string",
    "Order": "id:string currency_code:string channel:string metadata:Order.MetadataEntry* amount_minor:int64"
    " quantity:int64 shipping_minor:int64 lines:OrderLine*",
    "Order.MetadataEntry": "key:string value:string",
    "OrderLine": "sku:string product_id:string categories:string* quantity:int64 unit_price_minor:int64",
}
# What is read of a compiled expression: https://github.com/google/cel-spec/blob/master/proto/cel/expr/checked.proto
_TREE = {
    "Any": "value=2:Checked",
    "Checked": "types=3:TypeOf* expr=4:Expr source=5:Source",
    "TypeOf": "key=1:int64 value=2:Type",
    "Type": "dyn=1:Nothing list=6:Nothing",
    "Nothing": "",
    "Source": "positions=4:Position*",
    "Position": "key=1:int64 value=2:int64",
    "Expr": "id=2:int64 const=3:Constant ident=4:Ident select=5:Select call=6:Call list=7:List struct=8:Struct"
    " loop=9:Loop",
    "Constant": "string=6:string",
    "Ident": "name=1:string",
    "Select": "operand=1:Expr",
    "Call": "target=1:Expr function=2:string args=3:Expr*",
    "List": "elements=1:Expr*",
    "Struct": "message=1:string entries=2:Item*",
    "Item": "key=3:Expr value=4:Expr",
    "Loop": "range=2:Expr init=4:Expr condition=5:Expr step=6:Expr result=7:Expr",
}

_NAMES = {kind: re.findall(r"(\w+):", fields) for kind, fields in _FACTS.items()}


def _pool(package: str, messages: Mapping[str, str]) -> DescriptorPool:
    """Descriptors of messages with fields given as `name[=number]:type[*]`; an inner one is the entry of a map."""
    file = FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto2")
    made: dict[str, Any] = {}
    for path, fields in messages.items():
        parent, _, name = path.rpartition(".")
        made[path] = message = made[parent].nested_type.add(name=name) if parent else file.message_type.add(name=name)
        message.options.map_entry = bool(parent)
        for number, field in enumerate(fields.split(), start=1):
            head, _, kind = field.partition(":")
            name, _, given = head.partition("=")
            scalar = _TYPES.get(kind.rstrip("*"))
            message.field.add(
                name=name,
                number=int(given or number),
                label=FieldDescriptorProto.LABEL_REPEATED
                if kind.endswith("*")
                else FieldDescriptorProto.LABEL_OPTIONAL,
                type=scalar or FieldDescriptorProto.TYPE_MESSAGE,
                type_name=None if scalar else f".{package}.{kind.rstrip('*')}",
            )
    pool = DescriptorPool()
    pool.Add(file)
    return pool


def _environments() -> tuple[cel.Env, cel.Env, cel.Env]:
    """What checks the types, what evaluates, and the latter without `now`."""
    of = cel.Type
    single = (of.BOOL, of.INT, of.UINT, of.DOUBLE, of.STRING, of.BYTES, of.TIMESTAMP, of.DURATION)
    # The comparison of the library takes lists of lists too, and time exponential in the length of the text with them.
    config = """{stdlib: {exclude_macros: [map], exclude_functions: [
        {name: _+_, overloads: [{id: add_string}, {id: add_bytes}]},
        {name: _==_}, {name: _!=_}, {name: '@in'}, {name: dyn}]}}"""
    functions = [
        cel.FunctionDecl(name, [cel.Overload(f"{name}{n}", of.BOOL, pair) for n, pair in enumerate(pairs)])
        for name, pairs in (
            ("_==_", [[t, t] for t in single]),
            ("_!=_", [[t, t] for t in single]),
            ("@in", [[t, of.List(t)] for t in single] + [[t, of.Map(t, of.DYN)] for t in (of.STRING, of.INT)]),
        )
    ]
    facts = _pool("vouchsafe.rules", _FACTS)
    customer, order = of("vouchsafe.rules.Customer"), of("vouchsafe.rules.Order")
    typed = {"customer": customer, "order": order, "now": of.TIMESTAMP}
    # A message has a default for what was not sent; of a map the evaluation can tell that it is not there.
    timeless = {"customer": of.Map(of.STRING, of.DYN), "order": of.Map(of.STRING, of.DYN)}
    return (
        cel.NewEnv(facts, config=cel.NewEnvConfigFromYaml(config), variables=typed, functions=functions),
        cel.NewEnv(variables={**timeless, "now": of.TIMESTAMP}),
        cel.NewEnv(variables=timeless),
    )


_TYPED, _DYNAMIC, _TIMELESS = _environments()
_Checked: Any = GetMessageClass(_pool("vouchsafe.tree", _TREE).FindMessageTypeByName("vouchsafe.tree.Any"))
_PROBES = {
    "pattern": _DYNAMIC.compile("''.matches(customer.text)"),
    "zone": _DYNAMIC.compile("timestamp(0).getHours(customer.text)"),
}


def _objections(node: Any, types: Mapping[int, Any], depth: int = 0) -> Iterator[tuple[int, str]]:
    """What the rules at the head of this module have against a checked expression: the id of a node, and why."""
    if not node.id:  # a part that this kind of node does not have
        return
    if node.id not in types or types[node.id].HasField("dyn"):
        yield node.id, "the type of this is only known when it is read; do not mix types in a list or map"
        return
    if node.struct.message:
        yield node.id, "messages cannot be built"
    if node.HasField("call"):
        yield from ((node.id, why) for why in _objections_to_call(node, types, depth))
    inner = depth + node.HasField("loop")
    if inner > MAX_DEPTH:
        yield node.id, f"loops are nested more than {MAX_DEPTH} deep"
        return
    entries = [part for entry in node.struct.entries for part in (entry.key, entry.value)]
    for part in (node.select.operand, node.call.target, *node.call.args, *node.list.elements, *entries):
        yield from _objections(part, types, depth)
    for part in (node.loop.range, node.loop.init):
        yield from _objections(part, types, depth)
    for part in (node.loop.condition, node.loop.step, node.loop.result):
        yield from _objections(part, types, inner)


def _objections_to_call(node: Any, types: Mapping[int, Any], depth: int) -> Iterator[str]:
    function, arguments = node.call.function, node.call.args
    # The macro `filter` adds up lists too, in a variable whose name cannot be written.
    if function == "_+_" and types[node.id].HasField("list") and arguments[0].ident.name != "@result":
        yield "lists cannot be added up"
    if function == "matches":
        pattern = arguments[-1].const
        if depth:
            yield "matches() cannot stand in a loop"
        if not pattern.HasField("string"):
            yield "the regular expression of matches() has to be written out"
        elif len(pattern.string) > MAX_PATTERN or re.search(r"\\[pP]|[)*+?}]{", pattern.string):
            yield f"a regular expression has at most {MAX_PATTERN} characters, no \\p and no count after a group"
        elif not _works("pattern", pattern.string):
            yield "this regular expression is none, or too large"
    if function.startswith("get") and arguments:
        zone = arguments[0].const.string
        if not _ZONE.fullmatch(zone) or not _works("zone", zone):
            yield "the time zone has to be written out, and be one of the IANA database or like +02:00"


def _works(probe: str, text: str) -> bool:
    return bool(_PROBES[probe].eval(data={"customer": {"text": text}}).type() != cel.Type.ERROR)


def check(text: str) -> list[str]:
    """What is wrong with the expression, each with its line and column where there is one; empty when it is fine.

    Never raises. At most five problems are told.
    """
    if not text.strip():
        return ["the expression is empty"]
    if len(text) > MAX_LENGTH:
        return [f"the expression has {len(text)} characters; at most {MAX_LENGTH} are accepted"]
    if re.search(r"[\x00\ud800-\udfff]", text):  # the library would cut the text, or raise
        return ["the expression has a character that is no text: NUL or half of a surrogate pair"]
    try:
        compiled = _TYPED.compile(text)
        checked = _Checked.FromString(compiled.serialize()).value
        types = {entry.key: entry.value for entry in checked.types}
        offsets = {entry.key: entry.value for entry in checked.source.positions}
        problems = [f"{_place(text, offsets.get(at, 0))}: {why}" for at, why in _objections(checked.expr, types)]
        if compiled.return_type() != cel.Type.BOOL:
            problems.append(f"the expression is of type {compiled.return_type().name()}; it has to be a bool")
        if not problems:
            _DYNAMIC.compile(text)
    except (RuntimeError, ValueError, DecodeError) as error:
        problems = _told(str(error))
    return [problem[:_MAX_REASON] for problem in dict.fromkeys(problems)][:5]


def _place(text: str, offset: int) -> str:
    before = text[:offset]
    return f"line {before.count(chr(10)) + 1}, column {offset - before.rfind(chr(10))}"


def _told(error: str) -> list[str]:
    """The problems in an error of the compiler, which quotes the text below each."""
    return [
        why if int(line) < 1 else f"line {line}, column {column}: {why}" for line, column, why in _ERROR.findall(error)
    ] or [_reason(error)]


def _reason(error: str) -> str:
    return _STATUS.sub(r"\1", error)[:_MAX_REASON]


class Outcome(Enum):
    """What came of evaluating an expression."""

    HOLDS = "HOLDS"
    FAILS = "FAILS"
    MISSING = "MISSING"
    """It depends on data that the caller did not send, or on a key that a map does not have."""
    ERROR = "ERROR"
    """It has no value: division by zero, overflow, a time that is none, too many steps."""


class Expression:
    """A compiled expression. Raises ValueError with the first problem that `check` finds.

    `uses_now` says whether it reads the time: if not, it comes out the same at any.
    """

    def __init__(self, text: str) -> None:
        if problems := check(text):
            raise ValueError(problems[0])
        try:
            self._compiled = _TIMELESS.compile(text)
            self.uses_now = False
        except RuntimeError:
            self._compiled = _DYNAMIC.compile(text)
            self.uses_now = True
        # The library takes over all of a map that it is given: an order of many lines for the sake of its amount.
        self._customer = [name for name in _NAMES["Customer"] if name in text]
        self._order = [name for name in _NAMES["Order"] if name in text]

    def evaluate(self, customer: Mapping[str, Any], order: Mapping[str, Any], now_ms: int) -> tuple[Outcome, str]:
        """What comes of it for the `facts` at a time in milliseconds since 1970, and the key that was MISSING or why
        it is an ERROR. Never raises.
        """
        try:
            data: dict[str, Any] = {
                "customer": {name: customer[name] for name in self._customer if name in customer},
                "order": {name: order[name] for name in self._order if name in order},
            }
            if self.uses_now:
                data["now"] = _EPOCH + timedelta(milliseconds=now_ms)
            value = self._compiled.eval(data=data).value()
        except (RuntimeError, TypeError, ValueError, OverflowError) as error:
            return Outcome.ERROR, _reason(str(error))
        if value is True:
            return Outcome.HOLDS, ""
        if value is False:
            return Outcome.FAILS, ""
        if missing := _MISSING.fullmatch(str(value)):
            return Outcome.MISSING, missing[1][:_MAX_REASON]
        return Outcome.ERROR, _reason(str(value))


def facts(customer: Customer, order: Order) -> tuple[dict[str, Any], dict[str, Any]]:
    """What expressions read of the two. Strings that are empty and an unknown `order_count` are left out."""
    lines = [_sent("OrderLine", line) for line in order.lines]
    return _sent("Customer", customer), {**_sent("Order", order), "lines": lines}


def _sent(kind: str, source: object) -> dict[str, Any]:
    values = ((name, getattr(source, name)) for name in _NAMES[kind])
    return {name: _plain(value) for name, value in values if value is not None and value != ""}


def _plain(value: Any) -> Any:
    """The library takes lists and dicts, and nothing that is like them."""
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value
