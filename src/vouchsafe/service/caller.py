"""Who asks, for those who note it down."""

from __future__ import annotations

from contextvars import ContextVar

from vouchsafe.domain.access import Principal

# Set for each call before it is carried out; tasks that a call starts inherit it. Not set where nobody calls.
caller: ContextVar[Principal] = ContextVar("caller")
