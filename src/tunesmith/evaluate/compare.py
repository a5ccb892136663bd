"""Two results or more on the same rows: what got better, what broke, and whether that could be chance.

Rows are the same where question and expected answer are the same, wherever they came from; a system prompt may differ.
Knows results as they are written, and draws nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import Problem, RunError
from tunesmith.evaluate.results import Report, share
from tunesmith.evaluate.statistics import LEVEL, holm, mcnemar, paired_interval
from tunesmith.i18n import _

VERSION = 1

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the compared: what it is called, the file that holds it, and the results."""

    name: str
    place: str
    report: Report


@dataclass(frozen=True, slots=True)
class Difference:
    """Counts of rows: right in both, broken (right in the first alone), fixed (right in the second alone), neither.

    `p` is how likely chance alone changes so unevenly, raised where several such questions were asked at once.
    """

    both: int
    broken: int
    fixed: int
    neither: int
    p: float

    @property
    def n(self) -> int:
        return self.both + self.broken + self.fixed + self.neither

    @property
    def shares(self) -> list[dict[str, Any]]:
        """The two shares of right answers, each with its interval."""
        return [share(self.both + self.broken, self.n), share(self.both + self.fixed, self.n)]

    @property
    def gain(self) -> float:
        return (self.fixed - self.broken) / self.n

    @property
    def interval(self) -> tuple[float, float]:
        return paired_interval(self.both, self.broken, self.fixed, self.neither)

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or `open`: it could be chance."""
        if self.p >= LEVEL:
            return "open"
        return "better" if self.gain > 0 else "worse"

    def record(self) -> dict[str, Any]:
        accuracy = [each["accuracy"] for each in self.shares]
        found = {"n": self.n, "accuracy": accuracy, "gain": self.gain, "interval": list(self.interval)}
        return {**found, "fixed": self.fixed, "broken": self.broken, "p": self.p, "verdict": self.verdict}


@dataclass(frozen=True, slots=True)
class Comparison:
    """The second against the first, over all rows, by group and by type; `pairs` are the rows of both."""

    first: Side
    second: Side
    pairs: list[tuple[Row, Row]]
    whole: Difference
    groups: dict[str, Difference]
    types: dict[str, Difference]

    @property
    def fixed(self) -> list[tuple[Row, Row]]:
        return [(a, b) for a, b in self.pairs if b["correct"] and not a["correct"]]

    @property
    def broken(self) -> list[tuple[Row, Row]]:
        return [(a, b) for a, b in self.pairs if a["correct"] and not b["correct"]]

    def sentence(self) -> str:
        """The verdict in one sentence."""
        low, high = self.whole.interval
        gain = self.whole.gain
        texts = {
            "better": _(
                "{second} is better than {first} by {gain} points (95 % interval {low} to {high}). "
                "Rows that were fixed: {fixed}, rows that broke: {broken}."
            ),
            "worse": _(
                "{second} is worse than {first} by {gain} points (95 % interval {low} to {high}). "
                "Rows that were fixed: {fixed}, rows that broke: {broken}."
            ),
            "open": _(
                "From {first} to {second} the accuracy changes by {gain} points (95 % interval {low} to {high}), "
                "which could be chance. Rows that were fixed: {fixed}, rows that broke: {broken}."
            ),
        }
        if self.whole.verdict == "worse":
            gain, low, high = -gain, -high, -low
        return texts[self.whole.verdict].format(
            first=self.first.name, second=self.second.name, gain=points(gain), low=points(low), high=points(high),
            fixed=self.whole.fixed, broken=self.whole.broken,
        )  # fmt: skip

    def by_group(self) -> list[str]:
        """Sentences on the groups that differ beyond chance; none where there are no groups."""
        if len(self.groups) < 2:
            return []
        better, worse = ([name for name, d in self.groups.items() if d.verdict == v] for v in ("better", "worse"))
        said = [_("Better in {groups}.").format(groups=", ".join(better))] if better else []
        said += [_("Worse in {groups}.").format(groups=", ".join(worse))] if worse else []
        return said or [_("No single group changes beyond chance.")]

    def record(self) -> dict[str, Any]:
        return {
            "first": self.first.name,
            "second": self.second.name,
            "sentence": self.sentence(),
            **self.whole.record(),
            "groups": {name: difference.record() for name, difference in self.groups.items()},
            "types": {name: difference.record() for name, difference in self.types.items()},
            "fixed_rows": [_both(*pair) for pair in self.fixed],
            "broken_rows": [_both(*pair) for pair in self.broken],
        }


def compare(sides: Sequence[Side]) -> list[Comparison]:
    """Every side against the first. RunError where they were not asked the same questions or not judged alike."""
    _judged_alike(sides)
    aligned = _align(sides)
    count = len(sides)
    found = []
    for i, p in enumerate(_chances([[(rows[0], rows[i]) for rows in aligned] for i in range(1, count)]), start=1):
        pairs = [(rows[0], rows[i]) for rows in aligned]
        groups, types = (_parts(pairs, column) for column in ("group", "type"))
        found.append(Comparison(sides[0], sides[i], pairs, _difference(pairs, p), groups, types))
    return found


def record(sides: Sequence[Side], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """What comparison.json holds."""
    whole = [comparisons[0].whole.shares[0], *(found.whole.shares[1] for found in comparisons)]
    results = [{"name": side.name, "path": side.place, **each} for side, each in zip(sides, whole, strict=True)]
    return {"version": VERSION, "results": results, "comparisons": [found.record() for found in comparisons]}


def points(share: float) -> str:
    """A difference of shares in points, with a decimal where it has one."""
    return f"{round(100 * share, 1) + 0.0:g}"


def place(row: Row) -> str:
    """Where a row came from: its file and line, or its id, or its number."""
    return str(row.get("origin") or row.get("id") or row.get("index"))


def _difference(pairs: Sequence[tuple[Row, Row]], p: float) -> Difference:
    counts = Counter((bool(a["correct"]), bool(b["correct"])) for a, b in pairs)
    return Difference(counts[True, True], counts[True, False], counts[False, True], counts[False, False], p)


def _chances(questions: Sequence[Sequence[tuple[Row, Row]]]) -> list[float]:
    counted = [_difference(pairs, 1.0) for pairs in questions]
    return holm([mcnemar(difference.broken, difference.fixed) for difference in counted])


def _parts(pairs: Sequence[tuple[Row, Row]], column: str) -> dict[str, Difference]:
    """By the value of a column; where the two name different values for a row, the second's counts."""
    members: dict[str, list[tuple[Row, Row]]] = {}
    for a, b in pairs:
        value = a.get(column) if b.get(column) is None else b[column]
        if value is not None:
            members.setdefault(value, []).append((a, b))
    names = sorted(members)
    chances = _chances([members[name] for name in names])
    return {name: _difference(members[name], p) for name, p in zip(names, chances, strict=True)}


