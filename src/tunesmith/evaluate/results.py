"""What an evaluation found: a record for each row and the totals over them, as they stand in evaluation_results.json.

Every share comes with its 95 % interval. Knows nothing of how answers came about.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import RunError
from tunesmith.evaluate.metrics import fold
from tunesmith.i18n import _

RESULTS = "evaluation_results.json"
VERSION = 1
OTHER, UNREAD = "(other)", "(unread)"


@dataclass(frozen=True, slots=True)
class Report:
    """Records of the rows, totals (see `totals`), and the settings under which the answers were made."""

    rows: list[dict[str, Any]]
    totals: dict[str, Any]
    settings: dict[str, Any]

    @property
    def accuracy(self) -> float:
        return float(self.totals["accuracy"])

    def write(self, path: Path) -> None:
        """Whole or not at all: under another name first, then renamed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"version": VERSION, "totals": self.totals, "settings": self.settings, "rows": self.rows}
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        unfinished.write_text(json.dumps(content, ensure_ascii=False, indent=1, default=str) + "\n", encoding="utf-8")
        unfinished.replace(path)

    @classmethod
    def read(cls, path: Path) -> Report:
        """A written report; `path` is the file or its folder. Raises RunError."""
        path = path / RESULTS if path.is_dir() else path
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["version"] != VERSION:
                message = _("These results have version {found}; this program reads version {version}.")
                raise RunError(message.format(found=content["version"], version=VERSION), place=str(path))
            return cls(content["rows"], content["totals"], content["settings"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            message = _("There are no readable results here ({error}). Make them with: tunesmith eval RUN")
            raise RunError(message.format(error=error), place=str(path)) from error


def wilson(correct: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927): honest also for few rows and near 0 and 1."""
    if n == 0:
        return 0.0, 1.0
    z = 1.959964
    share, spread = correct / n, z * math.sqrt(correct * (n - correct) / n + z * z / 4) / (n + z * z)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    return max(0.0, min(share, centre - spread)), min(1.0, max(share, centre + spread))


def totals(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Over all rows and by group; `macro_accuracy` counts every group the same, whatever its size."""
    members: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["group"] is not None:
            members.setdefault(row["group"], []).append(row)
    groups = {name: _share([row["correct"] for row in members[name]]) for name in sorted(members)}
    names = rows[0]["scores"] if rows else ()
    return {
        **_share([row["correct"] for row in rows]),
        "macro_accuracy": sum(group["accuracy"] for group in groups.values()) / len(groups) if groups else None,
        "groups": groups,
        "scores": {name: _share([row["scores"][name]["correct"] for row in rows]) for name in names},
        "confusion": _confusion(rows),
        "empty": sum(not row["answer"].strip() for row in rows),
        "unparsed": sum(any(s.get("label", "") is None for s in row["scores"].values()) for row in rows),
        "unfinished": sum(not row["finished"] for row in rows),
        "tokens": sum(row["tokens"] for row in rows),
        "seconds": round(sum(row["seconds"] for row in rows), 3),
    }


def _share(verdicts: Sequence[bool]) -> dict[str, Any]:
    n, correct = len(verdicts), sum(verdicts)
    return {"n": n, "correct": correct, "accuracy": correct / n if n else 0.0, "interval": list(wilson(correct, n))}


def _confusion(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]] | None:
    """Expected label -> answered label -> rows; labels that no row expects are OTHER, unreadable answers UNREAD."""
    pairs = [
        (score["expected"], score["label"])
        for row in rows
        for score in list(row["scores"].values())[:1]
        if "expected" in score and "label" in score
    ]
    if not pairs:
        return None
    spelling: dict[str, str] = {}
    for expected, _label in pairs:
        spelling.setdefault(fold(expected), expected)
    table: dict[str, Counter[str]] = {name: Counter() for name in sorted(spelling.values())}
    for expected, label in pairs:
        given = UNREAD if label is None else spelling.get(fold(label), OTHER)
        table[spelling[fold(expected)]][given] += 1
    return {name: dict(counts) for name, counts in table.items()}
