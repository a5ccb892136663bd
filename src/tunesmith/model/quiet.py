"""Libraries kept quiet: what matters of their bars, warnings and log lines is raised as an error by the caller instead.

Imports transformers only where it was imported already or is about to be; knows nothing of models.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """No bars, warnings or log lines of transformers, peft and what they call."""
    from transformers.utils import logging as transformers_logging

    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def no_log_lines() -> Iterator[None]:
    """Bars stay: a download shows how far it is."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def silent() -> Iterator[None]:
    """Nothing on standard error at all, and no log lines: for what draws bars that no switch turns off."""
    with no_log_lines(), contextlib.redirect_stderr(io.StringIO()):
        yield


def first_line(error: Exception) -> str:
    """The first line of what a library said, which is the one about the cause."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
