"""choice: the letter of a multiple choice question, A to D: the whole answer, behind "answer" or 答案, or alone."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from tunesmith.errors import DataError
from tunesmith.evaluate.metrics import MetricContext
from tunesmith.i18n import _

_FIRST = re.compile(r"[*(\[]*([A-D])(?:[*)\].:,、]|\s*$|\s*\n)")  # A   A.   (A)   **A**   A: because
_NAMED = re.compile(
    r"(?i:answer|option|choice|correct|答案|选项|选择|应选|故选|选)[^A-Za-z\n]{0,8}(?i:is|are|为|是)?[^A-Za-z\n]{0,8}"
    r"\b([A-D](?![A-Za-z'])|[a-d](?=\s*(?:[.)\n]|$)))"  # a small letter is mostly a word: "is a dog"
)
_BOXED = re.compile(r"\\boxed\{(?:\\text\{)?\(?([A-D])\)?\}")
_ALONE = re.compile(  # "A dog" is no choice, "A or B" are two
    r"(?<![A-Za-z'])([A-D])(?![A-Za-z'])(?!(?<=A) (?!(?:or|and|is|was)\b)[a-z])"
)


def suits(golds: Sequence[str]) -> bool:
    """Answers that are nothing but a letter, or begin with one that is set apart."""
    return all(_FIRST.match(_plain(gold)) for gold in golds)


def score(gold: str, answer: str, context: MetricContext) -> dict[str, Any]:
    """`correct`, `expected` and `label`, the letters; `label` None where the answer chooses none, or several."""
    expected, label = letter(gold), letter(answer)
    if expected is None:
        raise DataError(_("The expected answer chooses none of A to D."))
    return {"correct": label == expected, "expected": expected, "label": label}


def letter(text: str) -> str | None:
    text = _plain(text)
    if found := _FIRST.match(text):
        return found[1]
    for pattern in (_BOXED, _NAMED):
        if several := pattern.findall(text):
            return str(several[-1]).upper()
    alone = set(_ALONE.findall(text))
    return str(alone.pop()) if len(alone) == 1 else None


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip()
