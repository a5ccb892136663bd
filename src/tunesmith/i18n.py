"""The reader's language: `_` turns an English sentence with named parts into the reader's own.

Write `_("{n} rows were rejected.").format(n=n)`: whole sentences, named parts, so that they can be translated.
TUNESMITH_LANG wins over the locale (LC_ALL, LC_MESSAGES, LANG); what has no translation stays English.
"""

from __future__ import annotations

import gettext
import os
from pathlib import Path

LOCALE = Path(__file__).parent / "locale"


def language() -> str:
    """`zh` or `en`."""
    for name in ("TUNESMITH_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(name, "")
        if value:
            return "zh" if value.lower().startswith(("zh", "cn")) else "en"
    return "en"


def _(message: str) -> str:
    return gettext.translation("tunesmith", LOCALE, [language()], fallback=True).gettext(message)
