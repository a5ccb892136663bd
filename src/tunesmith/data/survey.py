"""What conversations are like taken together: how long, in which writing, how many of each value of a column.

Counts and nothing else: it knows neither files nor tokenizers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from tunesmith.conversation import Conversation
from tunesmith.i18n import _

# One sign of these tells the language, whatever stands around it: Japanese uses Chinese characters too.
_SCRIPTS = {
    "ja": re.compile("[\u3040-\u30ff]"),
    "ko": re.compile("[\uac00-\ud7af]"),
    "zh": re.compile("[\u4e00-\u9fff]"),
    "cyrillic": re.compile("[\u0400-\u04ff]"),
    "arabic": re.compile("[\u0600-\u06ff]"),
    "latin": re.compile("[A-Za-z\u00c0-\u024f]"),
}
SHARE = 0.2  # of the letters; a name in another writing does not make a text another language's


def languages(conversations: Sequence[Conversation]) -> dict[str, int]:
    """Conversations by the writing of what is asked and answered, the most frequent first."""
    names = {
        "zh": _("Chinese"),
        "ja": _("Japanese"),
        "ko": _("Korean"),
        "cyrillic": _("Cyrillic letters"),
        "arabic": _("Arabic letters"),
        "latin": _("Latin letters"),
        "": _("no letters"),
    }
    found = Counter(language("\n".join(m.content for m in c.messages if m.role != "system")) for c in conversations)
    return {names[code]: n for code, n in found.most_common()}


def language(text: str) -> str:
    """The key of `_SCRIPTS` in which the text is written; empty for a text without letters."""
    letters = {code: len(script.findall(text)) for code, script in _SCRIPTS.items()}
    total = sum(letters.values())
    return next((code for code, n in letters.items() if n and n >= SHARE * total), "")


def groups(conversations: Sequence[Conversation], column: str) -> dict[str, int]:
    """Conversations by the column's value, the most frequent first; empty for those that have none."""
    return dict(Counter(str(c.meta.get(column, "")) for c in conversations).most_common())


def spread(lengths: Sequence[int]) -> dict[str, int]:
    """Shortest, median, 95 of 100, longest."""
    ordered = sorted(lengths)
    places = {"min": 0.0, "median": 0.5, "p95": 0.95, "max": 1.0}
    return {name: ordered[round(place * (len(ordered) - 1))] for name, place in places.items()} if ordered else {}


def characters(conversation: Conversation) -> int:
    return sum(len(message.content) + len(message.reasoning or "") for message in conversation.messages)
