"""The terminal: lines, bars, colours. All that is shown is escaped; rich is loaded when a bar or colour is drawn."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tunesmith.actions.voice import Advance, Voice
from tunesmith.i18n import _
from tunesmith.log import escape

if TYPE_CHECKING:
    from tunesmith.tokens.preview import Turn

QUIET = 10.0  # seconds between two lines of progress where no bar can be drawn


class Terminal(Voice):
    """Says things on standard error, so that results on standard output can be piped."""

    def say(self, text: str) -> None:
        print(escape(text, keep="\n"), file=sys.stderr, flush=True)

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


def show_turns(shown: Sequence[Turn]) -> None:
    """Tokens in colour: green is trained (the weight stands behind it where it is not 1), grey is context."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for turn in shown:
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
        console.rule(f"messages[{turn.turn}]", align="left", style="dim")
        console.print(text)
    console.print(_("Green is trained, grey is context."), style="dim")


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    drawn = Table(*headings, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        drawn.add_row(*(escape(cell) for cell in row))
    Console(highlight=False, soft_wrap=not sys.stdout.isatty()).print(drawn)
