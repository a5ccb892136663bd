"""Real `tunesmith` processes, born in milliseconds and killed at a chosen moment.

One parent loads every library once; each command is a fork of it that runs the command line's own `main`. Nothing in
the product knows of this: moments are counted by Python's audit events and by a wrapped fsync, in the child alone.
"""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

NAMED = {"open": 0, "os.mkdir": 0, "os.rename": 1, "os.remove": 0, "os.rmdir": 0, "os.truncate": 0}
POLL = 0.002


@dataclass(frozen=True)
class Aim:
    """When to kill: before the n-th change of a file below `folder`; so many seconds after the start; or so many after
    a hidden name (something half-written) shows up in `folder`. A softer signal may stand for the kill."""

    kind: str  # operation, time, save
    folder: Path
    number: float
    signal: int = signal.SIGKILL


@dataclass(frozen=True)
class Ended:
    """How a process ended. `code` is negative for a signal; `moment` is what it was about to do, where it is known."""

    code: int
    said: str
    seconds: float
    moment: str = ""
    operations: int = 0


def load() -> None:
    """Everything that a command would import, so that a fork has it already, and all of one state of the code. Pictures
    are left out: they take a third of such a small training, and no resume needs one."""
    import matplotlib.figure
    import peft  # noqa: F401
    import torch

    import tunesmith

    for module in pkgutil.walk_packages(tunesmith.__path__, "tunesmith."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    matplotlib.figure.Figure.savefig = lambda *_given, **_more: None
    torch.set_num_threads(1)  # threads do not survive a fork
    gc.freeze()


def run(words: list[str], aim: Aim | None = None, *, before: Callable[[], None] = lambda: None) -> Ended:
    """Runs a command line to its end, or to the moment of `aim`. `before` is done in the child first."""
    born, started = start(words, aim, before=before), time.monotonic()
    while True:
        pid, status = os.waitpid(born.pid, os.WNOHANG)
        if pid:
            return born.ended(status, time.monotonic() - started)
        if aim and aim.kind == "time" and time.monotonic() - started > aim.number:
            os.kill(born.pid, aim.signal)
            aim = None
        if aim and aim.kind == "save" and any(aim.folder.glob(".checkpoint-*")):
            time.sleep(aim.number)
            os.kill(born.pid, aim.signal)
            aim = None
        time.sleep(POLL)


@dataclass(frozen=True)
class Born:
    pid: int
    spoken: Path
    counted: Path

    def wait(self) -> Ended:
        return self.ended(os.waitpid(self.pid, 0)[1], 0.0)

    def ended(self, status: int, seconds: float) -> Ended:
        with_moment = self.counted.read_text(encoding="utf-8").split("\n", 1)
        said = self.spoken.read_text(encoding="utf-8", errors="replace")
        self.spoken.unlink()
        self.counted.unlink()
        count, moment = int(with_moment[0] or 0), with_moment[-1].strip()
        return Ended(os.waitstatus_to_exitcode(status), said, seconds, moment, count)


def start(words: list[str], aim: Aim | None = None, *, before: Callable[[], None] = lambda: None) -> Born:
    """A child that runs a command line; its parent goes on at once."""
    files = [Path(tempfile.mkstemp(prefix="chaos-")[1]) for _ in range(2)]
    pid = os.fork()
    if pid:
        return Born(pid, *files)
    code = 1
    try:
        out = os.open(files[0], os.O_WRONLY)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal's foreground
        _count(files[1], aim)
        before()
        from tunesmith.cli import main

        code = main(words)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _count(file: Path, aim: Aim | None) -> None:
    """Counts what changes files below the aim's folder, and dies before the n-th of them."""
    if aim is None or aim.kind != "operation":
        return
    folder, tally = str(aim.folder), os.open(file, os.O_WRONLY)
    seen = 0

    def change(event: str, path: str) -> None:
        nonlocal seen
        seen += 1
        if seen < aim.number:
            os.pwrite(tally, f"{seen:9d}\n".encode(), 0)
        else:
            os.pwrite(tally, f"{seen:9d}\n{event} {path.removeprefix(folder)}".encode(), 0)
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, given: tuple[object, ...]) -> None:
        if event not in NAMED or (event == "open" and (given[2] or 0) & (os.O_WRONLY | os.O_RDWR) == 0):
            return
        path = given[NAMED[event]]
        if isinstance(path, str | Path) and str(path).startswith(folder):
            change(event, str(path))

    fsync = os.fsync

    def synced(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if path.startswith(folder):
            change("fsync", path)
        fsync(descriptor)

    os.fsync = synced
    sys.addaudithook(hook)


def small_files(limit: int) -> Callable[[], None]:
    """No file of this process grows beyond `limit` bytes: a disk that is full."""

    def before() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return before


def years_ago(years: int) -> Callable[[], None]:
    """This process's clock was set back."""

    def before() -> None:
        real = time.time
        time.time = lambda: real() - years * 365.25 * 86400

    return before


def draw(rng: random.Random, folder: Path, operations: int, seconds: float) -> Aim:
    """Half of the kills fall on a change of a file (most of them are saves), a quarter on a save, the rest anywhere."""
    kind = rng.choice(["operation", "operation", "save", "time"])
    number = {"operation": rng.randint(1, operations), "save": rng.uniform(0, 0.03), "time": rng.uniform(0, seconds)}
    return Aim(kind, folder, number[kind])
