"""length: words of the answer, and how long it is beside the expected one: what rambles or breaks off shows here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesmith.evaluate.metrics import MetricContext, Scored
from tunesmith.evaluate.words import words


def score(gold: str, answer: str, context: MetricContext) -> dict[str, Any]:
    return {"words": len(words(answer)), "expected_words": len(words(gold)), "characters": len(answer)}


def total(rows: Sequence[Scored], context: MetricContext) -> dict[str, Any]:
    """`ratio`: words of all answers to words of all expected ones; None where these have none."""
    expected = sum(row.score["expected_words"] for row in rows)
    return {"ratio": sum(row.score["words"] for row in rows) / expected if expected else None}
