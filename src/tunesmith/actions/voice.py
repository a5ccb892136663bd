"""How actions speak: a door gives one to each action it calls. Silent by default."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, int, str], None]  # (done, of how many, a few words)


class Voice:
    """`say` is one line for the user; `progress` a bar that is moved on by (steps, text beside it)."""

    def say(self, text: str) -> None:
        pass

    @contextmanager
    def progress(self, title: str) -> Iterator[Advance]:
        yield lambda done, total, text: None
