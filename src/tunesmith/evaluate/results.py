"""What an evaluation found: a record for each row and the totals over them, as they stand in evaluation_results.json.

Every share comes with its 95 % interval. Knows nothing of how answers came about.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import RunError
from tunesmith.evaluate.metrics import fold
from tunesmith.evaluate.statistics import wilson
from tunesmith.i18n import _

RESULTS = "evaluation_results.json"
VERSION = 2
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
        unfinished = path.with_name(f".{path.name}.unfinished")
        text = json.dumps(content, ensure_ascii=False, indent=1, default=str) + "\n"
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")  # as JSON writes a lone surrogate
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


def totals(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Over all rows and by group; `macro_accuracy` counts every group the same, whatever its size, and `macro_f1` every
    label."""
    groups = shares(rows, "group")
    confusion = _confusion(rows)
    classes = _classes(confusion or {})
    return {
        **share(sum(row["correct"] for row in rows), len(rows)),
        "macro_accuracy": sum(group["accuracy"] for group in groups.values()) / len(groups) if groups else None,
        "groups": groups,
        "types": shares(rows, "type"),
        "confusion": confusion,
        "classes": classes,
        "macro_f1": sum(each["f1"] for each in classes.values()) / len(classes) if classes else None,
        "empty": sum(not row["answer"].strip() for row in rows),
        "unparsed": sum(any(s.get("label", "") is None for s in row["scores"].values()) for row in rows),
        "unfinished": sum(not row["finished"] for row in rows),
        "tokens": sum(row["tokens"] for row in rows),
        "seconds": round(sum(row["seconds"] for row in rows), 3),
    }


def shares(rows: Sequence[dict[str, Any]], column: str) -> dict[str, dict[str, Any]]:
    """The share of right answers for each value of a column of the records, in the order of the values."""
    members: dict[str, list[bool]] = {}
    for row in rows:
        if row.get(column) is not None:
            members.setdefault(row[column], []).append(row["correct"])
    return {name: share(sum(members[name]), len(members[name])) for name in sorted(members)}


def share(correct: int, n: int) -> dict[str, Any]:
    """A share of right answers as results hold it."""
    return {"n": n, "correct": correct, "accuracy": correct / n if n else 0.0, "interval": list(wilson(correct, n))}


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


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


def _classes(confusion: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, float]]:
    """For each expected label: its rows, the share of them that was found (recall), the share of answers with it that
    were right (precision), and the harmonic mean of both (F1). What was never answered has a precision of 0."""
    found = {}
    for name, counts in confusion.items():
        right, n = counts.get(name, 0), sum(counts.values())
        answered = sum(other.get(name, 0) for other in confusion.values())
        precision = right / answered if answered else 0.0
        found[name] = {"n": n, "precision": precision, "recall": right / n, "f1": 2 * right / (answered + n)}
    return found
