"""`vouchsafe keys`: the API keys of callers. They stand in PostgreSQL, so these commands need no server."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from vouchsafe.cli.common import Json, errors, out, print_json, read_settings, span_ms
from vouchsafe.cli.tables import print_rows
from vouchsafe.domain.access import Role

if TYPE_CHECKING:
    from vouchsafe.domain.access import ApiKey

app = typer.Typer(help="Create, list and revoke the API keys of callers.", no_args_is_help=True)


@app.command("create")
def keys_create(
    name: Annotated[
        str, typer.Argument(help="Who the caller is. Keys of one name are one caller.", show_default=False)
    ],
    role: Annotated[
        list[Role], typer.Option(help="What the caller may do (docs/access.md); may be repeated.", show_default=False)
    ],
    expires_in: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="How long it is good for, 90d say; without it, until it is revoked."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Create a key and print it. It is shown this once: what is kept of it cannot be turned into the key again."""
    expire_time_ms = None
    if expires_in is not None:
        expire_time_ms = time.time_ns() // 1_000_000 + span_ms("--expires-in", expires_in)
    with errors():
        from vouchsafe.app import create_key

        key = asyncio.run(create_key(read_settings(), name, role, expire_time_ms))
    if as_json:
        print_json({"key": key})
    else:
        out.print(key, markup=False)


@app.command("list")
def keys_list(as_json: Json = False) -> None:
    """List all keys, revoked ones too, oldest first. Secrets are not shown: nobody has them."""
    with errors():
        from vouchsafe.app import list_keys

        keys = asyncio.run(list_keys(read_settings()))
    if as_json:
        print_json(
            [
                {
                    "id": key.id,
                    "name": key.name,
                    "roles": sorted(key.roles),
                    "create_time": _time(key.create_time_ms),
                    "expire_time": _time(key.expire_time_ms),
                    "revoke_time": _time(key.revoke_time_ms),
                }
                for key in keys
            ]
        )
        return
    rows = [
        {
            "id": key.id,
            "name": key.name,
            "roles": ", ".join(sorted(key.roles)),
            "created": _time(key.create_time_ms) or "",
            "state": _state(key),
        }
        for key in keys
    ]
    if rows:
        print_rows(rows)
    else:
        out.print("no keys yet; create one with `vouchsafe keys create`")


@app.command("revoke")
def keys_revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id, as `vouchsafe keys list` shows it.", show_default=False)],
) -> None:
    """End a key, for good. Within about a second no server that reaches PostgreSQL lets it in."""
    with errors():
        from vouchsafe.app import revoke_key

        asyncio.run(revoke_key(read_settings(), key_id))
    out.print(f"revoked {key_id}", markup=False)


def _state(key: ApiKey) -> str:
    if key.revoke_time_ms is not None:
        return f"revoked {_time(key.revoke_time_ms)}"
    if key.expire_time_ms is None:
        return "good"
    return f"{'expired' if key.expire_time_ms <= time.time() * 1000 else 'good until'} {_time(key.expire_time_ms)}"


def _time(ms: int | None) -> str | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
