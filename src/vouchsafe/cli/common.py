"""What the commands share: options, asking the server, printing, errors."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import ValidationError
from rich.console import Console

from vouchsafe.domain.errors import InvalidRequest, VouchsafeError
from vouchsafe.settings import Settings

if TYPE_CHECKING:
    from vouchsafe.client import Client, ClientError

# Lines are never broken for a pipe or a file, only a terminal has a width.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Target = Annotated[
    str | None, typer.Option(help="host:port of the server; without it, that of the settings.", show_default=False)
]

# Where `vouchsafe dev` keeps its data, its key among them, unless it is told another place.
DEV_DATA = Path(".vouchsafe")
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

Result = TypeVar("Result")


class ExitStatus(IntEnum):
    """What a command ends with (docs/cli.md)."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    NOT_AS_IT_SHOULD_BE = 4


# What to do when a call fails, by its status: one line behind what the server says.
HINTS = {
    "UNAUTHENTICATED": "set VOUCHSAFE_API_KEY; `vouchsafe keys create` makes a key",
    "PERMISSION_DENIED": "ask with a key that has one of those roles; `vouchsafe keys list` says what each has",
    "DEADLINE_EXCEEDED": "whether it was done is not known; look, or do it again, which is safe",
    "UNAVAILABLE": "`vouchsafe status` says what is away",
    "ABORTED": "somebody was quicker; look at it, and do it again if it is still right",
    "INTERNAL": "the server's log has the cause; `vouchsafe status` says how it is",
}
# The same for what is not there, or is there already, by how the server's words begin.
LOOK_HERE = {
    "there is no campaign": "`vouchsafe campaign list --archived` shows all that there are",
    "no campaign has the label": "`vouchsafe campaign list` shows the labels of each",
    "there is no planned change": "`vouchsafe campaign changes` shows all, with their numbers",
    "there is no operation": "`vouchsafe codes operations` shows all that there were",
    "there is no such code": "`vouchsafe codes list --campaign ID` shows those of a campaign",
    "there is a campaign": "take another id; or change that one, with `vouchsafe campaign update` or `apply`",
    "the code": "take another code; `vouchsafe codes get CODE` says whose it is",
}
STORES = {"PostgreSQL": "VOUCHSAFE_POSTGRES_URL", "Valkey": "VOUCHSAFE_VALKEY_URL"}
# What gRPC says when nobody is there.
NOBODY = re.compile(r"failed to connect|errors resolving|Socket closed")


