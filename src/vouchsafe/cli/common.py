"""What the commands share: options, asking the server, printing, errors."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import ValidationError
from rich.console import Console

from vouchsafe.domain.errors import VouchsafeError
from vouchsafe.settings import Settings

if TYPE_CHECKING:
    from vouchsafe.client import Client

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


def read_settings() -> Settings:
    """The settings, or exit status 2 with a line for each that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = "_".join(str(part) for part in problem["loc"]).upper()
            err.print(f"error: VOUCHSAFE_{name}: {problem['msg']} (given: {problem['input']!r})", markup=False)
        raise typer.Exit(2) from None


@contextmanager
def errors() -> Iterator[None]:
    """What goes wrong on purpose is one line on stderr and exit status 1."""
    try:
        yield
    except VouchsafeError as error:
        err.print(f"error: {error}", markup=False)
        if error.__cause__ is not None:
            err.print(f"  {error.__cause__}", markup=False)
        raise typer.Exit(1) from None


def ask(target: str | None, question: Callable[[Client], Awaitable[Result]]) -> Result:
    """Asks the server and ends the program with a clear line when it fails."""
    from vouchsafe.client import Client, ClientError

    current = read_settings()
    address = target or f"{current.host}:{current.port}"

    async def run() -> Result:
        key = current.api_key or _dev_key(address)
        async with Client(address, api_key=key, tls_ca_file=current.tls_ca_file or None, channels=1) as client:
            return await question(client)

    try:
        return asyncio.run(run())
    except OSError as error:
        err.print(f"error: VOUCHSAFE_TLS_CA_FILE: {error}", markup=False)
        raise typer.Exit(2) from None
    except ClientError as error:
        err.print(f"error: {error.code.name}" + ("" if error.violations else f": {error}"), markup=False)
        for field, description in error.violations.items():
            err.print(f"  {field}: {description}", markup=False)
        if error.code.name == "UNAVAILABLE":
            err.print(f"  is a server running at {address}? `vouchsafe dev` starts one", markup=False)
        if error.code.name == "UNAUTHENTICATED":
            err.print("  set VOUCHSAFE_API_KEY; `vouchsafe keys create` makes a key", markup=False)
        raise typer.Exit(1) from None


def time_text(ms: int) -> str:
    """Milliseconds since 1970 for people."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def instant(option: str, text: str) -> datetime:
    """A moment in UTC; or exit status 2 with what a moment looks like."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{option} {text} is not an ISO 8601 time such as 2026-11-27T00:00:00+01:00") from None
    if moment.tzinfo is None:
        raise typer.BadParameter(f"{option} {text} has no offset; end it with Z for UTC or, say, +01:00")
    return moment.astimezone(UTC).replace(tzinfo=None)


def _dev_key(address: str) -> str:
    """The key that `vouchsafe dev` keeps beside its data here, for a server on this machine and for no other."""
    if address.rpartition(":")[0] not in LOOPBACK or not DEV_DATA.is_dir():
        return ""
    from vouchsafe.local import KEY_FILE

    file = DEV_DATA / KEY_FILE
    return file.read_text() if file.exists() else ""


def span_ms(option: str, text: str) -> int:
    """A duration as people write it, 90s, 15m, 7d; or exit status 2 with a line that names the option."""
    from vouchsafe.edge.files import duration_ms

    try:
        return duration_ms(text)
    except ValueError as error:
        err.print(f"error: {option}: {error}", markup=False)
        raise typer.Exit(2) from None


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
