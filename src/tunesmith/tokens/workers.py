"""Chunks of rows encoded by several processes, in the order of the rows; what is in flight at once is bounded.

Processes are started anew and never forked, so that it works on every system and beside threads.
"""

from __future__ import annotations

import os
import signal
import sys
from _thread import start_new_thread
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import count, islice
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from types import ModuleType

from tunesmith.data.row import BadRow, Row
from tunesmith.errors import DataError
from tunesmith.i18n import _
from tunesmith.tokens.pack import Chunk, Packer, Recipe

ROWS = 256  # of a chunk
WAITING = 3  # chunks for each process, so that none is idle
WORTH = 20_000_000  # bytes of data from which the start of processes pays

_packer: Packer


def processes(asked: int | None, size: int) -> int:
    """How many processes encode data of `size` bytes: what was asked for, else the cores that this one may use."""
    if asked is not None:
        return asked
    if size < WORTH:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def chunks(rows: Iterable[Row | BadRow], recipe: Recipe, number: int) -> Iterator[Chunk]:
    """Every row, in order, encoded in `number` processes; in this one if it is 1."""
    some = iter(rows)
    stretches = iter(lambda: list(islice(some, ROWS)), [])
    if number == 1:
        packer = recipe.packer()
        yield from (packer.pack(stretch, start) for stretch, start in zip(stretches, count(0, ROWS), strict=False))
        return
    pool = ProcessPoolExecutor(number, get_context("spawn"), _begin, (recipe,))
    waiting: deque[Future[Chunk]] = deque()
    try:
        for stretch, start in zip(stretches, count(0, ROWS), strict=False):
            with _without_main():
                waiting.append(pool.submit(_pack, stretch, start))
            if len(waiting) >= number * WAITING:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        text = _("A process that encoded rows was ended from outside, or memory ran out. Try data.num_proc=1.")
        raise DataError(text, place="data.num_proc") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(recipe: Recipe) -> None:
    global _packer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    # It only waits, so it is none of `threading`'s: limits.py bounds a template's memory where there is one thread.
    start_new_thread(_end_with_parent, ())
    _packer = recipe.packer()


def _end_with_parent() -> None:
    """A parent that was killed takes its processes with it; they would wait for rows for ever."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _pack(rows: list[Row | BadRow], start: int) -> Chunk:
    return _packer.pack(rows, start)


@contextmanager
def _without_main() -> Iterator[None]:
    """A process that is started in this block does not run the program's own file again, as Python does by default: a
    user's script may train as soon as it is run."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
