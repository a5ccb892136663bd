"""The commands in which a person judges answers: row by row, one key each.

Shows what is to be judged on standard output and asks on standard error. Keeps and counts nothing itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli.app import app, terminal
from tunesmith.cli.words import OutOption
from tunesmith.errors import ConfigError
from tunesmith.i18n import _
from tunesmith.log import escape

if TYPE_CHECKING:
    from tunesmith.actions.voting import Abtest, Rating

Voter = Annotated[str, typer.Option("--voter", help=_("Who votes: each voter has votes of their own."))]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help=_("Only so many rows, the same for every voter."))]
Show = Annotated[bool, typer.Option("--show", help=_("Only say what the votes say so far."))]

BACK, QUIT, NOTE = "b", "q", "n"


@app.command(help=_("Two results side by side, blind: a person votes for the better answer, row by row."))
def abtest(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="A B",
            help=_("Runs, checkpoints, folders or files of results; a run alone is tested against its base."),
            show_default=False,
        ),
    ],
    voter: Voter = "me",
    limit: Limit = None,
    show: Show = False,
    output: OutOption = None,
) -> None:
    from tunesmith.actions.voting import abtest as action
    from tunesmith.evaluate.abtest import FIRST, SECOND, SKIP, TIE

    keys = {"1": FIRST, "2": SECOND, "t": TIE, "s": SKIP}
    asked = _("1: the first is better, 2: the second, t: tie, s: skip, b: back, q: stop here")
    test = action(results, voter, out=output, limit=limit)

    def question(place: int) -> None:
        duel = test.rows[place]
        _show_row(place, len(test.rows), duel.prompt, duel.expected)
        for number, answer in enumerate(duel.answers, start=1):
            _show(_("Answer {n}").format(n=number), answer)

    _judge(test, show, question, asked, lambda place, key: _vote(test, place, keys.get(key)))


@app.command(help=_("A person marks the answers of a RUN: right or wrong, or with 1 to 5 points, and a note."))
def rate(
    results: Annotated[
        Path,
        typer.Argument(metavar="RUN", help=_("A run, a checkpoint, a folder or file of results."), show_default=False),
    ],
    points: Annotated[bool, typer.Option("--points", help=_("1 to 5 points instead of right and wrong."))] = False,
    voter: Voter = "me",
    limit: Limit = None,
    show: Show = False,
    output: OutOption = None,
) -> None:
    from tunesmith.actions.voting import rate as action
    from tunesmith.evaluate.rating import POINTS

    keys: dict[str, Any] = {str(n): n for n in POINTS} if points else {"r": True, "w": False}
    keys["s"] = None
    asked = _("r: right, w: wrong, s: skip, n: write a note first, b: back, q: stop here")
    if points:
        asked = _("1 to 5: points, s: skip, n: write a note first, b: back, q: stop here")
    rating, note = action(results, voter, out=output, limit=limit, points=points), ""

    def question(place: int) -> None:
        sheet = rating.rows[place]
        _show_row(place, len(rating.rows), sheet.prompt, sheet.expected)
        _show(_("Answer"), sheet.answer)

    def mark(place: int, key: str) -> bool:
        nonlocal note
        if key == NOTE:
            terminal.say(_("Your note on this row:"))
            note = sys.stdin.readline().strip()
        elif key in keys:
            rating.add(place, keys[key], note)
            note = ""
        return key in keys

    _judge(rating, show, question, asked, mark)


def _vote(test: Abtest, place: int, said: str | None) -> bool:
    if said is not None:
        test.add(place, said)
    return said is not None


def _judge(
    judged: Abtest | Rating,
    show: bool,
    question: Callable[[int], None],
    asked: str,
    answer: Callable[[int, str], bool],
) -> None:
    """Row by row through all that the voter has not judged yet, then the verdict; with `show` the verdict alone.

    `answer` takes a key at a row and says whether the row is judged by it.
    """
    if judged.voter.strip() == "":
        raise ConfigError(_("A voter needs a name."), place="--voter")
    if show or _asked_all([row.row for row in judged.rows], judged.given, question, asked, answer):
        for line in judged.lines():
            terminal.say(line)
        terminal.say(_("Votes: {path}").format(path=judged.votes.path))
        return
    left = sum(row.row not in judged.given() for row in judged.rows)
    terminal.say(_("{left} of {n} rows are left. The same command goes on.").format(left=left, n=len(judged.rows)))


def _asked_all(
    rows: Sequence[str],
    given: Callable[[], Any],
    question: Callable[[int], None],
    asked: str,
    answer: Callable[[int, str], bool],
) -> bool:
    """False where the voter stopped before the last row."""
    place = _next(rows, given())
    while place is not None:
        question(place)
        key = _key(asked)
        while key not in (BACK, QUIT) and not answer(place, key):
            key = _key(asked)
        if key == QUIT:
            return False
        place = max(0, place - 1) if key == BACK else _next(rows, given())
    return True


def _next(rows: Sequence[str], given: Any) -> int | None:
    return next((place for place, row in enumerate(rows) if row not in given), None)


def _key(asked: str) -> str:
    """A key pressed in a terminal; from a pipe the first letter of a line. The end of input is a stop."""
    terminal.say(asked)
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.strip()[:1].lower() if line else QUIT
    try:
        return typer.getchar()[:1].lower()
    except EOFError:
        return QUIT


def _show_row(place: int, n: int, prompt: Sequence[Any], expected: str) -> None:
    print(f"\n--- {place + 1}/{n} ---")
    for message in prompt:
        _show(str(message["role"]), str(message["content"]))
    _show(_("Expected"), expected)


def _show(title: str, text: str) -> None:
    head = f"\x1b[1m{title}\x1b[0m" if sys.stdout.isatty() else title
    print(f"{head}\n{escape(text, keep=chr(10) + chr(9))}\n", flush=True)
