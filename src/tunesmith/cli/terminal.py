"""The terminal: lines, bars, colours. All that is shown is escaped; rich is loaded when a bar or colour is drawn."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tunesmith.actions.voice import Advance, Voice
from tunesmith.i18n import _
from tunesmith.log import escape

if TYPE_CHECKING:
    from rich.text import Text

    from tunesmith.conversation import Conversation, Message
    from tunesmith.generate.session import Session
    from tunesmith.tokens.preview import Turn

QUIET = 10.0  # seconds between two lines of progress where no bar can be drawn


class Terminal(Voice):
    """Says things on standard error, so that results on standard output can be piped."""

    def say(self, text: str) -> None:
        print(escape(text, keep="\n"), file=sys.stderr, flush=True)

    def converse(self, session: Session) -> None:
        """Questions from standard input, answers to standard output as they are written. q or the end of input leaves;
        Ctrl-C stops an answer, and that question is forgotten."""
        typed = sys.stdin.isatty()
        if typed:
            self.say(_("Write, and press Enter. Ctrl-C stops an answer, q leaves."))
        while True:
            try:
                text = input("> " if typed else "").strip()
            except EOFError:
                break
            if text.lower() == "q":
                break
            if text:
                self._answer(session, text)
        self.say(_("Goodbye."))

    def _answer(self, session: Session, text: str) -> None:
        try:
            for piece in session.ask(text):
                print(escape(piece, keep="\n\t"), end="", flush=True)
            print()
        except KeyboardInterrupt:
            print()
            self.say(_("Stopped; this question is forgotten."))

    @contextmanager
    def progress(self, title: str) -> Iterator[Advance]:
        if not sys.stderr.isatty():
            yield _lines(title)
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}", markup=False),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(title, total=None, text="")
            yield lambda done, total, text: bar.update(task, completed=done, total=total, text=text)


def _lines(title: str) -> Advance:
    """A line now and then, for logs and pipes."""
    started = last = time.monotonic()

    def advance(done: int, total: int, text: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < QUIET and (done < total or now - started < QUIET):
            return
        last = now
        left = (now - started) * (total - done) / max(done, 1)
        line = _("{title} {done}/{total}, {left:.0f} s left").format(title=title, done=done, total=total, left=left)
        print(f"{line}  {escape(text)}".rstrip(), file=sys.stderr, flush=True)

    return advance


def show_preview(conversation: Conversation, rendered: str, shown: Sequence[Turn]) -> None:
    """The row as read, as rendered, then its tokens: green is trained (with a weight other than 1), grey is context."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    console.rule(f"{conversation.origin}  " + _("as read"), align="left", style="dim")
    for message in conversation.messages:
        console.print(Text(f"[{message.role}]", style="bold"), Text(escape(_said(message), keep="\n")))
    console.rule(_("as rendered"), align="left", style="dim")
    console.print(Text(escape(rendered, keep="\n")))
    for turn in shown:
        console.rule(f"messages[{turn.turn}]  " + _("as tokens"), align="left", style="dim")
        console.print(_tokens(turn))
    console.print(_("Green is trained, grey is context."), style="dim")


def _said(message: Message) -> str:
    """All that a message holds, its reasoning and its calls of tools included."""
    calls = [f"{call.name}({call.arguments})" for call in message.tool_calls]
    reasoning = [_("(reasoning) {text}").format(text=message.reasoning)] if message.reasoning else []
    return "\n".join([*reasoning, *([message.content] if message.content else []), *calls])


def _tokens(turn: Turn) -> Text:
    from rich.text import Text

    text = Text()
    if turn.shared:
        text.append("… " + _("{n} tokens as above").format(n=turn.shared) + " …\n", style="italic dim")
    for i, piece in enumerate(turn.pieces):
        tint = "on grey15" if i % 2 else ""
        if piece.weight is None:
            text.append(escape(piece.text, keep="\n"), style=f"bright_black {tint}")
            continue
        text.append(escape(piece.text, keep="\n"), style=f"bold green {tint}")
        following = turn.pieces[i + 1].weight if i + 1 < len(turn.pieces) else None
        if piece.weight != 1 and following != piece.weight:
            text.append(f"×{piece.weight:g}", style="yellow")
    return text


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    drawn = Table(*headings, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        drawn.add_row(*(escape(cell) for cell in row))
    Console(highlight=False, soft_wrap=not sys.stdout.isatty()).print(drawn)


def show_inspection(found: dict[str, Any]) -> None:
    """What data inspect found: totals and properties as a table, then a line for each notice and each rejected row."""
    notices, rejected = found["notices"], found["rejected_rows"]
    rows = [[key, _in_words(value)] for key, value in found.items() if not key.startswith(("notices", "rejected_"))]
    table(["", ""], [row for row in rows if row[1]])
    for line in [*notices, *(f"{row['file']}:{row['line']}  {row['reason']}" for row in rejected)]:
        print(escape(line))
    if found["rejected"] > len(rejected):
        print(_("... and {n} more rejected rows.").format(n=found["rejected"] - len(rejected)))


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {inner}" for key, inner in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
