"""The run's log file, one line a record, and text made harmless for terminals and logs.

Holds the logger that every room writes to. Knows no room, no setting and no console.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from tunesmith.errors import RunError
from tunesmith.i18n import _

# Control characters, line and paragraph separators, marks that turn the direction of text, halves of surrogate pairs.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")

_LOGGER = logging.getLogger("tunesmith")
_LOGGER.addHandler(logging.NullHandler())


def get() -> logging.Logger:
    """The one logger. Silent until a log file is open."""
    return _LOGGER


def escape(text: str, keep: str = "") -> str:
    """`text` with all that moves a cursor, ends a line or hides spelled out (`\\x1b`), but for what is in `keep`."""
    return _UNSAFE.sub(lambda m: m[0] if m[0] in keep else m[0].encode("unicode_escape").decode(), text)


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        now = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return f"{now} {record.levelname} {escape(text)}"


class _File(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """A full disk must neither stop a training nor print a traceback: the record is lost."""


@contextmanager
def open_log(path: Path, level: str = "info") -> Iterator[logging.Logger]:
    """Append the records of this block, of `level` (debug, info, warning) and above, to the file `path`.

    RunError if it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _File(path, encoding="utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(_("The log file can't be written: {reason}.").format(reason=reason), str(path)) from error
    handler.setFormatter(_Line())
    before = _LOGGER.level
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(level.upper())
    try:
        yield _LOGGER
    finally:
        _LOGGER.setLevel(before)
        _LOGGER.removeHandler(handler)
        handler.close()


def tell(text: str) -> None:
    """A line for whoever waits, on standard error, from a room that has no other voice."""
    print(escape(text), file=sys.stderr, flush=True)


def note(path: Path, text: str) -> None:
    """One record into the file `path`. A run that can't be written to can still be asked: then it is left out."""
    try:
        with open_log(path) as journal:
            journal.info("%s", text)
    except RunError:
        return
