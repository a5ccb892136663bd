"""chrf: chrF2 by sacrebleu (Popovic 2015), 0 to 100: n-grams of characters, so that it needs no words.

The figure of all rows is counted over all rows and stored with its signature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesmith.evaluate.metrics import MetricContext, Scored, Sums
from tunesmith.evaluate.metrics.bleu import counted


def score(gold: str, answer: str, context: MetricContext) -> dict[str, Any]:
    from sacrebleu.metrics import CHRF

    return {"sentence": round(CHRF().sentence_score(answer, [gold]).score, 4)}


def total(rows: Sequence[Scored], context: MetricContext) -> dict[str, Any]:
    from sacrebleu.metrics import CHRF

    counter = CHRF()
    found = counter.corpus_score([row.answer for row in rows], [[row.gold for row in rows]])
    return {"chrf": found.score, "signature": str(counter.get_signature())}


def sums(rows: Sequence[Scored], context: MetricContext) -> Sums:
    from sacrebleu.metrics import CHRF

    return counted(CHRF(), "chrf", [row.gold for row in rows], [row.answer for row in rows])
