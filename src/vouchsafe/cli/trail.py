"""`vouchsafe trail`: what operators did; and the proof that it is all there, for `vouchsafe audit --verify`."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Mapping
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vouchsafe.cli.common import (
    ExitStatus,
    Json,
    Target,
    as_dict,
    ask,
    end_by_ctrl_c,
    errors,
    out,
    print_json,
    read_settings,
    span_ms,
)
from vouchsafe.cli.tables import print_rows, progress_bar

if TYPE_CHECKING:
    from vouchsafe.client import AuditEvent, AuditEventFilter, Client

POLL_S = 1.0
# Of what an action has changed, so much is shown in a table.
CHANGES_SHOWN = 4

app = typer.Typer()


@app.command("trail")
def trail(
    principal: Annotated[str, typer.Option(help="Only what this principal did.", show_default=False)] = "",
    action: Annotated[str, typer.Option(help="Only this: campaign.pause, say.", show_default=False)] = "",
    on: Annotated[
        str,
        typer.Option(
            "--on",
            metavar="TARGET",
            help="Only on this: campaign:ID, code:CODE, kill_switch:SCOPE, key:ID or codes.",
            show_default=False,
        ),
    ] = "",
    since: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Only of the last 2h, 7d, …", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="No more than so many.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what is done from now on.")] = False,
    target: Target = None,
    as_json: Json = False,
) -> None:
    """Show who did what, when and why, newest first; with --follow the newest last, an object a line with --json."""
    from vouchsafe.client import AuditEventFilter

    wanted = AuditEventFilter(principal=principal, action=action, target=on)
    if since is not None:
        begin = datetime.now(UTC) - timedelta(milliseconds=span_ms("--since", since))
        wanted.start_time.FromDatetime(begin)
    if follow:
        end_by_ctrl_c()
        ask(target, lambda client: _follow(client, wanted, limit, as_json))
        return
    found = ask(target, lambda client: _newest(client, wanted, limit))
    if as_json:
        print_json([_as_object(event) for event in found])
    elif found:
        _print_table(found)
    else:
        out.print("nothing was done")


async def _newest(client: Client, wanted: AuditEventFilter, limit: int, behind: int = 0) -> list[AuditEvent]:
    """At most so many, newest first, with numbers behind that one."""
    found: list[AuditEvent] = []
    async with aclosing(client.list_audit_events(wanted, page_size=min(limit, 500))) as events:
        async for event in events:
            if event.number <= behind or len(found) == limit:
                break
            found.append(event)
    return found


async def _follow(client: Client, wanted: AuditEventFilter, limit: int, as_json: bool) -> None:
    behind = 0
    while True:
        found = (await _newest(client, wanted, limit if not behind else sys.maxsize, behind))[::-1]
        if found and as_json:
            for event in found:
                sys.stdout.write(json.dumps(_as_object(event)) + "\n")
            sys.stdout.flush()
        elif found:
            _print_table(found)
        behind = found[-1].number if found else behind
        await asyncio.sleep(POLL_S)


def _as_object(event: AuditEvent) -> dict[str, Any]:
    told = as_dict(event)
    for name in ("before", "after"):
        told[name] = json.loads(told.pop(f"{name}_json"))
    return told


def _print_table(events: list[AuditEvent]) -> None:
    rows = [
        {
            "": f"{event.number}",
            "time": event.action_time.ToJsonString(),
            "who": event.principal,
            "action": event.action,
            "on": event.target,
            "change": _change_text(json.loads(event.before_json), json.loads(event.after_json)),
            "reason": event.reason,
        }
        for event in events
    ]
    print_rows(rows, right=("",))


def _change_text(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What was changed, "state: active → paused"; the first of it, where it is much."""
    texts = []
    for path in dict.fromkeys((*before, *after)):
        old, new = (_value_text(side.get(path)) for side in (before, after))
        texts.append(f"{path}: {old} → {new}" if path in before else f"{path}: {new}")
    left_out = len(texts) - CHANGES_SHOWN
    return ", ".join([*texts[:CHANGES_SHOWN], *([f"… {left_out} more"] if left_out > 0 else [])])


def _value_text(value: Any) -> str:
    if value is None:
        return "nothing"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


# -- the chain ---------------------------------------------------------------------------------------------------------


def verify_trail(expect_head: str | None, as_json: bool) -> None:
    """Walks the chain; exit status 1 when it is not whole."""
    if expect_head is not None and not re.fullmatch("[0-9a-f]{64}", expect_head):
        raise typer.BadParameter(f"--expect-head {expect_head}: has to be 64 hex digits, as --verify prints them")
    with errors():
        from vouchsafe.app import check_trail

        expected = None if expect_head is None else bytes.fromhex(expect_head)
        with progress_bar() as progress:
            task = progress.add_task("rows", total=None)
            found = asyncio.run(
                check_trail(
                    read_settings(), expected, lambda done, total: progress.update(task, completed=done, total=total)
                )
            )
    rows = f"{found.rows:,} row" + ("" if found.rows == 1 else "s")
    if as_json:
        print_json(
            {
                "whole": found.broken is None,
                "rows": found.rows,
                "head": found.head.hex(),
                "broken": found.broken,
                "expected_row": found.expected_row,
            }
        )
    elif found.broken is None:
        since = "" if found.expected_row is None else f", {found.rows - found.expected_row:,} since the expected head"
        out.print(f"{rows}, chain whole{since}, head {found.head.hex()}")
    else:
        out.print(f"[red]the chain is broken: {found.broken}[/red]; {rows} before that hold together")
    if found.broken is not None:
        raise typer.Exit(ExitStatus.FAILED)
