"""Two results or more on the same rows: what got better, what broke, and whether that could be chance.

Knows pairs of rows that belong together, and counts; draws nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.evaluate.compare_rows import Row, Side, align, judged_alike
from tunesmith.evaluate.compare_scores import Score, scores
from tunesmith.evaluate.metrics import MetricContext
from tunesmith.evaluate.results import share
from tunesmith.evaluate.statistics import LEVEL, holm, mcnemar, middle, paired_interval, redrawn
from tunesmith.i18n import _

VERSION = 2


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
    def redrawn(self) -> tuple[float, float]:
        """The interval of the gain by drawing the rows again, which has no width where all rows changed alike."""
        changes = [[1.0]] * self.fixed + [[-1.0]] * self.broken + [[0.0]] * (self.both + self.neither)
        return middle(redrawn(changes)[:, 0] / self.n)

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or `open`: it could be chance."""
        if self.p >= LEVEL:
            return "open"
        return "better" if self.gain > 0 else "worse"

    def record(self) -> dict[str, Any]:
        accuracy = [each["accuracy"] for each in self.shares]
        found = {"n": self.n, "accuracy": accuracy, "gain": self.gain, "interval": list(self.interval)}
        return {
            **found,
            "bootstrap": list(self.redrawn),
            "fixed": self.fixed,
            "broken": self.broken,
            "p": self.p,
            "verdict": self.verdict,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """The second against the first, over all rows, by group and by type; `scores` are the figures that are no shares,
    `pairs` the rows of both."""

    first: Side
    second: Side
    pairs: list[tuple[Row, Row]]
    whole: Difference
    groups: dict[str, Difference]
    types: dict[str, Difference]
    scores: list[Score]

    @property
    def fixed(self) -> list[tuple[Row, Row]]:
        return [(a, b) for a, b in self.pairs if b["correct"] and not a["correct"]]

    @property
    def broken(self) -> list[tuple[Row, Row]]:
        return [(a, b) for a, b in self.pairs if a["correct"] and not b["correct"]]

    def sentence(self) -> str:
        """The verdict in one sentence; where no answer of either side is right, on the first of the other figures."""
        if self.scores and self.whole.neither == self.whole.n:
            return self._on_score(self.scores[0])
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

    def _on_score(self, score: Score) -> str:
        texts = {
            "higher": _(
                "{figure} is higher in {second} than in {first}: {after} and {before} (95 % interval of the difference "
                "{low} to {high}). No answer of either is right."
            ),
            "lower": _(
                "{figure} is lower in {second} than in {first}: {after} and {before} (95 % interval of the difference "
                "{low} to {high}). No answer of either is right."
            ),
            "open": _(
                "{figure} is {before} in {first} and {after} in {second} (95 % interval of the difference {low} to "
                "{high}), which could be chance. No answer of either is right."
            ),
        }
        before, after, low, high = (f"{value:.4g}" for value in (*score.values, *score.interval))
        return texts[score.verdict].format(
            figure=score.name, first=self.first.name, second=self.second.name, before=before, after=after, low=low,
            high=high,
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
            "scores": [score.record() for score in self.scores],
            "fixed_rows": [_both(*pair) for pair in self.fixed],
            "broken_rows": [_both(*pair) for pair in self.broken],
        }


def compare(sides: Sequence[Side]) -> list[Comparison]:
    """Every side against the first. RunError where they were not asked the same questions or not judged alike."""
    judged_alike(sides)
    aligned = align(sides)
    count = len(sides)
    found = []
    for i, p in enumerate(_chances([[(rows[0], rows[i]) for rows in aligned] for i in range(1, count)]), start=1):
        pairs = [(rows[0], rows[i]) for rows in aligned]
        groups, types = (_parts(pairs, column) for column in ("group", "type"))
        settings = sides[0].report.settings
        context = MetricContext(settings.get("answer_template"), settings.get("label"))
        found.append(
            Comparison(sides[0], sides[i], pairs, _difference(pairs, p), groups, types, scores(pairs, context))
        )
    return found


def record(sides: Sequence[Side], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """What comparison.json holds."""
    whole = [comparisons[0].whole.shares[0], *(found.whole.shares[1] for found in comparisons)]
    results = [{"name": side.name, "path": side.place, **each} for side, each in zip(sides, whole, strict=True)]
    return {"version": VERSION, "results": results, "comparisons": [found.record() for found in comparisons]}


def points(share: float) -> str:
    """A difference of shares in points, with a decimal where it has one."""
    return f"{round(100 * share, 1) + 0.0:g}"


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


def _both(a: Row, b: Row) -> dict[str, Any]:
    shared = {name: b.get(name) for name in ("id", "origin", "group", "type", "gold")}
    return {**shared, "answers": [a["answer"], b["answer"]]}
