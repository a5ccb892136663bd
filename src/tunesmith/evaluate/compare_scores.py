"""Figures that are no shares, as two results have them: means, BLEU, perplexity, and what chance does to a difference.

The rows are drawn again and again, the same ones for both sides, and the figures computed anew of every draw. Knows
rows as results hold them; of metrics it knows that a figure is a mean, or made of sums over rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.evaluate.compare_rows import Row
from tunesmith.evaluate.measures import is_figure
from tunesmith.evaluate.metrics import MetricContext, Scored, load, names
from tunesmith.evaluate.statistics import middle, redrawn


@dataclass(frozen=True, slots=True)
class Score:
    """A figure of a metric on both sides; `interval` is the 95 % interval of the second less the first."""

    metric: str
    figure: str
    values: tuple[float, float]
    interval: tuple[float, float]

    @property
    def name(self) -> str:
        return self.figure if self.figure == self.metric else f"{self.metric} {self.figure}"

    @property
    def gain(self) -> float:
        return self.values[1] - self.values[0]

    @property
    def verdict(self) -> str:
        """`higher`, `lower`, or `open`: it could be chance."""
        low, high = self.interval
        return "higher" if low > 0 else "lower" if high < 0 else "open"

    def record(self) -> dict[str, Any]:
        found = {"metric": self.metric, "figure": self.figure, "values": list(self.values), "gain": self.gain}
        return found | {"interval": list(self.interval), "verdict": self.verdict}


def scores(pairs: Sequence[tuple[Row, Row]], context: MetricContext) -> list[Score]:
    """Every figure that both sides have and that their rows do not all share, in the order of the first side."""
    named = [name for name in pairs[0][0]["scores"] if all(name in row["scores"] for pair in pairs for row in pair)]
    return [score for name in named for score in _of_metric(name, pairs, context)]


def _of_metric(name: str, pairs: Sequence[tuple[Row, Row]], context: MetricContext) -> Iterator[Score]:
    sides = [_Sums(name, [pair[i] for pair in pairs], context) for i in (0, 1)]
    tables = [side.table for side in sides]
    if tables[0] == tables[1] or not tables[0][0]:
        return
    width = len(tables[0][0])
    before, after = (side.figures([sum(column) for column in zip(*side.table, strict=True)]) for side in sides)
    drawn = redrawn([[*one, *other] for one, other in zip(*tables, strict=True)]).tolist()
    again = [(sides[0].figures(sums[:width]), sides[1].figures(sums[width:])) for sums in drawn]
    for figure in filter(is_figure, before):
        values = before[figure], after.get(figure)
        drawn_values = [(a[figure], b.get(figure)) for a, b in again]
        gains = [y - x for x, y in drawn_values if x is not None and y is not None]
        if values[0] is not None and values[1] is not None and any(gains):
            yield Score(name, figure, (values[0], values[1]), middle(gains))


class _Sums:
    """What a metric counts in each row of one side, and its figures made of sums of that."""

    def __init__(self, name: str, rows: Sequence[Row], context: MetricContext) -> None:
        scored = [Scored(row["gold"], row["answer"], row["scores"][name]) for row in rows]
        numbers = {key: None for row in scored for key, value in row.score.items() if _is_number(value)}
        self._means = list(numbers)
        own = load(name).sums if name in names() else None
        counted, figures = own(scored, context) if own else ([[]] * len(scored), lambda sums: {})
        self._own: Callable[[Sequence[float]], dict[str, float | None]] = figures
        self.table = [
            [part for key in self._means for part in _with_count(row.score.get(key))] + list(more)
            for row, more in zip(scored, counted, strict=True)
        ]

    def figures(self, sums: Sequence[float]) -> dict[str, float | None]:
        parts = zip(self._means, sums[::2], sums[1::2], strict=False)  # the metric's own sums stand behind them
        means = {key: total / n if n else None for key, total, n in parts}
        return means | self._own(sums[2 * len(means) :])


def _with_count(value: Any) -> tuple[float, int]:
    return (value, 1) if _is_number(value) else (0.0, 0)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
