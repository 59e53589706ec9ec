"""Commands for campaign files: test them, apply them to a server, write one of a campaign that stands."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from vouchsafe.cli.common import ExitStatus, Json, Target, ask, err, out, print_json

if TYPE_CHECKING:
    from vouchsafe.cli.cases import Result
    from vouchsafe.cli.files import CampaignFile
    from vouchsafe.client import Campaign, CampaignDefinition, Client

Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Campaign files.", show_default=False)]

# Of a unified diff, by the first character of a line.
STYLES = {"+": "green", "-": "red", "@": "cyan"}

app = typer.Typer()


@app.command("test")
def campaign_test(files: Files, as_json: Json = False) -> None:
    """Run the tests of campaign files, without a server. Exit status 1 when one does not hold, 2 for a wrong file."""
    from vouchsafe.cli.cases import run

    reports = []
    for file in _read(files):
        results = run(file.definition, file.cases)
        failed = sum(1 for result in results if result.broken)
        reports.append(
            {
                "file": str(file.path),
                "campaign": file.campaign_id,
                "ok": len(results) - failed,
                "failed": failed,
                "cases": [_report(result) for result in results],
            }
        )
    if as_json:
        print_json(reports)
    else:
        for report in reports:
            _print_report(report)
    if any(report["failed"] or not report["cases"] for report in reports):
        raise typer.Exit(ExitStatus.FAILED)


@app.command("apply")
def campaign_apply(
    files: Files,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only ask the server; change nothing.")] = False,
    reason: Annotated[str, typer.Option(help="Why, for those who look later.")] = "",
    target: Target = None,
    as_json: Json = False,
) -> None:
    """Make campaigns what their files say: create those that are new, update those whose definition differs."""
    reports: list[dict[str, Any]] = []

    async def question(client: Client) -> None:
        for file in parsed:
            report: dict[str, Any] = {"file": str(file.path), "campaign": file.campaign_id}
            reports.append(report)
            await apply_file(client, file, report, dry_run=dry_run, show=not as_json, reason=reason)

    parsed = _read(files)
    _refuse_twins(parsed)
    try:
        ask(target, question)
    finally:
        if as_json:
            print_json(reports)
    if any("error" in report for report in reports):
        raise typer.Exit(ExitStatus.FAILED)


@app.command("export")
def campaign_export(
    campaign_id: Annotated[str, typer.Argument(help="The campaign's id.", show_default=False)],
    target: Target = None,
    as_json: Json = False,
) -> None:
    """Print a campaign's definition as a file that `apply` takes. Codes and tests are not in it."""
    campaign = ask(target, lambda client: client.get_campaign(campaign_id))
    from vouchsafe.cli.files import write_tree
    from vouchsafe.client import CampaignState
    from vouchsafe.edge.files import normal, tree_of

    is_draft = campaign.state == CampaignState.CAMPAIGN_STATE_DRAFT
    tree = {"campaign": campaign.id, **({"draft": True} if is_draft else {})}
    tree["definition"] = tree_of(normal(campaign.definition))
    if as_json:
        print_json(tree)
    else:
        sys.stdout.write(write_tree(tree))


def _read(paths: Sequence[Path]) -> list[CampaignFile]:
    """The files, or exit status 2 with a line for all that is wrong with any."""
    from vouchsafe.cli.files import BadFile, read

    files = []
    wrong = False
    for path in paths:
        try:
            files.append(read(path))
        except BadFile as error:
            wrong = True
            for line in error.lines:
                err.print(f"error: {line}", markup=False)
    if wrong:
        raise typer.Exit(ExitStatus.USAGE)
    return files


def _refuse_twins(files: Sequence[CampaignFile]) -> None:
    seen: dict[str, Path] = {}
    for file in files:
        other = seen.setdefault(file.campaign_id, file.path)
        if other is not file.path:
            err.print(f"error: {file.path}: campaign: {file.campaign_id} stands in {other}, too", markup=False)
            raise typer.Exit(ExitStatus.USAGE)


# -- testing -----------------------------------------------------------------------------------------------------------


def _report(result: Result) -> dict[str, Any]:
    import msgspec

    expected = result.case.expected
    report: dict[str, Any] = {"name": result.case.name, "ok": not result.broken}
    if result.broken:
        # Of an outcome of the other kind, everything says something.
        same_kind = "refused" in expected if "refused" in result.found else "refused" not in expected
        shown = result.broken if same_kind else [name for name, value in result.found.items() if value not in ([], {})]
        report["expected"] = {name: expected[name] for name in result.broken}
        report["found"] = {name: result.found[name] for name in shown if name in result.found}
        report["trace"] = msgspec.to_builtins(result.trace)
    return report


