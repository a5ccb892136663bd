"""A training that is asked to end: by Ctrl-C, by SIGTERM, or by a file named `stop` in its run folder.

Knows who asked and what that means for the exit code; that the step is finished and saved first is the loop's work.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from tunesmith import rundir
from tunesmith.errors import Stopped
from tunesmith.i18n import _


class Stop:
    """While this block runs, signals are noted instead of obeyed; called, it says whether the training should end.

    A second Ctrl-C is obeyed at once. SIGTERM often comes twice, from whatever started a group of processes, and
    changes nothing the second time. Signals reach only a main thread; elsewhere, and where whoever started the process
    had it ignore them (a shell's background jobs), the file alone counts.
    """

    def __init__(self, run: Path, say: Callable[[str], None]) -> None:
        self._file, self._say = run / rundir.STOP, say
        self._signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        self._file.unlink(missing_ok=True)  # meant for a training that is over
        if threading.current_thread() is threading.main_thread():
            heard = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in heard}
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(number, self._before[number])
        if self._signal is None:
            self._signal = number
            with suppress(RuntimeError):  # the signal came in the middle of another line
                self._say(_("This step is finished and saved, then the training ends. Ctrl-C again ends it at once."))

    def __call__(self) -> bool:
        return self._signal is not None or self._file.exists()

    def stopped(self) -> Stopped:
        """What ends the command: its exit code is that of whoever asked."""
        self._file.unlink(missing_ok=True)
        return Stopped(128 + (self._signal or signal.SIGINT))
