"""exact: the answer is the expected text, to the letter; only white space around it is free."""

from __future__ import annotations

from typing import Any

from tunesmith.evaluate.metrics import MetricContext


def score(gold: str, answer: str, context: MetricContext) -> dict[str, Any]:
    return {"correct": answer.strip() == gold.strip()}
