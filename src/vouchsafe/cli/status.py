"""`vouchsafe status` and `vouchsafe recover`: how the stores are, and making them whole."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from vouchsafe.cli.common import ExitStatus, Json, errors, out, print_json, read_settings, time_text
from vouchsafe.cli.tables import progress_bar

if TYPE_CHECKING:
    from vouchsafe.domain.audit import LastAudit
    from vouchsafe.ledger.recoveries import RecoveryNoted
    from vouchsafe.service.status import Status


app = typer.Typer()


@app.command()
def status(as_json: Json = False) -> None:
    """Say which partitions decide redemptions, what waits for PostgreSQL, and what was recovered last.

    Exit status 0 when all partitions are open, 4 when some are not, 1 when it could not be found out.
    """
    with errors():
        from vouchsafe.app import status as look

        found = asyncio.run(look(read_settings()))
    _finish(found, as_json)


@app.command()
def recover(as_json: Json = False) -> None:
    """Open the partitions that Valkey has lost or not verified yet, rebuilt from PostgreSQL where needed.

    The persister does so by itself; this shows how far it is, or does it where none runs. Exit status as of status.
    """
    with errors():
        from vouchsafe.app import recover as run

        settings = read_settings()
        with progress_bar() as progress:
            task = progress.add_task("events", total=None)

            def advance(read: int, of: int) -> None:
                progress.update(task, completed=read, total=of)

            found = asyncio.run(run(settings, advance))
    _finish(found, as_json)


def _finish(found: Status, as_json: bool) -> None:
    if as_json:
        values = asdict(found)
        print_json({"all_open": not found.closed, **values})
    else:
        _show(found)
    if found.closed:
        raise typer.Exit(ExitStatus.NOT_AS_IT_SHOULD_BE)


def _show(found: Status) -> None:
    from vouchsafe.domain.partitions import Finding
    from vouchsafe.service.recover import WHAT_TO_DO

    total = len(found.partitions)
    out.print(f"installation  {found.installation}")
    if found.closed:
        out.print(f"partitions    [red]{len(found.closed)} of {total} closed[/red]")
    else:
        out.print(f"partitions    all {total} open")
    for finding in dict.fromkeys(one.found for one in found.closed):
        numbers = ", ".join(str(one.partition) for one in found.closed if one.found is finding)
        out.print(f"  {numbers}: {finding}", highlight=False)
        if finding in WHAT_TO_DO:
            out.print(f"    {WHAT_TO_DO[finding]}")
    waiting = f"{found.waiting_events:,} events, the first for {found.lag_ms / 1000:.1f} s"
    unknown = any(one.found is Finding.OUT_OF_REACH for one in found.partitions)
    empty = "empty as far as it is within reach" if unknown else "empty: PostgreSQL holds everything"
    out.print(f"outbox        {waiting if found.waiting_events else empty}")
    if found.set_aside:
        out.print(f"set aside     [red]{found.set_aside:,}[/red]; `vouchsafe audit` names them")
    out.print(f"recovered     {_recovery(found.recovery)}")
    out.print(f"audited       {_audit(found.audit)}")


def _audit(last: LastAudit | None) -> str:
    if last is None:
        return "never"
    if last.agrees:
        return f"{time_text(last.end_time_ms)}, all agree"
    return f"{time_text(last.end_time_ms)}, [red]not all agree[/red]; `vouchsafe audit` says what does not"


def _recovery(noted: RecoveryNoted | None) -> str:
    if noted is None:
        return "never"
    partitions = f"{len(noted.partitions)} partition{'' if len(noted.partitions) == 1 else 's'}"
    text = f"{time_text(noted.begin_time_ms)}, {partitions}, found {noted.finding}"
    if noted.events is not None:
        text += f"; {noted.events_read:,} of {noted.events:,} events read"
    if noted.end_time_ms is None:
        return text + ", under way"
    return text + f", took {(noted.end_time_ms - noted.begin_time_ms) / 1000:.1f} s"
