"""Commands that run the service, or a part of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from vouchsafe.cli.common import DEV_DATA, ExitStatus, Json, err, errors, out, print_json, read_settings
from vouchsafe.settings import Settings

app = typer.Typer()


@app.command()
def dev(
    data_dir: Annotated[Path, typer.Option(help="Where the data is kept between runs.")] = DEV_DATA,
    ephemeral: Annotated[bool, typer.Option("--ephemeral", help="Keep nothing: use a temporary directory.")] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the gRPC server.")] = 50051,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Server processes.")] = 1,
) -> None:
    """Run everything on this machine: a real Valkey, a real PostgreSQL, the server and the persister."""
    with errors():
        from vouchsafe.local import run_dev

        run_dev(
            None if ephemeral else data_dir,
            port=port,
            workers=workers,
            needs_key=ephemeral or data_dir != DEV_DATA,
            say=out.print,
        )


@app.command()
def serve() -> None:
    """Run the gRPC server: as many worker processes as the settings say, on one port."""
    from vouchsafe.supervisor import ProcessSpec, supervise
    from vouchsafe.telemetry import server_metrics_served

    with errors():
        settings = read_settings()
        workers = ProcessSpec("worker", "vouchsafe.app:worker", settings.workers)
        with server_metrics_served(settings):
            status = supervise([workers], settings, port=settings.port)
    raise typer.Exit(status)


@app.command()
def persist() -> None:
    """Run the persister: moves redemptions from Valkey to PostgreSQL. Several may run; each partition has one owner."""
    from vouchsafe.supervisor import ProcessSpec, supervise

    with errors():
        raise typer.Exit(supervise([ProcessSpec("persister", "vouchsafe.app:persister", 1)], read_settings()))


@app.command()
def migrate() -> None:
    """Bring the schema of the PostgreSQL database to this version. Safe to repeat, and to run twice at once."""
    from vouchsafe.ledger.migrate import migrate as run_migrations

    with errors():
        settings = read_settings()
        applied = asyncio.run(run_migrations(settings.postgres_url, settings.ledger_timeout_ms))
    for name in applied:
        out.print(f"applied {name}")
    if not applied:
        out.print("nothing to do: the schema is up to date")


@app.command()
def settings(as_json: Json = False) -> None:
    """Print every setting: its variable, its value now, and what it means. Passwords are not shown."""
    with errors():
        current = read_settings()
    rows = [
        {
            "variable": f"VOUCHSAFE_{name.upper()}",
            "value": current.shown()[name],
            "default": field.default,
            "meaning": field.description,
        }
        for name, field in Settings.model_fields.items()
    ]
    if as_json:
        print_json(rows)
        return
    # In the form of a file of variables, so that it can serve as one.
    for row in rows:
        out.print(f"# {row['meaning']} Default: {row['default']}\n{row['variable']}={row['value']}\n", markup=False)


@app.command()
def demo(as_json: Json = False) -> None:
    """Sell 500 vouchers to 5,000 shoppers, pause a campaign under load, and count. Takes well under a minute."""
    with errors():
        from vouchsafe.demo import run_demo

        report = run_demo(err)
    if as_json:
        print_json(report.figures())
    else:
        out.print(report.table())
    if not report.kept_promises:
        raise typer.Exit(ExitStatus.FAILED)
