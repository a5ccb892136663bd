"""Bounds for foreign code that renders text: processor time, memory, and the length of what comes out.

A sandbox keeps a template from what it must not touch; it does not keep it from taking all time and memory. Knows
nothing of Jinja but that it asks now and then whether time is up.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from time import thread_time

from tunesmith.errors import TemplateError
from tunesmith.i18n import _

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

SECONDS = 1.0  # of this thread's processor time; a template takes milliseconds
MEMORY = 1 << 30  # bytes beyond what the process has
LENGTH = 20_000_000  # characters; the longest row has fewer
STATM = "/proc/self/statm"

_alone = threading.Lock()


class Overrun(TemplateError):
    """A template went beyond its bounds: nothing more is asked of it, whatever the row."""


class Clock:
    """`end` is when time is up, in this thread's own processor time: a machine that is busy elsewhere costs nothing."""

    end = float("inf")

    def check(self) -> None:
        if thread_time() > self.end:
            raise Overrun(_("It does not come to an end: {n:.0f} s were not enough.").format(n=SECONDS))


@contextmanager
def bounded(clock: Clock) -> Iterator[None]:
    """What runs inside ends within bounds, as far as it asks the clock. Overrun where memory does not suffice."""
    clock.end = thread_time() + SECONDS
    try:
        with _lid():
            yield
    except MemoryError:
        raise Overrun(_("It wants more memory than {n} MB.").format(n=MEMORY >> 20)) from None
    finally:
        clock.end = float("inf")


def not_too_long(text: str) -> str:
    if len(text) > LENGTH:
        raise Overrun(_("It writes more than {n:,} characters.").format(n=LENGTH))
    return text


@contextmanager
def _lid() -> Iterator[None]:
    """The process can't grow by more than MEMORY: that holds for all its threads, while a rendering takes its moment.
    Nothing is bounded where the system does not tell how much there is."""
    used = _used()
    if used is None or not _alone.acquire(blocking=False):  # another thread's lid is on, and will do
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    lowest = min([used + MEMORY, *(limit for limit in before if limit != resource.RLIM_INFINITY)])
    try:
        resource.setrlimit(resource.RLIMIT_AS, (lowest, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        _alone.release()


def _used() -> int | None:
    """Bytes of this process's address space."""
    file = _statm(os.getpid())
    return None if file is None else int(os.pread(file, 32, 0).split()[0]) * resource.getpagesize()


@cache
def _statm(_process: int) -> int | None:
    try:
        return os.open(STATM, os.O_RDONLY) if resource else None
    except OSError:
        return None
