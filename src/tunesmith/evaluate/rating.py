"""One model's answers marked by people, right or wrong or with 1 to 5 points, and what the marks say.

Knows no terminal and no files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.evaluate.compare_rows import Row
from tunesmith.evaluate.results import percent, share
from tunesmith.evaluate.statistics import middle, redrawn
from tunesmith.evaluate.votes import Vote, name_of
from tunesmith.i18n import _

POINTS = range(1, 6)


@dataclass(frozen=True, slots=True)
class Sheet:
    """One row to be marked; `correct` is what the metric said of it."""

    row: str
    prompt: list[dict[str, str]]
    expected: str
    answer: str
    correct: bool


def sheets(rows: Sequence[Row], limit: int | None = None, *, points: bool = False) -> list[Sheet]:
    """The rows in an order that does not depend on their place in the file; with a limit the first of them."""
    found = [
        Sheet(
            name_of(points, row["id"], row["prompt"], row["gold"], row["answer"]),
            row["prompt"],
            row["gold"],
            row["answer"],
            row["correct"],
        )
        for row in rows
    ]
    return sorted(found, key=lambda sheet: sheet.row)[:limit]


@dataclass(frozen=True, slots=True)
class Marks:
    """What the voters of each row said, in order: True and False, or points; and the rows' own sheets."""

    by_row: Mapping[str, Sequence[Any]]
    sheets: Mapping[str, Sheet]
    notes: Sequence[tuple[str, str]]
    points: bool

    def lines(self) -> list[str]:
        """The verdict, and the notes."""
        said = self._on_points() if self.points else self._on_right()
        return said + [_("{voter} noted: {note}").format(voter=voter, note=note) for voter, note in self.notes]

    def record(self) -> dict[str, Any]:
        if self.points:
            mean, interval = self._mean()
            return {"n": len(self.by_row), "mean": mean, "interval": interval, "marks": self._counts()}
        right = self._right()
        agree = sum(self.sheets[row].correct == verdict for row, verdict in right.items())
        return {**share(sum(right.values()), len(right)), "metric_agrees": agree, "marks": self._counts()}

    def _right(self) -> dict[str, bool]:
        """Rows on which a majority of the voters agrees."""
        counts = {row: Counter(marks) for row, marks in self.by_row.items()}
        return {row: found[True] > found[False] for row, found in counts.items() if found[True] != found[False]}

    def _mean(self) -> tuple[float | None, list[float] | None]:
        """Of the rows' means, with its 95 % interval (rows drawn again)."""
        means = [sum(marks) / len(marks) for marks in self.by_row.values()]
        if not means:
            return None, None
        low, high = middle(redrawn([[value] for value in means])[:, 0] / len(means))
        return sum(means) / len(means), [low, high]

    def _counts(self) -> dict[str, int]:
        counts = Counter(str(mark) for marks in self.by_row.values() for mark in marks)
        return {mark: counts[mark] for mark in sorted(counts)}

    def _on_right(self) -> list[str]:
        right = self._right()
        if not right:
            return [_("No row is marked yet.")]
        found = self.record()
        low, high = map(percent, found["interval"])
        text = _("Marked right: {right} of {n} rows ({share}, 95 % interval {low} to {high}).")
        said = [text.format(right=found["correct"], n=len(right), share=percent(found["accuracy"]), low=low, high=high)]
        text = _("The metric says the same on {agree} of these {n} rows.")
        return [*said, text.format(agree=found["metric_agrees"], n=len(right))]

    def _on_points(self) -> list[str]:
        mean, interval = self._mean()
        if mean is None or interval is None:
            return [_("No row is marked yet.")]
        text = _("{mean:.2f} points on average over {n} rows (95 % interval {low:.2f} to {high:.2f}).")
        said = [text.format(mean=mean, n=len(self.by_row), low=interval[0], high=interval[1])]
        counts = ", ".join(f"{points}: {n}" for points, n in self._counts().items())
        return [*said, _("How often each was given: {counts}.").format(counts=counts)]


def marks(found: Sequence[Sheet], votes: Mapping[str, Mapping[str, Vote]], *, points: bool) -> Marks:
    """`votes` are voter -> row -> vote; a skipped row has no mark."""
    by_row: dict[str, list[Any]] = {}
    notes = []
    for voter, said in votes.items():
        for row, vote in said.items():
            if vote.get("mark") is not None:
                by_row.setdefault(row, []).append(vote["mark"])
            if vote.get("note"):
                notes.append((voter, str(vote["note"])))
    return Marks(by_row, {sheet.row: sheet for sheet in found}, notes, points)
