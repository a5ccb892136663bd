"""The terminal: lines, bars, colours. All that is shown is escaped; rich is loaded when a bar or colour is drawn."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tunesmith.actions.voice import Advance, Voice
from tunesmith.i18n import _
from tunesmith.log import escape

UNFOLDED = 1000  # columns of a table that goes into a file: no line is folded
QUIET = 10.0  # seconds between two lines of progress where no bar can be drawn


class Terminal(Voice):
    """Says things on standard error, so that results on standard output can be piped.

    `typing_delay` are the seconds between two letters, for whoever likes to watch; a file or pipe never waits.
    """

    typing_delay = 0.0

    def say(self, text: str) -> None:
        text = escape(text, keep="\n")
        if self.typing_delay and sys.stderr.isatty():
            for letter in text:
                print(letter, end="", file=sys.stderr, flush=True)
                time.sleep(self.typing_delay)
            text = ""
        print(text, file=sys.stderr, flush=True)

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


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, error: bool = False) -> None:
    from rich.console import Console
    from rich.table import Table

    drawn = Table(*headings, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        drawn.add_row(*(escape(cell) for cell in row))
    stream = sys.stderr if error else sys.stdout
    width = None if stream.isatty() else UNFOLDED
    Console(file=stream, width=width, highlight=False).print(drawn)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
