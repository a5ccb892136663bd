"""length: words of the answer, and how long it is beside the expected one: what rambles or breaks off shows here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesmith.evaluate.metrics import MetricContext, Scored, Sums
from tunesmith.evaluate.words import words


def score(gold: str, answer: str, context: MetricContext) -> dict[str, Any]:
    return {"words": len(words(answer)), "expected_words": len(words(gold)), "characters": len(answer)}


def total(rows: Sequence[Scored], context: MetricContext) -> dict[str, Any]:
    """`ratio`: words of all answers to words of all expected ones; None where these have none."""
    table, figures = sums(rows, context)
    return figures([sum(column) for column in zip(*table, strict=True)])


def sums(rows: Sequence[Scored], context: MetricContext) -> Sums:
    table = [[row.score["words"], row.score["expected_words"]] for row in rows]
    return table, lambda found: {"ratio": found[0] / found[1] if found[1] else None}
