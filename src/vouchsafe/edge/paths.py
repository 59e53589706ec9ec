"""How a field of a message is written for people."""

from __future__ import annotations

from typing import Any


def field_path(path: Any) -> str:
    """A violated field as it is written in the protos, for example `order.lines[3].quantity`."""
    text = ""
    for element in path.elements if path else ():
        text += f".{element.field_name}" if text else element.field_name
        match element.subscript:
            case None:
                pass
            case subscript:
                text += f"[{subscript.value!r}]"
    return text or "request"
