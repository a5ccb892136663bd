"""The page of all commands: what each says under --help, one section a command. `make docs` writes it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any

from typer.main import get_command

from tunesmith.cli import commands, data, trying  # noqa: F401 -- their commands register themselves
from tunesmith.cli.app import app
from tunesmith.i18n import _

WIDTH = 100  # columns of a help text, whatever the terminal of whoever writes the page


def markdown() -> str:
    lines = [_("# Commands"), "", _("Written by `make docs` from the commands' own help."), ""]
    for words in _commands(get_command(app)):
        lines += [f"## {' '.join(('tunesmith', *words))}", "", "```text", _help(words), "```", ""]
    return "\n".join(lines[:-1]) + "\n"


def _commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command as the words that call it, groups before what is in them."""
    yield words
    for name, inner in getattr(command, "commands", {}).items():
        yield from _commands(inner, (*words, name))


def _help(words: tuple[str, ...]) -> str:
    shown = io.StringIO()
    with redirect_stdout(shown):
        app(args=[*words, "--help"], prog_name="tunesmith", standalone_mode=False, terminal_width=WIDTH)
    return "\n".join(line.rstrip() for line in shown.getvalue().strip().splitlines())


if __name__ == "__main__":
    print(markdown(), end="")
