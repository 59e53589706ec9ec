"""The command line: reads arguments, calls, prints. Modules that load gRPC or a store's driver are imported where
they are used, so that help and completion stay quick.

Exit status: 0 done, 1 it failed, 2 wrong arguments, 3 the answer was a refusal.
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vouchsafe import __version__
from vouchsafe.domain.errors import VouchsafeError
from vouchsafe.settings import Settings

if TYPE_CHECKING:
    from vouchsafe.client import Campaign, CampaignDefinition, Client

REFUSED = 3

app = typer.Typer(
    name="vouchsafe",
    help="The voucher service that checkouts trust: never oversold, never lost, stops at once.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
campaign_app = typer.Typer(help="Create, look at, pause and resume campaigns.", no_args_is_help=True)
app.add_typer(campaign_app, name="campaign")

# Lines are never broken for a pipe or a file, only a terminal has a width.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Target = Annotated[
    str | None, typer.Option(help="host:port of the server; without it, that of the settings.", show_default=False)
]
CampaignId = Annotated[str, typer.Argument(help="The campaign's id.", show_default=False)]
Reason = Annotated[str, typer.Option(help="Why, for those who look later.")]

Result = TypeVar("Result")


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


# -- running it ------------------------------------------------------------------------------------------------------


@app.command()
def dev(
    data_dir: Annotated[Path, typer.Option(help="Where the data is kept between runs.")] = Path(".vouchsafe"),
    ephemeral: Annotated[bool, typer.Option("--ephemeral", help="Keep nothing: use a temporary directory.")] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the gRPC server.")] = 50051,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Server processes.")] = 1,
) -> None:
    """Run everything on this machine: a real Valkey, a real PostgreSQL, the server and the persister."""
    with _errors():
        from vouchsafe.local import run_dev

        run_dev(None if ephemeral else data_dir, port=port, workers=workers, say=out.print)


@app.command()
def serve() -> None:
    """Run the gRPC server: as many worker processes as the settings say, on one port."""
    from vouchsafe.app import worker
    from vouchsafe.supervisor import ProcessSpec, supervise

    with _errors():
        settings = _settings()
        raise typer.Exit(supervise([ProcessSpec("worker", worker, settings.workers)], settings, port=settings.port))


@app.command()
def persist() -> None:
    """Run the persister: moves redemptions from Valkey to PostgreSQL. Several may run; each partition has one owner."""
    from vouchsafe.app import persister
    from vouchsafe.supervisor import ProcessSpec, supervise

    with _errors():
        raise typer.Exit(supervise([ProcessSpec("persister", persister, 1)], _settings()))


@app.command()
def migrate() -> None:
    """Bring the schema of the PostgreSQL database to this version. Safe to repeat, and to run twice at once."""
    from vouchsafe.ledger.migrate import migrate as run_migrations

    with _errors():
        settings = _settings()
        applied = asyncio.run(run_migrations(settings.postgres_url, settings.ledger_timeout_ms))
    for name in applied:
        out.print(f"applied {name}")
    if not applied:
        out.print("nothing to do: the schema is up to date")


@app.command()
def settings(as_json: Json = False) -> None:
    """Print every setting: its variable, its value now, and what it means. Passwords are not shown."""
    with _errors():
        current = _settings()
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
        _print_json(rows)
        return
    # In the form of a file of variables, so that it can serve as one.
    for row in rows:
        out.print(f"# {row['meaning']} Default: {row['default']}\n{row['variable']}={row['value']}\n", markup=False)


@app.command()
def demo(as_json: Json = False) -> None:
    """Sell 500 vouchers to 5,000 shoppers, pause a campaign under load, and count. Takes well under a minute."""
    with _errors():
        from vouchsafe.demo import run_demo

        report = run_demo(err)
    if as_json:
        _print_json(report.figures())
    else:
        out.print(report.table())
    if not report.kept_promises:
        raise typer.Exit(1)


# -- asking it -------------------------------------------------------------------------------------------------------


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

    async def ask(client: Client) -> Any:
        if dry_run:
            return await client.validate(code, shopper, order_message)
        return await client.redeem(code, shopper, order_message, request_id=request_id)

    outcome = _ask(target, ask)
    refused = isinstance(outcome, Refusal)
    if as_json:
        _print_message(outcome)
    elif refused:
        from vouchsafe.client import RefusalReason

        reason = RefusalReason.Name(outcome.reason).removeprefix("REFUSAL_REASON_")
        numbers = "".join(f"  {key}={value}" for key, value in sorted(outcome.metadata.items()))
        out.print(f"refused: {reason}  {outcome.message}{numbers}", markup=False)
    else:
        verb = "would take" if dry_run else "redeemed:"
        saved = f"{outcome.discount_minor} of {outcome.order_amount_minor} {outcome.currency_code} minor units off"
        out.print(
            f"{verb} {saved}" + ("" if dry_run else f"  redemption {outcome.id}  order {outcome.order_id}"),
            markup=False,
        )
    if refused:
        raise typer.Exit(REFUSED)


@campaign_app.command("create")
def campaign_create(
    campaign_id: CampaignId,
    name: Annotated[str | None, typer.Option(help="Name for people; the id without it.", show_default=False)] = None,
    percent: Annotated[
        str | None, typer.Option(help="Percent off the order, for example 12.5.", show_default=False)
    ] = None,
    amount: Annotated[
        int | None, typer.Option(min=1, help="Minor units (cents) off the order.", show_default=False)
    ] = None,
    currency: Annotated[str, typer.Option(help="ISO 4217 code of --amount.")] = "EUR",
    code: Annotated[
        list[str] | None, typer.Option(help="A code that many shoppers use; may be repeated.", show_default=False)
    ] = None,
    single_use_code: Annotated[
        list[str] | None, typer.Option(help="A code that is used once; may be repeated.", show_default=False)
    ] = None,
    single_use_codes: Annotated[
        Path | None,
        typer.Option(
            help="File with codes that are used once each, one a line.", exists=True, dir_okay=False, show_default=False
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Uses in all.", show_default=False)] = None,
    limit_per_customer: Annotated[
        int | None, typer.Option(min=1, help="Uses by one customer.", show_default=False)
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(help="First moment of use, ISO 8601 with offset, 2026-11-27T00:00:00+01:00.", show_default=False),
    ] = None,
    end: Annotated[
        str | None, typer.Option(help="First moment after the last use, spelled as --start.", show_default=False)
    ] = None,
    target: Target = None,
    as_json: Json = False,
) -> None:
    """Create a campaign. Its codes can be redeemed as soon as this returns, from --start on."""
    from vouchsafe.client import CampaignDefinition, Limits

    if (percent is None) == (amount is None):
        raise typer.BadParameter("give one of --percent and --amount")
    definition = CampaignDefinition(
        display_name=name or campaign_id, limits=Limits(total=limit, per_customer=limit_per_customer)
    )
    if percent is not None:
        definition.percent.basis_points = _basis_points(percent)
    elif amount is not None:
        definition.amount.amount.currency_code = currency
        definition.amount.amount.amount_minor = amount
    for field, text in (("start_time", start), ("end_time", end)):
        if text is not None:
            getattr(definition, field).FromDatetime(_instant(f"--{field.removesuffix('_time')}", text))
    once = list(single_use_code or [])
    if single_use_codes is not None:
        once += [line.strip() for line in single_use_codes.read_text().splitlines() if line.strip()]
    _show_campaign(
        _ask(
            target,
            lambda client: client.create_campaign(
                campaign_id, definition, shared_codes=code or [], single_use_codes=once
            ),
        ),
        as_json,
    )


@campaign_app.command("get")
def campaign_get(campaign_id: CampaignId, target: Target = None, as_json: Json = False) -> None:
    """Show one campaign with its state and count as of now."""
    _show_campaign(_ask(target, lambda client: client.get_campaign(campaign_id)), as_json)


@campaign_app.command("list")
def campaign_list(target: Target = None, as_json: Json = False) -> None:
    """List all campaigns, newest first."""

    async def fetch(client: Client) -> list[Campaign]:
        return [campaign async for campaign in client.list_campaigns()]

    campaigns = _ask(target, fetch)
    if as_json:
        _print_json([_as_dict(campaign) for campaign in campaigns])
    elif campaigns:
        out.print(_campaign_table(campaigns))
    else:
        out.print("no campaigns yet; create one with `vouchsafe campaign create`")


@campaign_app.command("pause")
def campaign_pause(campaign_id: CampaignId, reason: Reason = "", target: Target = None, as_json: Json = False) -> None:
    """Stop a campaign. Once this returns, no later redemption of it succeeds on any server."""
    _show_campaign(_ask(target, lambda client: client.pause_campaign(campaign_id, reason)), as_json)


@campaign_app.command("resume")
def campaign_resume(campaign_id: CampaignId, reason: Reason = "", target: Target = None, as_json: Json = False) -> None:
    """Let a paused campaign go on."""
    _show_campaign(_ask(target, lambda client: client.resume_campaign(campaign_id, reason)), as_json)


@campaign_app.command("watch")
def campaign_watch(
    campaign_id: CampaignId,
    interval: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds between two looks.")] = 1.0,
    target: Target = None,
    as_json: Json = False,
) -> None:
    """Follow a campaign's state and count until Ctrl-C; with --json an object a line."""

    async def follow(client: Client) -> None:
        with Live(console=out, auto_refresh=False, transient=False) if not as_json else _nothing() as live:
            while True:
                campaign = await client.get_campaign(campaign_id)
                if live is None:
                    sys.stdout.write(json.dumps(_as_dict(campaign)) + "\n")
                    sys.stdout.flush()
                else:
                    live.update(_campaign_table([campaign]), refresh=True)
                await asyncio.sleep(interval)

    try:
        _ask(target, follow)
    except KeyboardInterrupt:
        return


