"""Completion for a shell that is named; `--install-completion` and `--show-completion` look which one they are in."""

from __future__ import annotations

from enum import StrEnum

import typer
from typer._completion_shared import get_completion_script

app = typer.Typer()


class Shell(StrEnum):
    """The shells that a script can be had for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"
    POWERSHELL = "powershell"


@app.command()
def completion(shell: Shell) -> None:
    """Print the script that makes a shell complete commands and options, to be put where that shell looks for it."""
    typer.echo(get_completion_script(prog_name="vouchsafe", complete_var="_VOUCHSAFE_COMPLETE", shell=shell.value))
