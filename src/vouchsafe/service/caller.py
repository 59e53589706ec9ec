"""Who asks, for those who note it down."""

from __future__ import annotations

import getpass
import os
import uuid
from contextvars import ContextVar

from vouchsafe.domain.access import Principal
from vouchsafe.domain.trail import Author

# Set for each call before it is carried out; tasks that a call starts inherit it. Not set where nobody calls.
caller: ContextVar[Principal] = ContextVar("caller")


def author() -> Author:
    """The caller, as the author of one action; where nobody calls it is the service itself."""
    principal = caller.get(None)
    return service_author("service") if principal is None else _author(principal.name)


def service_author(part: str) -> Author:
    """A part of the service that acts by itself, as the author of one action."""
    return _author(f"vouchsafe:{part}")


def local_author() -> Author:
    """Who has started this process, as the author of one action: for what is done without a server."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # in a container it may have no name
        name = str(os.getuid())
    return _author(f"local:{name}")


def _author(principal: str) -> Author:
    return Author(principal, uuid.uuid4().hex)
