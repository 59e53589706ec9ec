"""Commands for the kill switch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vouchsafe.cli.common import ExitStatus, Json, Target, ask, out, print_message
from vouchsafe.cli.tables import print_rows

if TYPE_CHECKING:
    from vouchsafe.client import KillSwitch, KillSwitchScope, KillSwitchState

Everything = Annotated[bool, typer.Option("--everything", help="All codes of all campaigns.")]
Label = Annotated[str | None, typer.Option(help="All campaigns with this label.", show_default=False)]
Code = Annotated[str | None, typer.Option(help="One code.", show_default=False)]
Reason = Annotated[str, typer.Option(help="Why, for those who look later.")]

# Exit status of `status` where nobody can say for certain.

app = typer.Typer(help="Stop redeeming at once, and let it go on.", no_args_is_help=True)


@app.command("engage")
def engage(
    everything: Everything = False,
    label: Label = None,
    code: Code = None,
    reason: Reason = "",
    target: Target = None,
    as_json: Json = False,
) -> None:
    """Stop redeeming. Once this returns, no later redemption within the scope succeeds on any server."""
    scope = _scope(everything, label, code)
    _show(ask(target, lambda client: client.engage_kill_switch(scope, reason)), as_json)


@app.command("release")
def release(
    everything: Everything = False,
    label: Label = None,
    code: Code = None,
    reason: Reason = "",
    target: Target = None,
    as_json: Json = False,
) -> None:
    """Let redeeming go on, as far as no other kill switch or pause stops it."""
    scope = _scope(everything, label, code)
    _show(ask(target, lambda client: client.release_kill_switch(scope, reason)), as_json)


@app.command("status")
def status(target: Target = None, as_json: Json = False) -> None:
    """Show what is stopped. Exit status 4: not all partitions can be asked, so nobody can say for certain."""
    from vouchsafe.client import KillSwitchState

    found = ask(target, lambda client: client.get_kill_switch())
    if as_json:
        print_message(found)
    else:
        if found.kill_switches:
            _print_table(list(found.kill_switches))
        elif not found.unreachable_partitions:
            out.print("no kill switch is engaged")
        if found.unreachable_partitions:
            out.print(
                f"{found.unreachable_partitions} of {found.partitions} partitions cannot be asked: "
                "they redeem nothing now, and nobody can say whether they will when they are back"
            )
    if found.state == KillSwitchState.KILL_SWITCH_STATE_UNKNOWN:
        raise typer.Exit(ExitStatus.NOT_AS_IT_SHOULD_BE)


def _scope(everything: bool, label: str | None, code: str | None) -> KillSwitchScope:
    from vouchsafe.client import KillSwitchScope

    if everything + (label is not None) + (code is not None) != 1:
        raise typer.BadParameter("give one of --everything, --label and --code")
    if everything:
        return KillSwitchScope(everything=True)
    return KillSwitchScope(label=label) if label is not None else KillSwitchScope(code=code or "")


def _show(switch: KillSwitch, as_json: bool) -> None:
    if as_json:
        print_message(switch)
    else:
        _print_table([switch])


def _print_table(switches: list[KillSwitch]) -> None:
    rows = []
    for one in switches:
        scope = one.scope
        name = "everything" if scope.everything else f"label {scope.label}" if scope.label else f"code {scope.code}"
        moment = one.engage_time.ToJsonString() if one.HasField("engage_time") else ""
        rows.append({"kill switch": name, "state": _state_text(one.state), "engaged": moment, "reason": one.reason})
    print_rows(rows)


def _state_text(state: KillSwitchState.ValueType) -> str:
    from vouchsafe.client import KillSwitchState

    return KillSwitchState.Name(state).removeprefix("KILL_SWITCH_STATE_").replace("_", " ").lower()
