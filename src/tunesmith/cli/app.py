"""The command line's root: the groups of commands, what all of them share, and the terminal they speak through."""

from __future__ import annotations

from typing import Annotated

import typer

from tunesmith import __version__
from tunesmith.cli.terminal import Terminal
from tunesmith.i18n import _

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help=_("From a file of conversations to a fine-tuned language model, with proof of what was done."),
    epilog=_("With any command: --no-color leaves colours out, --debug shows where an error came from."),
)
data_app = typer.Typer(help=_("Look at data and prepare it."), no_args_is_help=True, rich_markup_mode=None)
model_app = typer.Typer(help=_("Look at a model."), no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")
app.add_typer(model_app, name="model")

terminal = Terminal()


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help=_("Show the version."))] = False) -> None:
    if version:
        print(f"tunesmith {__version__}")
        raise typer.Exit
