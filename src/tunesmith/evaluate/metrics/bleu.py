"""bleu: BLEU by sacrebleu (Papineni et al. 2002; Post 2018), 0 to 100, with the signature that makes it comparable.

Chinese expected answers are split by sacrebleu's `zh`, all others by its `13a`. The figure of all rows is counted over
all rows; a row's own is smoothed and only tells rows apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesmith.evaluate.metrics import MetricContext, Scored, Sums
from tunesmith.evaluate.words import is_chinese


def score(gold: str, answer: str, context: MetricContext) -> dict[str, Any]:
    counter = _counter([gold], effective_order=True)  # a short answer has no four words in a row
    return {"sentence": round(counter.sentence_score(answer, [gold]).score, 4)}


def total(rows: Sequence[Scored], context: MetricContext) -> dict[str, Any]:
    golds = [row.gold for row in rows]
    counter = _counter(golds)
    found = counter.corpus_score([row.answer for row in rows], [golds])
    return {"bleu": found.score, "signature": str(counter.get_signature())}


def sums(rows: Sequence[Scored], context: MetricContext) -> Sums:
    golds = [row.gold for row in rows]
    return counted(_counter(golds), "bleu", golds, [row.answer for row in rows])


def counted(counter: Any, name: str, golds: Sequence[str], answers: Sequence[str]) -> Sums:
    """What a metric of sacrebleu counts in each row, and its score of a sum of such counts, as in its own bootstrap."""
    table = counter._extract_corpus_statistics(answers, [golds])
    return table, lambda found: {name: counter._compute_score_from_stats([round(number) for number in found]).score}


def _counter(golds: Sequence[str], **options: Any) -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU(tokenize="zh" if is_chinese(golds) else "13a", **options)
