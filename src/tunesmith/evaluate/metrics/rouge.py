"""rouge: F1 of ROUGE-1, -2 and -L by rouge-score (Lin 2004), 0 to 1, over the words of any language, Chinese by jieba.

Where an answer template writes the answers, each field but the deciding one is compared by itself, and an answer that
can't be read by the template scores 0.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from tunesmith.data.fields import parse_answer
from tunesmith.evaluate.metrics import MetricContext
from tunesmith.evaluate.words import words

KINDS = ("rouge1", "rouge2", "rougeL")


def score(gold: str, answer: str, context: MetricContext) -> dict[str, Any]:
    """`rouge1`, `rouge2`, `rougeL`; by field `FIELD.rouge1` and so on."""
    others = context.fields[1:]
    if not context.answer_template or not others:
        return _compare(gold, answer)
    wanted = parse_answer(context.answer_template, gold) or {}
    said = parse_answer(context.answer_template, answer) or {}
    return {
        f"{field}.{kind}": value
        for field in others
        for kind, value in _compare(wanted.get(field, ""), said.get(field, "")).items()
    }


def _compare(gold: str, answer: str) -> dict[str, float]:
    found = _scorer().score(gold, answer)
    return {kind: round(found[kind].fmeasure, 6) for kind in KINDS}


class _Words:
    """What rouge-score asks of a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(KINDS, tokenizer=_Words())
