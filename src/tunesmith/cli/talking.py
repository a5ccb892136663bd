"""A talk on the terminal: typed, or played from a script; every answer appears as it is written.

Questions come from standard input, answers go to standard output, all else to standard error. What is shown is escaped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from tunesmith.actions.chat import BASE, TUNED, Turn
from tunesmith.cli.app import terminal
from tunesmith.cli.opening import pick
from tunesmith.conversation import Message
from tunesmith.errors import TunesmithError
from tunesmith.i18n import _
from tunesmith.log import escape

if TYPE_CHECKING:
    from tunesmith.actions.chat import Dialogue, Talk

QUIT, NEW = "q", "/new"
NARROW, WIDE = 70, 2  # characters of a system prompt in a menu; columns of a Chinese one


def converse(talk: Talk) -> None:
    """Question by question. q or the end of input leaves; Ctrl-C stops an answer, and that question is forgotten."""
    typed = sys.stdin.isatty()
    if typed:
        with suppress(ImportError):  # where it is, lines can be edited and called back
            import readline  # noqa: F401
        terminal.say(_("Write, and press Enter. Ctrl-C stops an answer, /new begins a new dialogue, q leaves."))
    talk.begin()
    while True:
        try:
            text = input("> " if typed else "").strip()
        except EOFError:
            break
        if text.lower() == QUIT:
            break
        if text == NEW:
            talk.begin()
            terminal.say(_("A new dialogue."))
        elif text:
            _exchange(talk, Turn((Message("user", text),), None))
    terminal.say(_("That was it. See you tomorrow!"))


def _exchange(talk: Talk, turn: Turn) -> None:
    try:
        _answers(talk, turn)
        talk.keep(turn)
    except KeyboardInterrupt:
        print()
        terminal.say(_("Stopped; this question is forgotten."))
    except TunesmithError as error:
        terminal.say(str(error) + " " + _("/new begins a new dialogue."))


def play(talk: Talk, script: Sequence[Dialogue], *, gold_history: bool = False) -> None:
    """Every dialogue of a script, with the file's own answers beside the model's."""
    for number, dialogue in enumerate(script, start=1):
        if number > 1:
            print()
        terminal.say(_("Dialogue {n} of {total}, {place}").format(n=number, total=len(script), place=dialogue.place))
        talk.begin(dialogue)
        if dialogue.system:
            _show("system", dialogue.system)
        for turn in dialogue.turns:
            for message in turn.said:
                _show(message.role, message.content)
            _answers(talk, turn, named=True)
            talk.keep(turn, gold_history=gold_history)
            if turn.expected is not None:
                _show("file", turn.expected.content)
    if talk.transcript is not None:
        terminal.say(_("Written to {path}.").format(path=talk.transcript))


def _answers(talk: Talk, turn: Turn, *, named: bool = False) -> None:
    """Streams what each model says; where there are several, each under its name."""
    named = named or len(talk.sessions) > 1
    with closing(talk.say(turn.said)) as answers:
        for name, pieces in answers:
            print(_label(name) if named else "", end="", flush=True)
            for piece in pieces:
                print(escape(piece, keep="\n\t"), end="", flush=True)
            print("" if named else "\n")
            last = talk.sessions[name].last
            if last is not None and not last.finished:
                text = _("The answer was cut after {n} tokens; --max-new-tokens raises the limit.")
                terminal.say(text.format(n=last.tokens))


def choose_system(systems: Sequence[str]) -> str:
    """Which of the training's system prompts this talk is under."""
    terminal.say(_("The rows were trained under different system prompts:"))
    for number, text in enumerate(systems, start=1):
        line = " ".join(text.split()) or _("(none)")
        terminal.say(f"{number:3}  " + (line if len(line) <= NARROW else line[: NARROW - 1] + "…"))
    return systems[pick(len(systems)) - 1]


def _show(name: str, text: str) -> None:
    print(_label(name) + escape(text, keep="\n\t"), flush=True)


def _label(name: str) -> str:
    """The speaker in a column of its own; bold where a person looks."""
    names = _names()
    text = names.get(name, name)
    padding = " " * (max(map(_columns, names.values())) - _columns(text) + 2)
    return (f"\x1b[1m{text}\x1b[0m" if sys.stdout.isatty() else text) + padding


def _names() -> dict[str, str]:
    return {
        "system": _("system"),
        "user": _("user"),
        "tool": _("tool"),
        TUNED: _("answer"),
        BASE: _("base"),
        "file": _("file"),
    }


def _columns(text: str) -> int:
    from unicodedata import east_asian_width

    return sum(WIDE if east_asian_width(character) in "WF" else 1 for character in text)
