"""A file of JSON lines to which work that cost something is added: each is on the disk before the next is begun.

Knows nothing of what the lines say.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from threading import Lock
from typing import Any

from tunesmith.errors import RunError
from tunesmith.i18n import _


class Kept:
    """`records` are the whole lines, oldest first; one that a crash left half is passed over. Made with the first."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, Lock()
        self.records: list[dict[str, Any]] = []
        try:
            text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        except OSError as error:
            raise self._unusable(error) from error
        self._whole = not text or text.endswith("\n")
        for line in text.split("\n"):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            self.records += [record] if isinstance(record, dict) else []

    def add(self, record: dict[str, Any]) -> None:
        """Returns when the line is on the disk. RunError. May be called from several threads."""
        line = json.dumps(record) + "\n"
        with self._lock:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(line if self._whole else "\n" + line)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                self._whole = False  # some of it may stand there
                raise self._unusable(error) from error
            self._whole = True
            self.records.append(record)

    def _unusable(self, error: OSError) -> RunError:
        return RunError(_("This can't be read or written: {why}.").format(why=error.strerror), place=str(self.path))