# -- helpers ---------------------------------------------------------------------------------------------------------


def _settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = "_".join(str(part) for part in problem["loc"]).upper()
            err.print(f"error: VOUCHSAFE_{name}: {problem['msg']} (given: {problem['input']!r})", markup=False)
        raise typer.Exit(2) from None


@contextmanager
def _errors() -> Iterator[None]:
    """What goes wrong on purpose is one line on stderr and exit status 1."""
    try:
        yield
    except VouchsafeError as error:
        err.print(f"error: {error}", markup=False)
        raise typer.Exit(1) from None


def _ask(target: str | None, question: Callable[[Client], Awaitable[Result]]) -> Result:
    """Asks the server and ends the program with a clear line when it fails."""
    from vouchsafe.client import Client, ClientError

    current = _settings()
    address = target or f"{current.host}:{current.port}"

    async def run() -> Result:
        async with Client(address, channels=1) as client:
            return await question(client)

    try:
        return asyncio.run(run())
    except ClientError as error:
        err.print(f"error: {error.code.name}" + ("" if error.violations else f": {error}"), markup=False)
        for field, description in error.violations.items():
            err.print(f"  {field}: {description}", markup=False)
        if error.code.name == "UNAVAILABLE":
            err.print(f"  is a server running at {address}? `vouchsafe dev` starts one", markup=False)
        raise typer.Exit(1) from None


