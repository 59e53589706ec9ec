"""The command that redeems codes."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from vouchsafe.cli.common import ExitStatus, Json, Target, ask, err, instant, out, print_message, span_ms, time_text
from vouchsafe.cli.words import caps_text
from vouchsafe.domain.money import format_minor

if TYPE_CHECKING:
    from vouchsafe.client import Client, Customer, Order, Refusal, TrialReport


app = typer.Typer()


@app.command()
def redeem(
    codes: Annotated[list[str], typer.Argument(metavar="CODE...", help="The voucher codes.", show_default=False)],
    customer: Annotated[str, typer.Option(help="The customer's id.")] = "customer-1",
    order: Annotated[str | None, typer.Option(help="The order's id; a new one without it.", show_default=False)] = None,
    amount: Annotated[int, typer.Option(min=0, help="What the order comes to, in minor units (cents).")] = 5000,
    currency: Annotated[str, typer.Option(help="ISO 4217 code of the order's currency.")] = "EUR",
    file: Annotated[
        Path | None,
        typer.Option(
            help="YAML file with a customer and an order, in the names of the protos, instead of the above.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    best_deal: Annotated[bool, typer.Option("--best-deal", help="Find the order of codes that is best.")] = False,
    part: Annotated[bool, typer.Option("--part", help="Redeem those codes that apply, not all or none.")] = False,
    hold: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION", help="Hold the codes for so long, 15m say, to confirm it later.", show_default=False
        ),
    ] = None,
    request_id: Annotated[
        str | None, typer.Option(help="The request's id; a new one without it.", show_default=False)
    ] = None,
    quote: Annotated[
        str, typer.Option(help="The token of a quote, as --dry-run prints it for --order.", show_default=False)
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only validate; take nothing.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Only validate, and show all that was looked at.")] = False,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only validate, as if it were that time, 2026-11-27T08:00:00+01:00 say, and the campaigns active.",
            show_default=False,
        ),
    ] = None,
    target: Target = None,
    as_json: Json = False,
) -> None:
    """Redeem codes on an order, by default one line of --amount. Exit status 3 when it is refused."""
    from vouchsafe.client import Combining, Coverage, Sequencing

    moment = None if at is None else instant("--at", at)
    ttl_s = None if hold is None else span_ms("--hold", hold) / 1000
    shopper, basket = _asked(file, customer, order, amount, currency)
    combining = Combining(
        sequencing=Sequencing.SEQUENCING_BEST_DEAL if best_deal else Sequencing.SEQUENCING_UNSPECIFIED,
        coverage=Coverage.COVERAGE_APPLICABLE_PART if part else Coverage.COVERAGE_UNSPECIFIED,
    )

    async def question(client: Client) -> Any:
        if dry_run or explain or moment:
            return await client.validate_codes(codes, shopper, basket, combining=combining, explain=explain, at=moment)
        if ttl_s is not None:
            return await client.reserve(
                codes,
                shopper,
                basket,
                ttl_s=ttl_s,
                combining=combining,
                request_id=request_id,
                quote_token=quote,
            )
        return await client.redeem_codes(
            codes, shopper, basket, combining=combining, request_id=request_id, quote_token=quote
        )

    response = ask(target, question)
    if as_json:
        print_message(response)
    else:
        if moment:
            _print_trial(response.trial)
        _print(response, basket)
    if response.HasField("refusal"):
        raise typer.Exit(ExitStatus.REFUSED)


def saved_text(found: Any) -> str:
    """What an offer, a reservation or a redemption takes off."""
    currency = found.currency_code
    return f"{format_minor(found.discount_minor, currency)} off {format_minor(found.order_amount_minor, currency)}"


def _asked(file: Path | None, customer: str, order: str | None, amount: int, currency: str) -> tuple[Customer, Order]:
    """Who asks for what: as the file says, or one line of an amount."""
    from vouchsafe.client import Customer, Order, OrderLine

    order_id = order or f"order-{uuid.uuid4()}"
    if file is None:
        only = OrderLine(sku="item-1", quantity=1, unit_price_minor=amount)
        return Customer(id=customer), Order(id=order_id, currency_code=currency, lines=[only])
    from vouchsafe.cli.files import BadFile, read_checkout

    try:
        shopper, basket = read_checkout(file)
    except BadFile as error:
        for line in error.lines:
            err.print(f"error: {line}", markup=False)
        raise typer.Exit(ExitStatus.USAGE) from None
    shopper.id = shopper.id or customer
    basket.id = basket.id or order_id
    basket.currency_code = basket.currency_code or currency
    return shopper, basket


def _print_trial(report: TrialReport) -> None:
    out.print(f"trial: as if it were {time_text(report.time.ToMilliseconds())}; counters are those of now")
    for campaign_id in report.inactive_campaign_ids:
        out.print(f"note: campaign {campaign_id} is not active now, and gives nothing while that is so", markup=False)


def _print(response: Any, order: Order) -> None:
    given = response.WhichOneof("outcome")
    if given == "refusal":
        out.print(f"refused: {reason_text(response.refusal)}", markup=False)
    else:
        found = getattr(response, given)
        saved = saved_text(found)
        if given == "offer":
            token = f"  order {order.id}  quote {found.quote_token}" if found.quote_token else ""
            out.print(f"would take {saved}{token}", markup=False)
        elif given == "reservation":
            until = found.expire_time.ToJsonString()
            out.print(f"held: {saved}  until {until}  reservation {found.id}  order {found.order_id}", markup=False)
        else:
            out.print(f"redeemed: {saved}  redemption {found.id}  order {found.order_id}", markup=False)
        if found.HasField("is_best_deal"):
            out.print(
                "  the best deal" if found.is_best_deal else "  a good deal; the best would take too long to find"
            )
        if len(found.applied_codes) > 1 or len(order.lines) > 1 or any(map(_is_special, found.applied_codes)):
            out.print(_discount_table(found, order))
    told = response.refusal.code if given == "refusal" else ""
    for refusal in (*response.inapplicable, *response.skipped):
        if refusal.code != told:
            out.print(f"left out: {refusal.code}  {reason_text(refusal)}", markup=False)
    for trace in getattr(response, "traces", ()):
        out.print()
        out.print(_trace_table(trace))


def _is_special(applied: Any) -> bool:
    return bool(applied.shipping_discount_minor or applied.granted_units or applied.caps)


def _discount_table(found: Any, order: Order) -> Table:
    """What each code takes off each line, the shipping, and on top."""
    table = Table("code", "off", "on", "because", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for applied in found.applied_codes:
        for line in applied.lines:
            caps = caps_text(line.caps)
            desired = format_minor(line.desired_minor, found.currency_code)
            table.add_row(
                Text(applied.code),
                format_minor(line.discount_minor, found.currency_code),
                Text(f"{order.lines[line.line_index].quantity} {line.sku}"),
                f"{caps}, else {desired}" if caps else "",
            )
        if applied.shipping_discount_minor:
            off = format_minor(applied.shipping_discount_minor, found.currency_code)
            # A line says its own; of a code that is about the shipping alone, they are the shipping's.
            table.add_row(Text(applied.code), off, "shipping", "" if applied.lines else caps_text(applied.caps))
        for granted in applied.granted_units:
            table.add_row(Text(applied.code), "free", Text(f"{granted.quantity} {granted.sku}, to be added"), "")
    return table


def _trace_table(trace: Any) -> Table:
    title = f"{trace.code}: " + (
        f"campaign {trace.campaign_id}, version {trace.campaign_version}" if trace.campaign_id else "no campaign has it"
    )
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("", "where", "wanted", "saw", "note"):
        table.add_column(name, overflow="fold")
    for entry in trace.entries:
        words = (entry.path, entry.wanted, entry.saw, entry.note)
        table.add_row("ok" if entry.held else "NO", *map(Text, words))
    return table


def reason_text(refusal: Refusal) -> str:
    """Why not, with the numbers behind it."""
    from vouchsafe.client import RefusalReason

    reason = RefusalReason.Name(refusal.reason).removeprefix("REFUSAL_REASON_")
    numbers = "".join(f"  {key}={value}" for key, value in sorted(refusal.metadata.items()))
    return f"{reason}  {refusal.message}{numbers}"
