"""Tokens that lead to the next page of a listing: where the last one ended."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any

from vouchsafe.domain.errors import InvalidRequest, Violation

# A time that the ledger can hold, up to the year 2200.
MAX_TIME_MS = 7_258_118_400_000
# A number that the ledger can hold.
MAX_NUMBER = 2**63


def encode_token(key: object) -> str:
    """The token for a place, empty for None."""
    return "" if key is None else base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


def decode_time_and_id(token: str, id_pattern: str) -> tuple[int, str]:
    """Reads the token of a time in milliseconds and an id. Raises InvalidRequest."""
    try:
        time_ms, id_ = _decode(token)
        if not 0 <= int(time_ms) < MAX_TIME_MS or not re.fullmatch(id_pattern, id_):
            raise ValueError
    except (ValueError, TypeError, OverflowError, binascii.Error):
        raise _no_token() from None
    return int(time_ms), id_


def decode_text(token: str, pattern: str) -> str:
    """Reads the token of a text. Raises InvalidRequest."""
    try:
        text = _decode(token)
        if not re.fullmatch(pattern, text):
            raise ValueError
    except (ValueError, TypeError, binascii.Error):
        raise _no_token() from None
    return str(text)


def decode_number(token: str) -> int:
    """Reads the token of a number. Raises InvalidRequest."""
    try:
        number = _decode(token)
        if not isinstance(number, int) or not 0 < number < MAX_NUMBER:
            raise ValueError
    except (ValueError, binascii.Error):
        raise _no_token() from None
    return number


def _decode(token: str) -> Any:
    return json.loads(base64.b64decode(token, altchars=b"-_", validate=True))


def _no_token() -> InvalidRequest:
    return InvalidRequest(Violation("page_token", "is not one; give next_page_token of the answer before, or nothing"))
