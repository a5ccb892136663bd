"""distinct: distinct-1 and distinct-2 (Li et al. 2016): the share of different words and pairs of words in the answers.

Low over all rows: the model says the same to everyone. Low in a row: it repeats itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from tunesmith.evaluate.metrics import MetricContext, Scored
from tunesmith.evaluate.words import words


def score(gold: str, answer: str, context: MetricContext) -> dict[str, Any]:
    return {f"row_{name}": value for name, value in _distinct([words(answer)]).items()}


def total(rows: Sequence[Scored], context: MetricContext) -> dict[str, Any]:
    return _distinct([words(row.answer) for row in rows])


def _distinct(texts: Sequence[list[str]]) -> dict[str, float]:
    """Pairs never reach from one answer into the next; no word at all is 0."""
    single = [word for text in texts for word in text]
    double = [pair for text in texts for pair in pairwise(text)]
    return {
        "distinct1": len(set(single)) / len(single) if single else 0.0,
        "distinct2": len(set(double)) / len(double) if double else 0.0,
    }
