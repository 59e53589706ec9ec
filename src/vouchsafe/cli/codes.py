"""Commands for codes: make them by the million or one by one, look at them, give them away, stop them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vouchsafe.cli.common import ExitStatus, Json, Target, as_dict, ask, err, out, print_json, print_message, span_ms
from vouchsafe.cli.tables import print_rows, progress_bar

if TYPE_CHECKING:
    from vouchsafe.client import Client, Code, CodeFilter, ImportCodesResponse, Operation

READ_BYTES = 262_144

ACode = Annotated[str, typer.Argument(help="The code.", show_default=False)]
Campaign = Annotated[str, typer.Option("--campaign", help="The campaign's id.", show_default=False)]
Customer = Annotated[str, typer.Option("--customer", help="The customer's id.", show_default=False)]
Reason = Annotated[str, typer.Option(help="Why, for those who look later.")]
ValidFor = Annotated[
    str | None,
    typer.Option(
        help="How long it is valid from now on: 90m, 36h, 14d; without it, as the campaign says.", show_default=False
    ),
]
OnlyCampaign = Annotated[str, typer.Option("--campaign", help="Only those of this campaign.", show_default=False)]
OnlyState = Annotated[
    str, typer.Option("--state", help="Only those that are available, assigned or disabled.", show_default=False)
]
OnlyHolder = Annotated[str, typer.Option("--customer", help="Only those given to this customer.", show_default=False)]

app = typer.Typer(help="Generate, import, give away, stop and look at codes.", no_args_is_help=True)


@app.command("generate")
def codes_generate(
    campaign: Campaign,
    count: Annotated[int, typer.Option(min=1, help="How many, exactly.", show_default=False)],
    length: Annotated[int, typer.Option(min=0, max=64, help="How many characters are drawn.", show_default="12")] = 0,
    prefix: Annotated[str, typer.Option(help="What stands before them.")] = "",
    postfix: Annotated[str, typer.Option(help="What stands behind them.")] = "",
    pattern: Annotated[str, typer.Option(help="Instead of --length: ####-####, each # is drawn.")] = "",
    charset: Annotated[str, typer.Option(help="Characters to choose from; without it, none that look alike.")] = "",
    use_limit: Annotated[int, typer.Option(min=1, help="How often each may be used.")] = 1,
    operation: Annotated[
        str | None, typer.Option(help="An id, to go on with the operation that has it.", show_default=False)
    ] = None,
    wait: Annotated[bool, typer.Option(help="Return when all are there.")] = True,
    reason: Reason = "",
    target: Target = None,
    as_json: Json = False,
) -> None:
    """Generate codes that nobody can guess. It goes on in the service, whatever becomes of this command."""
    from vouchsafe.client import CodeForm

    form = CodeForm(charset=charset, length=length, prefix=prefix, postfix=postfix, pattern=pattern)

    async def generate(client: Client) -> Operation:
        begun = await client.generate_codes(
            campaign, count, form=form, use_limit=use_limit, operation_id=operation, reason=reason
        )
        return await _followed(client, begun) if wait else begun

    _show_operation(ask(target, generate), as_json)


@app.command("operations")
def codes_operations(campaign: OnlyCampaign = "", target: Target = None, as_json: Json = False) -> None:
    """List what was or is being generated, newest first."""

    async def fetch(client: Client) -> list[Operation]:
        return [operation async for operation in client.list_operations(campaign_id=campaign)]

    operations = ask(target, fetch)
    if as_json:
        print_json([as_dict(operation) for operation in operations])
        return
    for operation in operations:
        _show_operation(operation, as_json=False)


@app.command("import")
def codes_import(
    campaign: Campaign,
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV; its first line names the columns: code, use_limit, customer_id.", exists=True, dir_okay=False
        ),
    ],
    all_or_nothing: Annotated[bool, typer.Option(help="Import nothing when a line is bad.")] = False,
    reason: Reason = "",
    target: Target = None,
    as_json: Json = False,
) -> None:
    """Import codes. Exit status 1 when a line is bad."""

    async def send(client: Client) -> ImportCodesResponse:
        with progress_bar() as progress:
            task = progress.add_task("bytes", total=file.stat().st_size)

            async def pieces() -> AsyncIterator[bytes]:
                with file.open("rb") as opened:
                    while piece := await asyncio.to_thread(opened.read, READ_BYTES):
                        yield piece
                        progress.advance(task, len(piece))

            return await client.import_codes(campaign, pieces(), all_or_nothing=all_or_nothing, reason=reason)

    report = ask(target, send)
    if as_json:
        print_message(report)
    else:
        out.print(f"imported {report.imported_count:,} codes; bad lines: {report.bad_line_count:,}")
        for line in report.bad_lines:
            err.print(f"  line {line.line}: {line.reason}", markup=False)
    if report.bad_line_count:
        raise typer.Exit(ExitStatus.FAILED)


@app.command("export")
def codes_export(
    campaign: OnlyCampaign = "",
    state: OnlyState = "",
    customer: OnlyHolder = "",
    file: Annotated[Path | None, typer.Option(help="Where to write; without it, stdout.", show_default=False)] = None,
    reason: Reason = "",
    target: Target = None,
) -> None:
    """Export codes as CSV."""
    wanted = _filter(campaign, state, customer)

    async def fetch(client: Client) -> None:
        with file.open("wb") if file else sys.stdout.buffer as opened:
            async with aclosing(client.export_codes(wanted, reason)) as pieces:
                async for piece in pieces:
                    opened.write(piece)

    ask(target, fetch)


@app.command("list")
def codes_list(
    campaign: OnlyCampaign = "",
    state: OnlyState = "",
    customer: OnlyHolder = "",
    used: Annotated[
        bool | None, typer.Option("--used/--unused", help="Only those that are, or are not.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="No more than so many.")] = 100,
    target: Target = None,
    as_json: Json = False,
) -> None:
    """List codes in their order."""
    wanted = _filter(campaign, state, customer)

    async def fetch(client: Client) -> list[Code]:
        found: list[Code] = []
        async for code in client.list_codes(wanted, is_used=used, page_size=min(limit, 500)):
            found.append(code)
            if len(found) == limit:
                break
        return found

    codes = ask(target, fetch)
    if as_json:
        print_json([as_dict(code) for code in codes])
    else:
        _show_table(codes)


@app.command("get")
def codes_get(code: ACode, target: Target = None, as_json: Json = False) -> None:
    """Show a code as of now."""
    _show(ask(target, lambda client: client.get_code(code)), as_json)


@app.command("assign")
def codes_assign(
    code: ACode,
    customer: Customer,
    valid_for: ValidFor = None,
    reason: Reason = "",
    target: Target = None,
    as_json: Json = False,
) -> None:
    """Give a code to a customer."""
    seconds = _seconds(valid_for)
    _show(ask(target, lambda client: client.assign_code(code, customer, valid_for_s=seconds, reason=reason)), as_json)


@app.command("disable")
def codes_disable(code: ACode, reason: Reason = "", target: Target = None, as_json: Json = False) -> None:
    """Stop a code. Once this returns, no later redemption of it succeeds on any server."""
    _show(ask(target, lambda client: client.disable_code(code, reason)), as_json)


@app.command("enable")
def codes_enable(code: ACode, reason: Reason = "", target: Target = None, as_json: Json = False) -> None:
    """Let a code be used again."""
    _show(ask(target, lambda client: client.enable_code(code, reason)), as_json)


@app.command("gift")
def codes_gift(
    campaign: Campaign,
    customer: Customer,
    valid_for: ValidFor = None,
    request_id: Annotated[
        str | None, typer.Option(help="The same id again gives the same code.", show_default=False)
    ] = None,
    qr: Annotated[
        Path | None, typer.Option(help="Also draw it as a QR picture: an .svg file.", show_default=False)
    ] = None,
    reason: Reason = "",
    target: Target = None,
    as_json: Json = False,
) -> None:
    """Make one code for a customer and print it."""
    seconds, draw = _seconds(valid_for), _qr_writer(qr)
    code = ask(
        target,
        lambda client: client.gift_code(campaign, customer, valid_for_s=seconds, request_id=request_id, reason=reason),
    )
    draw(code.code)
    if as_json:
        print_message(code)
    else:
        out.print(code.code, markup=False)


async def _followed(client: Client, begun: Operation) -> Operation:
    """The operation at its end, with a bar until then."""
    latest = begun
    with progress_bar() as progress:
        task = progress.add_task("codes", total=begun.wanted_count)
        async for latest in client.follow_operation(begun.id):
            progress.update(task, completed=latest.done_count)
    return latest


def _qr_writer(path: Path | None) -> Callable[[str], None]:
    """Draws a code there; says what is missing before there is a code to draw."""
    if path is None:
        return lambda _code: None
    try:
        import segno
    except ImportError:
        raise typer.BadParameter("--qr needs the extra `qr`: pip install 'vouchsafe[qr]'") from None
    if path.suffix != ".svg":
        raise typer.BadParameter(f"--qr {path}: the name has to end with .svg")
    return lambda code: segno.make(code, micro=False).save(str(path), scale=8)


def _filter(campaign: str, state: str, customer: str) -> CodeFilter:
    from vouchsafe.client import CodeFilter, CodeState

    names = {name.removeprefix("CODE_STATE_").lower(): number for name, number in CodeState.items() if number}
    if state and state not in names:
        raise typer.BadParameter(f"--state {state}: give one of {', '.join(names)}")
    wanted = CodeFilter(campaign_id=campaign, customer_id=customer)
    if state:
        wanted.state = names[state]
    return wanted


def _seconds(valid_for: str | None) -> float | None:
    return None if valid_for is None else span_ms("--valid-for", valid_for) / 1000


def _show(code: Code, as_json: bool) -> None:
    if as_json:
        print_message(code)
    else:
        _show_table([code])


def _show_table(codes: list[Code]) -> None:
    """A row a code."""
    from vouchsafe.client import CodeState

    rows = [
        {
            "code": code.code,
            "campaign": code.campaign_id,
            "state": CodeState.Name(code.state).removeprefix("CODE_STATE_").lower(),
            "used": f"{code.used_count}",
            "of": f"{code.use_limit}" if code.use_limit else "",
            "customer": code.customer_id,
            "given": code.assign_time.ToJsonString() if code.HasField("assign_time") else "",
            "valid until": code.expire_time.ToJsonString() if code.HasField("expire_time") else "",
            "reason": code.disabled_reason,
        }
        for code in codes
    ]
    if rows:
        print_rows(rows, right=("used", "of"), whole="code")
    else:
        out.print("no such codes")


def _show_operation(operation: Operation, as_json: bool) -> None:
    from vouchsafe.client import OperationState

    if as_json:
        print_message(operation)
        return
    state = OperationState.Name(operation.state).removeprefix("OPERATION_STATE_").lower()
    out.print(
        f"{state}: {operation.done_count:,} of {operation.wanted_count:,} codes {operation.pattern} for "
        f"{operation.campaign_id}; one guess in {operation.guesses_per_code:,.0f} is one of them  "
        f"operation {operation.id}" + (f"  {operation.error}" if operation.error else ""),
        markup=False,
    )
