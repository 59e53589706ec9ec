"""Commands for campaigns: create, look at, pause, resume."""

from __future__ import annotations

import json
import sys
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vouchsafe.cli import apply, calendar, plans
from vouchsafe.cli.common import Json, Target, as_dict, ask, end_by_ctrl_c, instant, out, print_message
from vouchsafe.cli.show import show_campaign, show_campaigns, state_text
from vouchsafe.cli.tables import print_rows
from vouchsafe.domain.campaign import CampaignState as Life

if TYPE_CHECKING:
    from vouchsafe.client import Campaign, CampaignCounters, CampaignStats, Client

CampaignId = Annotated[str, typer.Argument(help="The campaign's id.", show_default=False)]
SomeCampaign = Annotated[str | None, typer.Argument(help="The campaign's id.", show_default=False)]
Label = Annotated[str | None, typer.Option(help="All campaigns that have this label now.", show_default=False)]
Reason = Annotated[str, typer.Option(help="Why, for those who look later.")]

# What `campaign watch` shows, beside the time.
WATCHED = ("state", "redeemed", "minor units off", "customers", "in PostgreSQL")

app = typer.Typer(help="Create, look at, change, plan, pause and put away campaigns.", no_args_is_help=True)
app.add_typer(apply.app)
app.add_typer(plans.app)
app.add_typer(calendar.app)


@app.command("create")
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
    label: Annotated[
        list[str] | None,
        typer.Option(help="A name for several campaigns; may be repeated.", show_default=False),
    ] = None,
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
        typer.Option(
            metavar="TIME",
            help="First moment of use, ISO 8601 with its offset, 2026-11-27T00:00:00+01:00.",
            show_default=False,
        ),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="First moment after the last use, spelled as --start.", show_default=False),
    ] = None,
    draft: Annotated[bool, typer.Option("--draft", help="Redeem nothing before `schedule` takes it live.")] = False,
    reason: Reason = "",
    target: Target = None,
    as_json: Json = False,
) -> None:
    """Create a campaign. Unless it is a draft, its codes can be redeemed as soon as this returns, from --start on."""
    from vouchsafe.client import CampaignDefinition, Limits

    if (percent is None) == (amount is None):
        raise typer.BadParameter("give one of --percent and --amount; for any other effect `apply` a file")
    definition = CampaignDefinition(
        display_name=name or campaign_id,
        limits=Limits(total=limit, per_customer=limit_per_customer),
        labels=label or [],
    )
    if percent is not None:
        definition.effects.add().percent_off.basis_points = _basis_points(percent)
    elif amount is not None:
        definition.currency_code = currency
        definition.effects.add().amount_off.amount_minor = amount
    for field, text in (("start_time", start), ("end_time", end)):
        if text is not None:
            getattr(definition, field).FromDatetime(instant(f"--{field.removesuffix('_time')}", text))
    once = list(single_use_code or [])
    if single_use_codes is not None:
        once += [line.strip() for line in single_use_codes.read_text().splitlines() if line.strip()]
    show_campaign(
        ask(
            target,
            lambda client: client.create_campaign(
                campaign_id, definition, shared_codes=code or [], single_use_codes=once, draft=draft, reason=reason
            ),
        ),
        as_json,
    )


@app.command("get")
def campaign_get(campaign_id: CampaignId, target: Target = None, as_json: Json = False) -> None:
    """Show one campaign with its state and count as of now."""
    show_campaign(ask(target, lambda client: client.get_campaign(campaign_id)), as_json)


@app.command("stats")
def campaign_stats(campaign_id: CampaignId, target: Target = None, as_json: Json = False) -> None:
    """Show what a campaign has given, by Valkey as of now and by PostgreSQL, which follows a moment later."""
    stats = ask(target, lambda client: client.get_campaign_stats(campaign_id))
    if as_json:
        print_message(stats)
        return
    rows = [_stats_row("Valkey", stats.gate, stats.gate_time.ToJsonString())]
    if stats.HasField("ledger"):
        rows.append(_stats_row("PostgreSQL", stats.ledger, stats.ledger_position))
    else:
        rows.append(dict.fromkeys(rows[0], "") | {"": "PostgreSQL", "redeemed": "out of reach"})
    print_rows(rows, right=("redeemed", "minor units off", "customers"))


def _stats_row(store: str, counters: CampaignCounters, moment: str) -> dict[str, str]:
    return {
        "": store,
        "redeemed": f"{counters.redeemed_count}",
        "minor units off": f"{counters.discount_minor}",
        "customers": f"{counters.customer_count}" if counters.HasField("customer_count") else "",
        "as of": moment,
    }


@app.command("list")
def campaign_list(
    show_archived: Annotated[bool, typer.Option("--archived", help="Those that are archived, too.")] = False,
    state: Annotated[
        Life | None, typer.Option(help="Only those that are in this state now.", show_default=False)
    ] = None,
    label: Label = None,
    target: Target = None,
    as_json: Json = False,
) -> None:
    """List campaigns, newest first."""
    from vouchsafe.client import CampaignState

    wanted = CampaignState.Value(f"CAMPAIGN_STATE_{state.name if state else 'UNSPECIFIED'}")

    async def fetch(client: Client) -> list[Campaign]:
        listing = client.list_campaigns(show_archived=show_archived, state=wanted, label=label or "")
        return [campaign async for campaign in listing]

    campaigns = ask(target, fetch)
    if as_json or campaigns:
        show_campaigns(campaigns, as_json)
    elif state or label:
        out.print("no such campaigns")
    else:
        out.print("no campaigns yet; create one with `vouchsafe campaign create`")


