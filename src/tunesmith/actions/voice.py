"""How actions speak: a door gives one to each action it calls. Silent by default."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import Logger

Advance = Callable[[int, int, str], None]  # (done, of how many, a few words)


class Voice:
    """`say` is one line for the user; `progress` a bar that is moved on by (steps, text beside it)."""

    def say(self, text: str) -> None:
        pass

    @contextmanager
    def progress(self, title: str) -> Iterator[Advance]:
        yield lambda done, total, text: None


class Journal(Voice):
    """Another voice, of which every line goes to a log too."""

    def __init__(self, voice: Voice, log: Logger) -> None:
        self._voice, self._log = voice, log

    def say(self, text: str) -> None:
        self._voice.say(text)
        self._log.info(text)

    @contextmanager
    def progress(self, title: str) -> Iterator[Advance]:
        with self._voice.progress(title) as advance:
            yield advance
