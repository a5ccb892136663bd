"""The command line: words to actions, errors to lines. Holds no logic of its own; loads neither torch nor transformers
until a command needs them."""

from __future__ import annotations

import sys

from tunesmith.errors import TunesmithError
from tunesmith.i18n import _
from tunesmith.log import escape

DEBUG = "--debug"


def main(words: list[str] | None = None) -> int:
    """Runs a command line and returns its exit code: 0, 2 for what the user can mend, 130 for Ctrl-C, else 1."""
    words = list(sys.argv[1:] if words is None else words)
    debug = DEBUG in words
    words = [word for word in words if word != DEBUG]
    import click

    from tunesmith.cli.commands import app

    try:
        return app(args=words, prog_name="tunesmith", standalone_mode=False) or 0
    except TunesmithError as error:
        if debug:
            raise
        return _refuse(error)
    except click.ClickException as error:
        _say(error.format_message())
        _say(_("See tunesmith --help."))
        return 2
    except (KeyboardInterrupt, click.Abort):
        _say(_("Stopped."))
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:
        if debug:
            raise
        _say(_("This should not have happened: {kind}: {error}").format(kind=type(error).__name__, error=error))
        _say(_("Run the same command with --debug to see where, and report it."))
        return 1


def _refuse(error: TunesmithError) -> int:
    for problem in error.problems:
        _say(str(problem))
    if len(error.problems) > 1:
        _say(_("{n} problems. Nothing was trained.").format(n=len(error.problems)))
    return error.exit_code


def _say(text: str) -> None:
    print(escape(text, keep="\n"), file=sys.stderr)
