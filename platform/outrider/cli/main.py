"""The `outrider` command. Groups are mounted by name, so `outrider policy check` loads neither torch nor Ray."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

import outrider
from outrider.errors import OutriderError

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "bench": "Measure speed, acceptance and exactness on this machine.",
    "chat": "Talk to a model in this terminal, without a server.",
    "draft": "Make a drafter for a target: data, training, evaluation, calibration.",
    "eval": "Measure what answers are worth, and compare two runs.",
    "keys": "Make and revoke API keys.",
    "models": "Build and list the demo models.",
    "policy": "Check a policy, compare two, and explain what one decides.",
    "profile": "Measure what a round's parts cost on this machine.",
    "spend": "Who spent what, and what a completed workflow costs.",
}
"""Each command lives in `outrider.cli.<name>` (`eval` in `evals`), which has a typer application named `app`."""

_MODULES = {"eval": "evals"}


class _LazyCommand(TyperCommand):
    """Stands in for a command until it is called: help texts come from the table, everything else from its module."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Import the real command and go on with it."""
        module = importlib.import_module(f"outrider.cli.{_MODULES.get(str(self.name), self.name)}")
        command = typer.main.get_command(module.app)
        return command.make_context(info_name, args, parent, **extra)


class _Commands(TyperGroup):
    """The table above as a command group."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in alphabetical order."""
        return sorted(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A stand-in, or None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        return _LazyCommand(name=cmd_name, callback=None, help=COMMANDS[cmd_name])


_app = typer.Typer(
    name="outrider",
    cls=_Commands,
    help="Serve open-weight models with speculative decoding, routed by a policy file.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"outrider {outrider.__version__}")
        raise typer.Exit


@_app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Print it."),
) -> None:
    """Options that stand before the command."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 an error said on stderr line by line, 2 wrong usage."""
    command = typer.main.get_command(_app)
    try:
        command(args=None if arguments is None else list(arguments), prog_name="outrider")
    except OutriderError as error:
        for line in error.message.splitlines():
            typer.echo(f"outrider: {line}", err=True)
        sys.exit(1)
