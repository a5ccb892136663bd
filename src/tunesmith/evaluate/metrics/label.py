"""label: `data.answer_template` reads both texts back, and one field decides; an unreadable answer is wrong."""

from __future__ import annotations

from typing import Any

from tunesmith.data.fields import parse_answer
from tunesmith.errors import ConfigError, DataError
from tunesmith.evaluate.metrics import MetricContext, fold
from tunesmith.i18n import _


def score(gold: str, answer: str, context: MetricContext) -> dict[str, Any]:
    """`correct`, `expected` and `label`: the deciding field of both, None if unreadable."""
    if not context.answer_template:
        raise ConfigError(
            _("The metric label reads answers by data.answer_template, which is not set."), place="evaluation.metrics"
        )
    wanted = parse_answer(context.answer_template, gold)
    if wanted is None:
        raise DataError(_("The expected answer does not have the form of data.answer_template."))
    field = context.label or next(iter(wanted))
    if field not in wanted:
        message = _("evaluation.label is {label}, but data.answer_template has only {fields}.")
        raise ConfigError(message.format(label=field, fields=", ".join(wanted)), place="evaluation.label")
    fields = parse_answer(context.answer_template, answer)
    expected, label = wanted[field].strip(), fields[field].strip() if fields else None
    correct = label is not None and fold(label) == fold(expected)
    return {"correct": correct, "expected": expected, "label": label}
