"""Words of a text in any language: Chinese ones found by jieba, all others as rouge-score finds them.

Knows nothing of metrics.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

_CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_PIECES = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+|[^\W_]+")


def is_chinese(texts: Iterable[str]) -> bool:
    """Whether a third of all letters and more are Chinese: names and units may be Latin."""
    text = "".join(texts)
    return 3 * len(_CHINESE.findall(text)) > sum(map(str.isalpha, text))


def words(text: str) -> list[str]:
    """Lower case, without punctuation. Letters of any script count (rouge-score keeps Latin ones alone)."""
    found: list[str] = []
    for piece in _PIECES.findall(text.lower()):
        found += _cut(piece) if _CHINESE.match(piece) else [piece]
    return found


def _cut(text: str) -> list[str]:
    import jieba

    jieba.setLogLevel(logging.WARNING)  # it tells how long its dictionary took
    return list(jieba.cut(text))
