"""`vouchsafe audit`: whether Valkey and PostgreSQL say the same."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from vouchsafe.cli.common import ExitStatus, Json, errors, out, print_json, read_settings, time_text
from vouchsafe.cli.tables import print_rows, progress_bar
from vouchsafe.cli.trail import verify_trail

if TYPE_CHECKING:
    from vouchsafe.domain.audit import Audit

PAUSES_SHOWN = 200

app = typer.Typer()


@app.command()
def audit(
    campaign: Annotated[str | None, typer.Option(help="Only this campaign.", show_default=False)] = None,
    pauses: Annotated[
        bool, typer.Option("--pauses", help="Prove instead that nothing was taken while something was stopped.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Prove instead that nobody has changed what operators did (`trail`).")
    ] = False,
    expect_head: Annotated[
        str | None,
        typer.Option(
            metavar="HASH", help="With --verify: a head that was noted before; it has to be there.", show_default=False
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Prove that every counter in Valkey is the sum of the events in PostgreSQL, while the service runs.

    Exit status 0 when all agree, 4 when something differs, 1 when it could not be found out.

    With --verify: 0 when nothing was changed, else 1.
    """
    if [campaign is not None, pauses, verify].count(True) > 1:
        raise typer.BadParameter("give one of --campaign, --pauses and --verify")
    if expect_head is not None and not verify:
        raise typer.BadParameter("--expect-head is for --verify")
    if pauses:
        _audit_pauses(as_json)
        return
    if verify:
        verify_trail(expect_head, as_json)
        return
    with errors():
        from vouchsafe.app import audit as run_audit

        settings = read_settings()
        with progress_bar() as progress:
            task = progress.add_task("partitions", total=None)
            found = asyncio.run(
                run_audit(settings, campaign, lambda total: progress.update(task, advance=1, total=total))
            )
    if as_json:
        print_json({"agrees": found.agrees, **asdict(found)})
    else:
        _show(found)
    if not found.agrees:
        raise typer.Exit(ExitStatus.NOT_AS_IT_SHOULD_BE)


def _audit_pauses(as_json: bool) -> None:
    """Every pause and every kill switch, with how many uses stand inside of it in the order of the streams."""
    with errors():
        from vouchsafe.app import stops

        found = asyncio.run(stops(read_settings(), PAUSES_SHOWN))
    broken = [one for one in found if one.taken]
    if as_json:
        print_json({"agrees": not broken, "stops": [asdict(one) for one in found]})
    elif found:
        _print_table(
            ("stopped", "from", "to", "uses taken", "reason"),
            [
                (_what(one.what), time_text(one.begin_time_ms), _end(one.end_time_ms), f"{one.taken}", one.reason)
                for one in found
            ],
        )
        out.print(
            f"[red]{len(broken)} of them were not kept[/red]" if broken else "nothing was taken while it was stopped"
        )
    else:
        out.print("nothing was ever stopped")
    if broken:
        raise typer.Exit(ExitStatus.NOT_AS_IT_SHOULD_BE)


def _what(text: str) -> str:
    return "everything" if text == "*" else text.replace(":", " ", 1)


def _end(time_ms: int | None) -> str:
    return "still" if time_ms is None else time_text(time_ms)


def _show(found: Audit) -> None:
    for partition in found.closed:
        out.print(f"partition {partition} is closed: Valkey does not hold the data that PostgreSQL expects")
    if found.counters_differ:
        _print_table(
            ("campaign", "counter", "Valkey", "PostgreSQL"),
            [(one.campaign_id, one.counter, one.gate, one.book) for one in found.counters_differ],
        )
        _print_left_out(found.differing - len(found.counters_differ))
    if found.rows_differ:
        _print_table(
            ("campaign", "table", "rows", "events"),
            [(one.campaign_id, one.table, f"{one.rows}", f"{one.events}") for one in found.rows_differ],
        )
    if found.entries_set_aside:
        _print_table(
            ("partition", "epoch", "entry", "set aside because"),
            [(f"{one.partition}", f"{one.epoch}", one.entry, one.reason) for one in found.entries_set_aside],
        )
        _print_left_out(found.set_aside - len(found.entries_set_aside))
    if found.parts_in_flight or found.rollbacks_in_flight:
        out.print(
            f"in flight: {_count(found.parts_in_flight, 'part')} of transactions, "
            f"{_count(found.rollbacks_in_flight, 'rollback')}"
        )
    looked_at = ", ".join(
        _count(number, what)
        for number, what in ((found.campaigns, "campaign"), (found.counters, "counter"), (found.events, "event"))
    )
    out.print(f"{looked_at}: {_verdict(found)}")


def _verdict(found: Audit) -> str:
    if found.agrees:
        return "all agree"
    wrong = (
        (len(found.closed), "closed partition"),
        (found.differing, "counter"),
        (len(found.rows_differ), "table"),
    )
    verdicts = []
    if parts := [_count(number, what) for number, what in wrong if number]:
        verdicts.append(f"{' and '.join(parts)} {'do' if len(parts) > 1 or parts[0][:2] != '1 ' else 'does'} not agree")
    if found.set_aside:
        verdicts.append(f"{_count(found.set_aside, 'event')} set aside")
    return f"[red]{'; '.join(verdicts)}[/red]"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _print_left_out(number: int) -> None:
    if number > 0:
        out.print(f"… and {number:,} more")


def _print_table(names: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    print_rows([dict(zip(names, row, strict=True)) for row in rows])
