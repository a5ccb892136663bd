"""The command line: words to actions, errors to lines. Holds no logic of its own; loads neither torch nor transformers
until a command needs them."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import Any

from tunesmith.cli.flags import answers, without_rank
from tunesmith.errors import Stopped, TunesmithError
from tunesmith.i18n import _
from tunesmith.log import escape

DEBUG, NO_COLOR = "--debug", "--no-color"  # at any place of a command line
STOPPED, TERMINATED = 130, 143  # exit codes of what Ctrl-C, or a file named stop, and SIGTERM ended
LONGEST = 2000  # characters of a line; what is longer is somebody's data
NOTHING_TRAINED = ("train", "check")  # commands whose reader wants to hear that after a list of problems


def main(words: list[str] | None = None) -> int:
    """Runs a command line and returns its exit code: 0, 2 for what the user can mend, 130 or 143 if stopped, else 1."""
    _accept_every_character()
    words = list(sys.argv[1:] if words is None else words)
    debug = DEBUG in words
    if NO_COLOR in words:
        os.environ["NO_COLOR"] = "1"  # rich looks there
    words = without_rank([word for word in words if word not in (DEBUG, NO_COLOR)])
    from typer import Abort

    from tunesmith.cli import commands, data, trying, voting  # noqa: F401 -- their commands register themselves
    from tunesmith.cli.app import app

    try:
        code = app(args=words, prog_name="tunesmith", standalone_mode=False, obj=words) or 0
    except (KeyboardInterrupt, Abort):
        code = STOPPED
    except Stopped as stopped:
        code = stopped.exit_code
    except Exception as error:
        if debug:
            raise
        return _refuse(error, words)
    if code in (STOPPED, TERMINATED):
        _say(_("Stopped."))
    return code


def _accept_every_character() -> None:
    """A character that the console's encoding lacks, such as an emoji in GBK, is a question mark and not a crash."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def _refuse(error: Exception, words: list[str]) -> int:
    from typer import BadParameter

    usage = BadParameter.__mro__[2]  # the root of what a wrong command line raises; typer gives it no public name
    if isinstance(error, TunesmithError):
        return _list(error, words)
    if isinstance(error, usage):
        _say(_misused(error, words))
        return 2
    if isinstance(error, OSError) and error.filename:
        _say(f"{error.filename}  " + _("This can't be read or written: {why}.").format(why=error.strerror))
        return 2
    _say(_("This should not have happened: {kind}: {error}").format(kind=type(error).__name__, error=error))
    _say(_("Run the same command with --debug to see where, and report it."))
    return 1


def _list(error: TunesmithError, words: list[str]) -> int:
    """One line a problem, and how many there are. Where one has no place, it is the advice that closes the list."""
    for problem in error.problems:
        _say(str(problem))
    if len(error.problems) > 1 and all(problem.place for problem in error.problems):
        text = _("{n} problems. Nothing was trained.") if words[0] in NOTHING_TRAINED else _("{n} problems.")
        _say(text.format(n=len(error.problems)))
    return error.exit_code


def _misused(error: Any, words: list[str]) -> str:
    """What is wrong with a command line. Settings that were written as options are shown as what they are."""
    if getattr(error, "option_name", "") and (said := answers(words, error)):
        return "\n".join(said)
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "tunesmith"
    message = error.format_message()
    return (
        message + (" " if message.endswith((".", "?")) else ". ") + _("See {command} --help.").format(command=command)
    )


def _say(text: str) -> None:
    for line in escape(text, keep="\n").split("\n"):
        print(line if len(line) <= LONGEST else line[: LONGEST // 2] + "…" + line[-LONGEST // 2 :], file=sys.stderr)
