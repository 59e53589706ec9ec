"""The command that redeems a code."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vouchsafe.cli.common import Json, Target, ask, out, print_message
from vouchsafe.domain.money import format_minor

if TYPE_CHECKING:
    from vouchsafe.client import Client

REFUSED = 3

app = typer.Typer()


@app.command()
def redeem(
    code: Annotated[str, typer.Argument(help="The voucher code.", show_default=False)],
    customer: Annotated[str, typer.Option(help="The customer's id.")] = "customer-1",
    order: Annotated[str | None, typer.Option(help="The order's id; a new one without it.", show_default=False)] = None,
    amount: Annotated[int, typer.Option(min=0, help="What the order comes to, in minor units (cents).")] = 5000,
    currency: Annotated[str, typer.Option(help="ISO 4217 code of the order's currency.")] = "EUR",
    request_id: Annotated[
        str | None, typer.Option(help="The request's id; a new one without it.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only validate; take nothing.")] = False,
    target: Target = None,
    as_json: Json = False,
) -> None:
    """Redeem a code on an order of one line. Exit status 3 when it is refused."""
    from vouchsafe.client import Customer, Order, OrderLine, Refusal

    order_message = Order(
        id=order or f"order-{uuid.uuid4()}",
        currency_code=currency,
        lines=[OrderLine(sku="item-1", quantity=1, unit_price_minor=amount)],
    )
    shopper = Customer(id=customer)

    async def question(client: Client) -> Any:
        if dry_run:
            return await client.validate(code, shopper, order_message)
        return await client.redeem(code, shopper, order_message, request_id=request_id)

    outcome = ask(target, question)
    refused = isinstance(outcome, Refusal)
    if as_json:
        print_message(outcome)
    elif refused:
        from vouchsafe.client import RefusalReason

        reason = RefusalReason.Name(outcome.reason).removeprefix("REFUSAL_REASON_")
        numbers = "".join(f"  {key}={value}" for key, value in sorted(outcome.metadata.items()))
        out.print(f"refused: {reason}  {outcome.message}{numbers}", markup=False)
    else:
        verb = "would take" if dry_run else "redeemed:"
        off = format_minor(outcome.discount_minor, outcome.currency_code)
        saved = f"{off} off {format_minor(outcome.order_amount_minor, outcome.currency_code)}"
        out.print(
            f"{verb} {saved}" + ("" if dry_run else f"  redemption {outcome.id}  order {outcome.order_id}"),
            markup=False,
        )
    if refused:
        raise typer.Exit(REFUSED)
