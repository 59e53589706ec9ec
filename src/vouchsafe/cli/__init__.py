"""The command line: reads arguments, calls, prints. Modules that load gRPC or a store's driver are imported where
they are used, so that help and completion stay quick.

`common.ExitStatus` is what commands end with.
"""

from __future__ import annotations

from typing import Annotated

import typer

from vouchsafe import __version__
from vouchsafe.cli import audit, campaign, codes, keys, kill_switch, payment, redeem, run, shell, status, trail
from vouchsafe.cli.common import out

app = typer.Typer(
    name="vouchsafe",
    help="The voucher service that checkouts trust: never oversold, never lost, stops at once.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(run.app)
app.add_typer(status.app)
app.add_typer(audit.app)
app.add_typer(trail.app)
app.add_typer(redeem.app)
app.add_typer(payment.app)
app.add_typer(campaign.app, name="campaign")
app.add_typer(kill_switch.app, name="kill-switch")
app.add_typer(keys.app, name="keys")
app.add_typer(codes.app, name="codes")
app.add_typer(shell.app)


def main() -> None:
    """Entry point of the `vouchsafe` command."""
    app()


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"vouchsafe {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
