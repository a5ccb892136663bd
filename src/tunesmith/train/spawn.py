"""Starts the processes of one training on this machine, and stops all of them as soon as one ends badly.

What torchrun does for several machines and for restarts, here for one line to type: errors come once, and the exit code
is that of the process that failed. Knows nothing of training; loads no torch.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from tunesmith.errors import ConfigError
from tunesmith.i18n import _

LOOK = 0.1  # seconds between two looks at the processes
GRACE = 8.0  # seconds in which they may end by themselves once one has, and again once they were asked to


def count(asked: str) -> int:
    """`4`, or `auto`: one process for each GPU, and one where there is none. Raises ConfigError."""
    if asked == "auto":
        import torch

        return max(1, torch.cuda.device_count())
    if not asked.isdigit() or int(asked) < 1:
        raise ConfigError(_("Expected a number of processes, or auto: one for each GPU."), "--nproc")
    return int(asked)


def without(option: str, words: Sequence[str]) -> list[str]:
    """A command line without an option and its value."""
    rest = iter(words)
    left = [word for word in rest if not (word == option and next(rest, None) is not None)]
    return [word for word in left if not word.startswith(f"{option}=")]


def spawn(number: int, words: Sequence[str], say: Callable[[str], None]) -> int:
    """Runs `tunesmith WORDS` in so many processes, each with its share of the cores. Returns the exit code."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = {
        "WORLD_SIZE": str(number),
        "LOCAL_WORLD_SIZE": str(number),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
    }
    threads = {"OMP_NUM_THREADS": str(max(1, cores // number))}
    processes = []
    for rank in range(number):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        environment = threads | dict(os.environ) | told | own
        processes.append(subprocess.Popen([sys.executable, "-m", "tunesmith", *words], env=environment))  # noqa: S603

    def pass_on(number: int, _frame: object) -> None:
        for process in processes:
            process.send_signal(number)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        return _wait(processes, say)
    except KeyboardInterrupt:  # they end by themselves, behind a checkpoint; a second one ends them at once
        return _wait(processes, say)
    finally:
        _end(processes)
        signal.signal(signal.SIGTERM, before)


def _wait(processes: Sequence[subprocess.Popen[bytes]], say: Callable[[str], None]) -> int:
    while any(process.poll() is None for process in processes):
        if any(process.returncode for process in processes):
            break
        time.sleep(LOOK)
    patience = time.monotonic() + GRACE
    while any(process.poll() is None for process in processes) and time.monotonic() < patience:
        time.sleep(LOOK)
    codes = [process.returncode or 0 for process in processes]
    if killed := [rank for rank, code in enumerate(codes) if code < 0]:
        text = _(
            "Process {rank} of 0 to {last} was ended from outside ({signal}). All are stopped. Type the same command"
            " again: it goes on behind the last checkpoint."
        )
        name = signal.Signals(-codes[killed[0]]).name
        say(text.format(rank=killed[0], last=len(codes) - 1, signal=name))
        return 1
    return max(codes, key=lambda code: (code == 130, code))


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """First they are asked, then they are made to."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        patience = time.monotonic() + GRACE
        left = [process for process in processes if process.poll() is None]
        for process in left:
            process.send_signal(how)
        while any(process.poll() is None for process in left) and time.monotonic() < patience:
            time.sleep(LOOK)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
