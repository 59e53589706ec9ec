"""The commands for what follows: confirm or release what is held, take a redemption back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from vouchsafe.cli.common import ExitStatus, Json, Target, ask, err, out, print_message
from vouchsafe.cli.redeem import reason_text, saved_text
from vouchsafe.domain.money import format_minor

if TYPE_CHECKING:
    from vouchsafe.client import Client, Order, ReturnedLine, Rollback

app = typer.Typer()

Reservation = Annotated[str, typer.Argument(help="The reservation's id.", show_default=False)]


@app.command()
def confirm(reservation: Reservation, target: Target = None, as_json: Json = False) -> None:
    """Redeem what is held. Exit status 3 when it is refused."""

    async def question(client: Client) -> Any:
        return await client.confirm(reservation)

    outcome = _answered(ask(target, question), as_json)
    if outcome is not None:
        out.print(f"redeemed: {saved_text(outcome)}  redemption {outcome.id}  order {outcome.order_id}", markup=False)


@app.command()
def release(reservation: Reservation, target: Target = None, as_json: Json = False) -> None:
    """Give back what is held. Exit status 3 when it is refused."""

    async def question(client: Client) -> Any:
        return await client.release(reservation)

    outcome = _answered(ask(target, question), as_json)
    if outcome is not None:
        out.print(f"released: {saved_text(outcome)}  order {outcome.order_id}", markup=False)


@app.command()
def rollback(
    redemption: Annotated[str, typer.Argument(help="The redemption's id.", show_default=False)],
    units: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LINE=N", help="So many units of a line come back; lines count from 0.", show_default=False
        ),
    ] = None,
    amount: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LINE=MINOR", help="So much of a line's discount comes back, in minor units.", show_default=False
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="YAML file with the order as it was redeemed, for campaigns that evaluate again what is left.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why, for those who look later.", show_default=False)] = "",
    request_id: Annotated[
        str | None, typer.Option(help="The request's id; a new one without it.", show_default=False)
    ] = None,
    target: Target = None,
    as_json: Json = False,
) -> None:
    """Take a redemption back: all that is left, or what --units and --amount say. Exit status 3 when it is refused."""
    lines = _lines(units or (), amount or ())
    order = _order(file)

    async def question(client: Client) -> Any:
        return await client.roll_back(redemption, lines=lines, order=order, reason=reason, request_id=request_id)

    outcome = _answered(ask(target, question), as_json)
    if outcome is not None:
        _print_rollback(outcome)


def _answered(outcome: Any, as_json: bool) -> Any:
    """Prints an outcome that needs no words of its own; answers the others. A refusal ends the command."""
    from vouchsafe.client import Refusal

    refused = isinstance(outcome, Refusal)
    if as_json:
        print_message(outcome)
    elif refused:
        out.print(f"refused: {reason_text(outcome)}", markup=False)
    if refused:
        raise typer.Exit(ExitStatus.REFUSED)
    return None if as_json else outcome


def _lines(units: Any, amounts: Any) -> list[ReturnedLine]:
    from vouchsafe.client import ReturnedLine

    found = []
    for option, field, values in (("--units", "quantity", units), ("--amount", "discount_minor", amounts)):
        for text in values:
            line, _, number = text.partition("=")
            if not (line.isdecimal() and number.isdecimal()):
                err.print(f"error: {option} {text}: give the line and a number, for example 0=1", markup=False)
                raise typer.Exit(ExitStatus.USAGE)
            found.append(ReturnedLine(line_index=min(int(line), 2**31 - 1), **{field: min(int(number), 2**63 - 1)}))
    return found


def _order(file: Path | None) -> Order | None:
    if file is None:
        return None
    from vouchsafe.cli.files import BadFile, read_checkout

    try:
        return read_checkout(file)[1]
    except BadFile as error:
        for line in error.lines:
            err.print(f"error: {line}", markup=False)
        raise typer.Exit(ExitStatus.USAGE) from None


def _print_rollback(found: Rollback) -> None:
    currency = found.currency_code
    out.print(
        f"rolled back: {format_minor(found.discount_minor, currency)}, "
        f"{format_minor(found.left_minor, currency)} left  rollback {found.id}  order {found.order_id}",
        markup=False,
    )
    table = Table("code", "back", "left", "use", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for code in found.codes:
        amounts = (format_minor(amount, currency) for amount in (code.discount_minor, code.left_minor))
        table.add_row(Text(code.code), *amounts, "came back" if code.use_returned else "stays used")
    if found.codes:
        out.print(table)