def _print_report(report: dict[str, Any]) -> None:
    out.print(f"{report['file']}: campaign {report['campaign']}", markup=False)
    for case in report["cases"]:
        if case["ok"]:
            out.print(f"  ok      {case['name']}", markup=False)
            continue
        out.print(Text.assemble("  ", ("FAILED", "bold red"), f"  {case['name']}"))
        out.print(f"          expected  {_said(case['expected'])}", markup=False)
        out.print(f"          found     {_said(case['found'])}", markup=False)
        for entry in case["trace"]:
            out.print("          " + _looked_at(entry), markup=False)
    if not report["cases"]:
        out.print("  has no tests; give it some under `tests`", markup=False)
    else:
        out.print(f"  {report['ok']} ok, {report['failed']} failed", markup=False)


def _said(outcome: dict[str, Any]) -> str:
    return "  ".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in outcome.items())


def _looked_at(entry: dict[str, Any]) -> str:
    saw = f", saw {entry['saw']}" if entry["saw"] else ""
    note = f" ({entry['note']})" if entry["note"] else ""
    return f"{'held' if entry['held'] else 'not held':8}  {entry['path']}: wanted {entry['wanted']}{saw}{note}"


# -- applying ----------------------------------------------------------------------------------------------------------


async def apply_file(
    client: Client, file: CampaignFile, report: dict[str, Any], *, dry_run: bool, show: bool, reason: str = ""
) -> None:
    """Brings one campaign to what its file says, and reports it. What the server is against is an `error` there; that
    it cannot be reached is raised."""
    from vouchsafe.cli.files import place
    from vouchsafe.client import Changed, ClientError, DeadlineExceeded, Unavailable

    try:
        await _create_or_update(client, file, report, dry_run=dry_run, show=show, reason=reason)
    except (Unavailable, DeadlineExceeded):
        raise
    except Changed:
        report["error"] = "has changed since it was read and was left alone; apply again to see the difference"
    except ClientError as error:
        report["error"] = f"{error.code.name}: {error}"
        report["violations"] = [
            {"field": place(field), "description": description} for field, description in error.violations.items()
        ]
    if show:
        _print_outcome(report)


async def _create_or_update(
    client: Client, file: CampaignFile, report: dict[str, Any], *, dry_run: bool, show: bool, reason: str
) -> None:
    from vouchsafe.client import CampaignState, NotFound
    from vouchsafe.edge.files import normal

    id_ = file.campaign_id
    try:
        current = await client.get_campaign(id_)
    except NotFound:
        await client.create_campaign(
            id_,
            file.definition,
            shared_codes=file.shared_codes,
            single_use_codes=file.single_use_codes,
            assigned_codes=file.assigned_codes,
            draft=file.is_draft,
            validate_only=dry_run,
            reason=reason,
        )
        report["outcome"] = ("would be created" if dry_run else "created") + (" as a draft" if file.is_draft else "")
        if file.is_draft:
            report["note"] = _to_go_live(id_)
        return
    notes = []
    if file.names_codes:
        notes.append("its codes stay as they are: only a new campaign is given those of the file")
    if current.state == CampaignState.CAMPAIGN_STATE_DRAFT:
        notes.append(_to_go_live(id_))
    elif file.is_draft:
        notes.append("it is no draft any more, and stays so: take `draft` out of the file")
    if notes:
        report["note"] = "; ".join(notes)
    if normal(current.definition) == normal(file.definition):
        report["outcome"] = "unchanged"
        return
    report["diff"] = _diff(current, file.definition, file.path)
    if show:
        for line in report["diff"]:
            out.print(Text(line, STYLES.get(line[0], "")))
    updated = await client.update_campaign(
        id_, file.definition, etag=current.etag, validate_only=dry_run, reason=reason
    )
    report["outcome"] = "would be updated" if dry_run else f"updated to version {updated.version}"


def _to_go_live(campaign_id: str) -> str:
    return f"it is a draft until `vouchsafe campaign schedule {campaign_id}` takes it live"


def _diff(current: Campaign, definition: CampaignDefinition, path: Path) -> list[str]:
    from vouchsafe.cli.files import write_tree
    from vouchsafe.edge.files import normal, tree_of

    before, after = (write_tree(tree_of(normal(one))).splitlines() for one in (current.definition, definition))
    name = f"{current.id}, version {current.version}"
    return list(difflib.unified_diff(before, after, name, str(path), lineterm=""))


def _print_outcome(report: dict[str, Any]) -> None:
    head = f"{report['file']}: campaign {report['campaign']}"
    if "error" in report:
        err.print(f"error: {head}: {report['error']}", markup=False)
        for one in report.get("violations", ()):
            err.print("  " + ": ".join(filter(None, one.values())), markup=False)
    else:
        out.print("; ".join(filter(None, [f"{head} {report['outcome']}", report.get("note")])), markup=False)