def read_settings() -> Settings:
    """The settings, or exit status 2 with a line for each that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = "_".join(str(part) for part in problem["loc"]).upper()
            err.print(f"error: VOUCHSAFE_{name}: {problem['msg']} (given: {problem['input']!r})", markup=False)
        raise typer.Exit(ExitStatus.USAGE) from None


@contextmanager
def errors() -> Iterator[None]:
    """What goes wrong on purpose is a line on stderr, and another that says what to do if the first does not."""
    try:
        yield
    except InvalidRequest as error:
        err.print(f"error: {error}", markup=False)
        raise typer.Exit(ExitStatus.USAGE) from None
    except VouchsafeError as error:
        err.print(f"error: {error}", markup=False)
        cause = error.__cause__
        if cause is not None and str(cause) not in str(error):
            err.print(f"  {cause}", markup=False)
        for store, variable in STORES.items():
            if str(error).startswith(f"{store} is out of reach"):
                err.print(f"  start it, or correct {variable}", markup=False)
        raise typer.Exit(ExitStatus.FAILED) from None


def ask(target: str | None, question: Callable[[Client], Awaitable[Result]]) -> Result:
    """Asks the server and ends the program with a clear line when it fails."""
    from vouchsafe.client import Client, ClientError

    current = read_settings()
    address = target or f"{current.host}:{current.port}"
    _check_address(address)

    async def run() -> Result:
        key = current.api_key or _dev_key(address)
        async with Client(address, api_key=key, tls_ca_file=current.tls_ca_file or None, channels=1) as client:
            return await question(client)

    try:
        return asyncio.run(run())
    except OSError as error:
        err.print(f"error: VOUCHSAFE_TLS_CA_FILE: {error}", markup=False)
        raise typer.Exit(ExitStatus.USAGE) from None
    except ClientError as error:
        _tell(error, address)
        raise typer.Exit(ExitStatus.FAILED) from None


def _tell(error: ClientError, address: str) -> None:
    """Why a call has failed, and what to do."""
    name = error.code.name
    if name == "UNAVAILABLE" and "andshake" in str(error):
        err.print(f"error: {name}: {error}", markup=False)
        err.print("  VOUCHSAFE_TLS_CA_FILE has to name who signed the server's certificate", markup=False)
        return
    if name == "UNAVAILABLE" and NOBODY.search(str(error)):
        err.print(f"error: {name}: nobody answers at {address}", markup=False)
        err.print(f"  is a server running at {address}? `vouchsafe dev` starts one", markup=False)
        return
    err.print(f"error: {name}" + ("" if error.violations else f": {error}"), markup=False)
    for field, description in error.violations.items():
        err.print(f"  {field}: {description}", markup=False)
    hints = [HINTS[name]] if name in HINTS else []
    if name in ("NOT_FOUND", "ALREADY_EXISTS"):
        hints += [hint for beginning, hint in LOOK_HERE.items() if str(error).startswith(beginning)]
    for hint in hints:
        err.print(f"  {hint}", markup=False)


def _check_address(address: str) -> None:
    port = address.rpartition(":")[2]
    if not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65535 and address != port):
        err.print(f"error: --target {address}: give host:port, for example 127.0.0.1:50051", markup=False)
        raise typer.Exit(ExitStatus.USAGE)


def end_by_ctrl_c() -> None:
    """From now on Ctrl-C ends the program at once, well: for what goes on until then there is nothing to finish, and
    closing calls of gRPC in good order may take its time."""
    signal.signal(signal.SIGINT, _leave)


def _leave(_number: int, _frame: FrameType | None) -> None:
    with suppress(RuntimeError):  # a line is being written just now
        sys.stdout.flush()
    os._exit(0)


def time_text(ms: int) -> str:
    """Milliseconds since 1970 for people."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _dev_key(address: str) -> str:
    """The key that `vouchsafe dev` keeps beside its data here, for a server on this machine and for no other."""
    if address.rpartition(":")[0] not in LOOPBACK or not DEV_DATA.is_dir():
        return ""
    from vouchsafe.local import KEY_FILE

    file = DEV_DATA / KEY_FILE
    return file.read_text() if file.exists() else ""


def instant(option: str, text: str) -> datetime:
    """A moment as ISO 8601 with its offset, or exit status 2 with a line that names the option."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{option} {text} is not an ISO 8601 time such as 2026-11-27T00:00:00+01:00") from None
    if moment.tzinfo is None:
        raise typer.BadParameter(f"{option} {text} has no offset; end it with Z for UTC or, say, +01:00")
    return moment.astimezone(UTC)


def span_ms(option: str, text: str) -> int:
    """A duration as people write it, 90s, 15m, 7d; or exit status 2 with a line that names the option."""
    from vouchsafe.edge.files import duration_ms

    try:
        return duration_ms(text)
    except ValueError as error:
        err.print(f"error: {option}: {error}", markup=False)
        raise typer.Exit(ExitStatus.USAGE) from None


def print_json(value: Any) -> None:
    """A value as JSON on stdout."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def as_dict(message: Any) -> dict[str, Any]:
    """A message in the JSON mapping of protobuf, with the names of the protos; 64-bit numbers are strings there."""
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def print_message(message: Any) -> None:
    """A message as JSON on stdout."""
    print_json(as_dict(message))
