"""numeric: the number that an answer comes to, as in GSM8K (Cobbe et al. 2021): what follows `####`, else the last one.

Thousands separators, full width, currency signs and units are free; 18, 18.0 and $18.00 are the same number.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from tunesmith.errors import DataError
from tunesmith.evaluate.metrics import MetricContext
from tunesmith.i18n import _

_NUMBER = re.compile(
    r"(?<![A-Za-z\d_.])[-+]?(?:[$€£¥]\s*)?((?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:e([-+]?\d{1,3})(?![a-z\d]))?",
    re.I,
)
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_MARK = "####"


def suits(golds: Sequence[str]) -> bool:
    """Solutions that end with `####` and a number, or numbers alone."""
    return all(_MARK in gold or _NUMBER.fullmatch(_plain(gold)) for gold in golds) and all(
        number(gold) is not None for gold in golds
    )


def score(gold: str, answer: str, context: MetricContext) -> dict[str, Any]:
    """`correct`; `wanted` and `label` are the numbers as text, `label` None where the answer has none."""
    wanted, said = number(gold), number(answer)
    if wanted is None:
        raise DataError(_("The expected answer has no number."))
    return {"correct": said == wanted, "wanted": f"{wanted:f}", "label": None if said is None else f"{said:f}"}


def number(text: str) -> Decimal | None:
    """The number of an answer: behind the last `####`, in the last \\boxed{}, or the last of all; None without one."""
    text = _plain(text)
    if _MARK in text:
        found = _NUMBER.search(text.rpartition(_MARK)[2])
        return _value(found) if found else None
    boxed = [_value(found) for inner in _BOXED.findall(text) if (found := _NUMBER.search(inner))]
    return boxed[-1] if boxed else next((_value(found) for found in reversed([*_NUMBER.finditer(text)])), None)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("\u2212", "-").strip()


def _value(found: re.Match[str]) -> Decimal:
    size = Decimal(found[1].replace(",", "")).scaleb(int(found[2] or 0))
    return (-size if found[0].startswith("-") else size).normalize()