def _judged_alike(sides: Sequence[Side]) -> None:
    by = [next(iter(side.report.settings.get("metrics") or [None])) for side in sides]
    if len(set(by)) > 1:
        text = _("Its answers were judged by {metric}; compared are results of one metric.")
        raise RunError(
            [Problem(side.place, text.format(metric=metric)) for side, metric in zip(sides, by, strict=True)]
        )


def _align(sides: Sequence[Side]) -> list[tuple[Row, ...]]:
    """The rows of all sides that belong together, in the order of the first."""
    rows = [dict(_keyed(side)) for side in sides]
    problems = []
    for i, (side, own) in enumerate(zip(sides, rows, strict=True)):
        others = rows[1:] if i == 0 else rows[:1]
        lone = [row for key, row in own.items() if any(key not in other for other in others)]
        if lone:
            text = _("{n} of {total} rows have no counterpart on the other side, the first is {place}.")
            problems.append(Problem(side.place, text.format(n=len(lone), total=len(own), place=place(lone[0]))))
    if problems:
        text = _(
            "Compared are answers to the same questions. Evaluate all on the same rows: tunesmith eval RUN --data FILE"
        )
        raise RunError([*problems, Problem("", text)])
    if not rows[0]:
        raise RunError(_("There are no rows to compare."), place=sides[0].place)
    return [tuple(own[key] for own in rows) for key in rows[0]]


def _keyed(side: Side) -> Iterator[tuple[tuple[str, int], Row]]:
    """Each row under what it asks and expects, and how often that came before it."""
    seen: Counter[str] = Counter()
    for number, row in enumerate(side.report.rows, start=1):
        try:
            asked = [[m["role"], m["content"]] for m in row["prompt"] if m["role"] != "system"]
            text = json.dumps([asked, row["gold"]])
            if not (isinstance(row["correct"], bool) and isinstance(row["answer"], str)):
                raise TypeError
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(_("Row {n} of these results is damaged.").format(n=number), place=side.place) from error
        yield (text, seen[text]), row
        seen[text] += 1


def _both(a: Row, b: Row) -> dict[str, Any]:
    shared = {name: b.get(name) for name in ("id", "origin", "group", "type", "gold")}
    return {**shared, "answers": [a["answer"], b["answer"]]}
