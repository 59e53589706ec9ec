"""Commands for what changes about campaigns: now, and planned for later."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vouchsafe.cli.common import ExitStatus, Json, Target, as_dict, ask, err, instant, out, print_json, print_message
from vouchsafe.cli.show import show_campaign
from vouchsafe.cli.tables import print_rows

if TYPE_CHECKING:
    from vouchsafe.client import CampaignDefinition, ChangePlan, Client, PlannedChange

CampaignId = Annotated[str, typer.Argument(help="The campaign's id.", show_default=False)]
Reason = Annotated[str, typer.Option(help="Why, for those who look later.")]
NOT_ANY_MORE = "none"

app = typer.Typer()


@app.command("update")
def campaign_update(
    campaign_id: CampaignId,
    assignments: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="A field as campaign files have it, limits.total=500; without a value it is cleared. May be repeated.",
            show_default=False,
        ),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only ask the server; change nothing.")] = False,
    reason: Reason = "",
    target: Target = None,
    as_json: Json = False,
) -> None:
    """Change single fields of a campaign; all others stay. For whole definitions there is `apply`."""
    definition, paths = _assigned("--set", assignments)
    show_campaign(
        ask(
            target,
            lambda client: client.update_campaign(
                campaign_id, definition, update_mask=paths, validate_only=dry_run, reason=reason
            ),
        ),
        as_json,
    )


@app.command("schedule")
def campaign_schedule(
    campaign_id: CampaignId,
    start: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="First moment of use; `none` for at once; without it, it stays.", show_default=False
        ),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="First moment after the last use; `none` for never; without it, it stays.",
            show_default=False,
        ),
    ] = None,
    pause: Annotated[
        list[str] | None, typer.Option(metavar="TIME", help="Pause it then; may be repeated.", show_default=False)
    ] = None,
    resume: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TIME",
            help="Then end the pause of this plan, or the one that stands now; may be repeated.",
            show_default=False,
        ),
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'TIME FIELD=VALUE ...'",
            help="Change fields then, as with `update --set`; may be repeated.",
            show_default=False,
        ),
    ] = None,
    reason: Reason = "",
    target: Target = None,
    as_json: Json = False,
) -> None:
    """Say when a campaign starts and ends and what happens in between; a draft goes live.

    Times are ISO 8601 with their offset, 2026-11-27T00:00:00+01:00. This replaces what was planned before.
    """
    plans = _plans(pause or [], resume or [], change or [], reason)
    times = {
        option: instant(f"--{option}", text)
        for option, text in (("start", start), ("end", end))
        if text is not None and text != NOT_ANY_MORE
    }

    async def question(client: Client) -> Any:
        campaign = await client.get_campaign(campaign_id)
        definition = campaign.definition
        if start is None and definition.HasField("start_time"):
            times["start"] = definition.start_time.ToDatetime()
        if end is None and definition.HasField("end_time"):
            times["end"] = definition.end_time.ToDatetime()
        return await client.schedule_campaign(
            campaign_id,
            start_time=times.get("start"),
            end_time=times.get("end"),
            planned_changes=plans,
            etag=campaign.etag,
            reason=reason,
        )

    response = ask(target, question)
    if as_json:
        print_message(response)
        return
    show_campaign(response.campaign, as_json)
    if response.planned_changes:
        _print_changes(response.planned_changes)


@app.command("changes")
def campaign_changes(
    campaign_id: Annotated[
        str | None, typer.Argument(help="The campaign's id; without it, all.", show_default=False)
    ] = None,
    since: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Only those of then or later.", show_default=False)
    ] = None,
    before: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="Only those before then.", show_default=False)
    ] = None,
    target: Target = None,
    as_json: Json = False,
) -> None:
    """List changes that are or were planned, and what has become of them."""
    from_time, to_time = (
        None if text is None else instant(option, text) for option, text in (("--from", since), ("--to", before))
    )

    async def fetch(client: Client) -> list[PlannedChange]:
        found = client.list_planned_changes(campaign_id or "", from_time=from_time, to_time=to_time)
        return [change async for change in found]

    changes = ask(target, fetch)
    if as_json:
        print_json([as_dict(change) for change in changes])
    elif changes:
        _print_changes(changes)
    else:
        out.print("nothing is planned; plan changes with `vouchsafe campaign schedule`")


@app.command("cancel-change")
def campaign_cancel_change(
    change_id: Annotated[int, typer.Argument(min=1, help="As `changes` shows it.", show_default=False)],
    reason: Reason = "",
    target: Target = None,
    as_json: Json = False,
) -> None:
    """Cancel a planned change. Once this returns, it is never carried out."""
    change = ask(target, lambda client: client.cancel_planned_change(change_id, reason))
    if as_json:
        print_message(change)
    else:
        _print_changes([change])


def change_text(plan: ChangePlan) -> str:
    """What is planned, in a few words."""
    match plan.WhichOneof("change"):
        case "pause":
            return "pause"
        case "resume":
            return "resume"
        case "update":
            return "change " + (", ".join(plan.update.update_mask.paths) or "the whole definition")
        case _:
            return "?"


def _print_changes(changes: Sequence[PlannedChange]) -> None:
    from vouchsafe.client import PlannedChangeState

    rows = [
        {
            "id": f"{change.id}",
            "campaign": change.campaign_id,
            "time": change.plan.time.ToJsonString(),
            "change": change_text(change.plan),
            "state": PlannedChangeState.Name(change.state).removeprefix("PLANNED_CHANGE_STATE_").lower(),
            "since": change.end_time.ToJsonString() if change.HasField("end_time") else "",
            "why": change.note or ("ends the pause" if change.of_pause else ""),
        }
        for change in changes
    ]
    print_rows(rows, right=("id",), whole="campaign")


def _plans(pause: Sequence[str], resume: Sequence[str], change: Sequence[str], reason: str) -> list[ChangePlan]:
    """In the order of the options; that of their times is the server's to make."""
    from vouchsafe.client import ChangePlan, PlannedPause, PlannedResume, PlannedUpdate

    plans = [(instant("--pause", text), ChangePlan(pause=PlannedPause(reason=reason))) for text in pause]
    plans += [(instant("--resume", text), ChangePlan(resume=PlannedResume(reason=reason))) for text in resume]
    for text in change:
        moment, *assignments = shlex.split(text) or [""]
        definition, paths = _assigned("--change", assignments)
        plan = ChangePlan(update=PlannedUpdate(definition=definition))
        plan.update.update_mask.paths.extend(paths)
        plans.append((instant("--change", moment), plan))
    for time, plan in plans:
        plan.time.FromDatetime(time)
    return [plan for _, plan in plans]


def _assigned(option: str, assignments: Sequence[str]) -> tuple[CampaignDefinition, list[str]]:
    """A definition with the fields that are assigned, and their paths; or exit status 2 with what is wrong."""
    from vouchsafe.cli.files import read_tree
    from vouchsafe.client import CampaignDefinition
    from vouchsafe.edge.files import fill

    tree: dict[str, Any] = {}
    paths = []
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise typer.BadParameter(f"{option} {assignment}: give FIELD=VALUE, such as limits.total=500")
        *parents, name = path.split(".")
        inner = tree
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise typer.BadParameter(f"{option}: {path} is a part of what another assignment sets")
        try:
            if text:
                inner[name] = read_tree(text.encode())
        except ValueError as error:
            raise typer.BadParameter(f"{option} {path}: {error}") from None
        paths.append(path)
    if not paths:
        raise typer.BadParameter(f"{option}: give FIELD=VALUE, such as limits.total=500")
    definition = CampaignDefinition()
    if violations := fill(definition, tree):
        for one in violations:
            err.print(f"error: {option} {one.field}: {one.description}", markup=False)
        raise typer.Exit(ExitStatus.USAGE)
    return definition, paths
