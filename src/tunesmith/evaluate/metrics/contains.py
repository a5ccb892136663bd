"""contains: the expected text stands somewhere in the answer; capitals, width and spacing are free."""

from __future__ import annotations

from typing import Any

from tunesmith.errors import DataError
from tunesmith.evaluate.metrics import MetricContext, fold
from tunesmith.i18n import _


def score(gold: str, answer: str, context: MetricContext) -> dict[str, Any]:
    wanted = fold(gold)
    if not wanted:
        raise DataError(_("The expected answer has no word that another answer could contain."))
    return {"correct": wanted in fold(answer)}
