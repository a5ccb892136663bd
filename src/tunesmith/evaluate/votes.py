"""What people said of answers: a vote of a voter on a row, kept at once. Knows nothing of what is said.

A later vote of the same voter on the same row takes the place of an earlier one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunesmith.evaluate.kept import Kept

Vote = Mapping[str, Any]


class Votes:
    """The votes in a file."""

    def __init__(self, path: Path) -> None:
        self._file = Kept(path)
        known = [vote for vote in self._file.records if {"voter", "row"} <= vote.keys()]
        self._last: dict[tuple[str, str], Vote] = {(str(vote["voter"]), str(vote["row"])): vote for vote in known}

    @property
    def path(self) -> Path:
        return self._file.path

    def add(self, voter: str, row: str, **said: Any) -> None:
        """Returns when the vote is on the disk. Raises RunError."""
        vote = {"voter": voter, "row": row, **said, "time": datetime.now(UTC).isoformat(timespec="seconds")}
        self._file.add(vote)
        self._last[voter, row] = vote

    def of(self, voter: str) -> dict[str, Vote]:
        """A voter's votes by row."""
        return {row: vote for (name, row), vote in self._last.items() if name == voter}

    def on(self, rows: Sequence[str]) -> dict[str, dict[str, Vote]]:
        """The votes on these rows: voter -> row -> vote."""
        wanted, found = set(rows), dict[str, dict[str, Vote]]()
        for (voter, row), vote in self._last.items():
            if row in wanted:
                found.setdefault(voter, {})[row] = vote
        return found

    def elsewhere(self, rows: Sequence[str]) -> int:
        """How many votes are on other rows, or on other answers to these."""
        wanted = set(rows)
        return sum(row not in wanted for _voter, row in self._last)


def name_of(*parts: Any) -> str:
    """A row's name in the file: another one as soon as question or answers differ."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
