"""One enum of reasons: Lua, Python, the protos and the docs say the same."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from vouchsafe.domain.reasons import MESSAGES, Reason
from vouchsafe.v1.refusal_pb2 import RefusalReason

README = Path(__file__).parents[2] / "README.md"
# What the gate finds out itself. The rest is judged in Python, or comes with the takes that are too many.
IN_LUA = {
    Reason.ORDER_ALREADY_REDEEMED,
    Reason.KILL_SWITCH_ENGAGED,
    Reason.CODE_DISABLED,
    Reason.CAMPAIGN_PAUSED,
    Reason.CAMPAIGN_NOT_STARTED,
    Reason.CAMPAIGN_ENDED,
}


def test_the_protos_have_the_same_reasons() -> None:
    in_protos = {name.removeprefix("REFUSAL_REASON_"): number for name, number in RefusalReason.items()}
    assert in_protos.pop("UNSPECIFIED") == 0
    assert in_protos == {reason.name: reason.value for reason in Reason}


def test_lua_has_the_same_reasons() -> None:
    source = (resources.files("vouchsafe.gate") / "functions" / "common.lua").read_text()
    (table,) = re.findall(r"local REASON = \{(.*?)\n\}", source, re.DOTALL)
    in_lua = {name: int(number) for name, number in re.findall(r"(\w+) = (\d+),", table)}
    assert in_lua == {reason.name: reason.value for reason in IN_LUA}


def test_the_docs_list_the_reasons_in_order_of_precedence() -> None:
    (table,) = re.findall(r"^\| reason .*?\n\n", README.read_text(), re.MULTILINE | re.DOTALL)
    listed = re.findall(r"^\| `([A-Z_]+)`", table, re.MULTILINE)
    assert listed == [reason.name for reason in sorted(Reason)]


def test_every_reason_has_a_message() -> None:
    assert set(MESSAGES) == set(Reason)