def _basis_points(percent: str) -> int:
    try:
        points = Decimal(percent) * 100
    except InvalidOperation:
        raise typer.BadParameter(f"--percent {percent} is not a number") from None
    if not points.is_finite() or points != int(points) or not 1 <= points <= 10_000:
        raise typer.BadParameter(f"--percent {percent}: from 0.01 to 100, with at most two decimals")
    return int(points)


def _instant(option: str, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{option} {text} is not an ISO 8601 time such as 2026-11-27T00:00:00+01:00") from None
    if moment.tzinfo is None:
        raise typer.BadParameter(f"{option} {text} has no offset; end it with Z for UTC or, say, +01:00")
    return moment.astimezone(UTC).replace(tzinfo=None)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def _as_dict(message: Any) -> dict[str, Any]:
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _print_message(message: Any) -> None:
    _print_json(_as_dict(message))


def _show_campaign(campaign: Campaign, as_json: bool) -> None:
    if as_json:
        _print_message(campaign)
    else:
        out.print(_campaign_table([campaign]))


def _campaign_table(campaigns: list[Campaign]) -> Table:
    """A row a campaign; columns in which no campaign has anything are left out."""
    from vouchsafe.client import CampaignState

    rows = []
    for campaign in campaigns:
        definition = campaign.definition
        limits = definition.limits
        rows.append(
            {
                "campaign": campaign.id,
                "name": definition.display_name,
                "state": CampaignState.Name(campaign.state).removeprefix("CAMPAIGN_STATE_").lower(),
                "reason": campaign.pause_reason,
                "redeemed": f"{campaign.redeemed_count}",
                "limit": f"{limits.total}" if limits.HasField("total") else "",
                "per customer": f"{limits.per_customer}" if limits.HasField("per_customer") else "",
                "discount": _discount_text(definition),
                "start": _time_text(definition, "start_time"),
                "end": _time_text(definition, "end_time"),
            }
        )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    for name in columns:
        right = name in ("redeemed", "limit", "per customer")
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=name == "campaign")
    for row in rows:
        table.add_row(*(Text(row[name]) for name in columns))
    return table


def _discount_text(definition: CampaignDefinition) -> str:
    if definition.HasField("percent"):
        return f"{Decimal(definition.percent.basis_points) / 100:f} %"
    return f"{definition.amount.amount.amount_minor} {definition.amount.amount.currency_code} minor units"


def _time_text(definition: CampaignDefinition, field: Literal["start_time", "end_time"]) -> str:
    return getattr(definition, field).ToJsonString() if definition.HasField(field) else ""


@contextmanager
def _nothing() -> Iterator[None]:
    yield None