@app.command("pause")
def campaign_pause(
    campaign_id: SomeCampaign = None,
    label: Label = None,
    reason: Reason = "",
    until: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="When it goes on by itself, 2026-11-27T00:00:00+01:00; not with --label.",
            show_default=False,
        ),
    ] = None,
    target: Target = None,
    as_json: Json = False,
) -> None:
    """Stop a campaign, or all that have a label. Once this returns, no later redemption succeeds on any server."""
    resume_time = None if until is None else instant("--until", until)
    if label is None:
        named = _named(campaign_id)
        show_campaign(
            ask(target, lambda client: client.pause_campaign(named, reason, resume_time=resume_time)), as_json
        )
    elif until is not None:
        raise typer.BadParameter("--until is for one campaign, not for --label")
    elif campaign_id is not None:
        raise typer.BadParameter("give a campaign or --label, not both")
    else:
        show_campaigns(ask(target, lambda client: client.pause_campaigns(label, reason)), as_json)


@app.command("resume")
def campaign_resume(
    campaign_id: SomeCampaign = None,
    label: Label = None,
    reason: Reason = "",
    target: Target = None,
    as_json: Json = False,
) -> None:
    """Let a paused campaign, or all that have a label, go on."""
    if label is None:
        named = _named(campaign_id)
        show_campaign(ask(target, lambda client: client.resume_campaign(named, reason)), as_json)
    elif campaign_id is not None:
        raise typer.BadParameter("give a campaign or --label, not both")
    else:
        show_campaigns(ask(target, lambda client: client.resume_campaigns(label, reason)), as_json)


@app.command("archive")
def campaign_archive(
    campaign_id: CampaignId, reason: Reason = "", target: Target = None, as_json: Json = False
) -> None:
    """Put a campaign away for good. One that is active has to be paused first."""
    show_campaign(ask(target, lambda client: client.archive_campaign(campaign_id, reason)), as_json)


@app.command("clone")
def campaign_clone(
    campaign_id: CampaignId,
    new_campaign_id: Annotated[str, typer.Argument(help="The id of the new one.", show_default=False)],
    name: Annotated[
        str | None, typer.Option(help="Its name for people; the same without it.", show_default=False)
    ] = None,
    reason: Reason = "",
    target: Target = None,
    as_json: Json = False,
) -> None:
    """Make a draft with the definition of another campaign, without its start and end, codes and uses."""
    show_campaign(
        ask(
            target,
            lambda client: client.clone_campaign(campaign_id, new_campaign_id, display_name=name, reason=reason),
        ),
        as_json,
    )


@app.command("watch")
def campaign_watch(campaign_id: CampaignId, target: Target = None, as_json: Json = False) -> None:
    """Follow what a campaign gives until Ctrl-C: a line for each change; with --json an object a line."""

    async def follow(client: Client) -> None:
        shown = None
        async for stats in client.watch_campaign(campaign_id):
            if as_json:
                sys.stdout.write(json.dumps(as_dict(stats)) + "\n")
                sys.stdout.flush()
                continue
            if shown is None:
                out.print(_watch_line("as of", *WATCHED))
            values = _watched(stats)
            # Where they are the same, PostgreSQL has only come further, with other campaigns.
            if values != shown:
                out.print(_watch_line(stats.gate_time.ToJsonString(), *values))
            shown = values

    end_by_ctrl_c()
    ask(target, follow)


def _watched(stats: CampaignStats) -> tuple[str, ...]:
    """What a line says under each of `WATCHED`."""
    counters = [stats.gate, stats.ledger]
    customers = next((f"{one.customer_count}" for one in counters if one.HasField("customer_count")), "")
    in_ledger = f"{stats.ledger.redeemed_count}" if stats.HasField("ledger") else "out of reach"
    gate = stats.gate
    return state_text(stats.state), f"{gate.redeemed_count}", f"{gate.discount_minor}", customers, in_ledger


def _watch_line(moment: str, state: str, *numbers: str) -> str:
    columns = (f"{number:>{len(name)}}" for number, name in zip(numbers, WATCHED[1:], strict=True))
    return "  ".join((f"{moment:<24}", f"{state:<9}", *columns))


def _basis_points(percent: str) -> int:
    try:
        points = Decimal(percent) * 100
    except InvalidOperation:
        raise typer.BadParameter(f"--percent {percent} is not a number") from None
    if not points.is_finite() or points != int(points) or not 1 <= points <= 10_000:
        raise typer.BadParameter(f"--percent {percent}: from 0.01 to 100, with at most two decimals")
    return int(points)


def _named(campaign_id: str | None) -> str:
    if campaign_id is None:
        raise typer.BadParameter("give a campaign's id, or --label")
    return campaign_id
