"""What the metrics say of all rows and of each group: shares, means, and the figures that are no means of rows.

Knows what metrics return, and nothing of how.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tunesmith.evaluate.metrics import Metric, MetricContext, Scored
from tunesmith.evaluate.results import share

_BEHIND = ("n", "correct", "interval", "weight", "sum", "tokens", "sentence")


def measures(
    rows: Sequence[dict[str, Any]], metrics: Mapping[str, Metric], context: MetricContext
) -> dict[str, dict[str, Any]]:
    """By metric: the figures over all `rows` (records with group, gold, answer, scores), and under `groups` by group.

    Where a metric tells right from wrong: n, correct, accuracy and its 95 % interval. Of its numbers the mean over the
    rows that have one. Its own `total` counts before a mean of the same name.
    """
    groups = sorted({row["group"] for row in rows if row["group"] is not None})
    parts = {group: [row for row in rows if row["group"] == group] for group in groups}
    return {
        name: _figures(name, metric, rows, context)
        | {"groups": {group: _figures(name, metric, part, context) for group, part in parts.items()}}
        for name, metric in metrics.items()
    }


def figures(scores: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """(metric, figure, value) of what people look at, from the `scores` of the totals."""
    for name, found in scores.items():
        for figure, value in found.items():
            if isinstance(value, int | float) and is_figure(figure):
                yield name, figure, f"{value:.1%}" if figure == "accuracy" else f"{value:.4g}"


def is_figure(name: str) -> bool:
    """Whether people look at it; the others stand in the results, to be computed with."""
    return name not in _BEHIND


def _figures(name: str, metric: Metric, rows: Sequence[dict[str, Any]], context: MetricContext) -> dict[str, Any]:
    scored = [Scored(row["gold"], row["answer"], row["scores"][name]) for row in rows]
    verdicts = [row.score["correct"] for row in scored if "correct" in row.score]
    return {
        **(share(sum(verdicts), len(verdicts)) if verdicts else {}),
        **_means([row.score for row in scored]),
        **(metric.total(scored, context) if metric.total else {}),
    }


def _means(scores: Sequence[dict[str, Any]]) -> dict[str, float]:
    numbers: dict[str, list[float]] = {}
    for score in scores:
        for key, value in score.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                numbers.setdefault(key, []).append(value)
    return {key: sum(values) / len(values) for key, values in numbers.items()}
