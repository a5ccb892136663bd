"""The rows of several results, brought together: what may be compared, and which rows are the same.

Rows are the same where their ids are, which come from the data or from what a row asks and expects; how it is asked may
differ. Knows results as they are written, and judges nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import Problem, RunError
from tunesmith.evaluate.results import Report
from tunesmith.i18n import _

JUDGED_BY = ("answer_template", "label")  # settings, beside the metric that decides

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the compared: what it is called, the file that holds it, and the results."""

    name: str
    place: str
    report: Report


def judged_alike(sides: Sequence[Side]) -> None:
    """RunError where another metric decided, or the same one in another way."""
    by = [next(iter(side.report.settings.get("metrics") or [None])) for side in sides]
    if len(set(by)) > 1:
        text = _("Its answers were judged by {metric}; compared are results of one metric.")
        raise RunError(
            [Problem(side.place, text.format(metric=metric)) for side, metric in zip(sides, by, strict=True)]
        )
    for name in JUDGED_BY:
        values = [side.report.settings.get(name) for side in sides]
        if len(set(values)) > 1:
            text = _("Its answers were judged with {name} {value!r}; compared are results of one way to judge.")
            raise RunError(
                [Problem(side.place, text.format(name=name, value=v)) for side, v in zip(sides, values, strict=True)]
            )


def align(sides: Sequence[Side]) -> list[tuple[Row, ...]]:
    """The rows of all sides that belong together, in the order of the first. RunError where they are others."""
    rows = [_by_id(side) for side in sides]
    problems = []
    for i, (side, own) in enumerate(zip(sides, rows, strict=True)):
        others = rows[1:] if i == 0 else rows[:1]
        lone = [row for key, row in own.items() if any(key not in other for other in others)]
        odd = [row for key, row in own.items() if row["gold"] != rows[0].get(key, row)["gold"]]
        if lone:
            text = _("{n} of {total} rows have no counterpart on the other side, the first is {place}.")
            problems.append(Problem(side.place, text.format(n=len(lone), total=len(own), place=_place(lone[0]))))
        if odd:
            text = _("{n} of {total} rows expect another answer than the rows of the same id, the first is {place}.")
            problems.append(Problem(side.place, text.format(n=len(odd), total=len(own), place=_place(odd[0]))))
    if problems:
        text = _(
            "Compared are answers to the same questions. Evaluate all on the same rows: tunesmith eval RUN --data FILE"
        )
        raise RunError([*problems, Problem("", text)])
    if not rows[0]:
        raise RunError(_("There are no rows to compare."), place=sides[0].place)
    return [tuple(own[key] for own in rows) for key in rows[0]]


def _by_id(side: Side) -> dict[str, Row]:
    """The rows under their ids. RunError where a row lacks what is compared."""
    found: dict[str, Row] = {}
    for number, row in enumerate(side.report.rows, start=1):
        if not _is_whole(row) or row["id"] in found:
            raise RunError(_("Row {n} of these results is damaged.").format(n=number), place=side.place)
        found[row["id"]] = row
    return found


def _is_whole(row: Any) -> bool:
    texts = isinstance(row, dict) and all(isinstance(row.get(name), str) for name in ("id", "gold", "answer"))
    return (
        texts
        and isinstance(row.get("correct"), bool)
        and isinstance(row.get("scores"), dict)
        and isinstance(row.get("prompt"), list)
        and all(isinstance(message, dict) and {"role", "content"} <= message.keys() for message in row["prompt"])
    )


def _place(row: Row) -> str:
    """Where a row came from: its file and line, or its id, or its number."""
    return str(row.get("origin") or row.get("id") or row.get("index"))
