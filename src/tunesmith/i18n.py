"""The reader's language: `_` turns an English sentence with named parts into the reader's own.

Write `_("{n} rows were rejected.").format(n=n)`: whole sentences, named parts, so that they can be translated.
TUNESMITH_LANG wins over the locale (LC_ALL, LC_MESSAGES, LANG; on Windows the language of its windows); what has no
translation stays English.
"""

from __future__ import annotations

import gettext
import locale
import os
import sys
from functools import cache
from pathlib import Path

LOCALE = Path(__file__).parent / "locale"


def language() -> str:
    """`zh` or `en`."""
    for name in ("TUNESMITH_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(name, "")
        if value:
            return _of(value)
    return _of(_of_windows()) if sys.platform == "win32" else "en"


def _of(name: str) -> str:
    return "zh" if name.lower().startswith(("zh", "cn", "chinese")) else "en"


def _of_windows() -> str:
    import ctypes

    number = ctypes.windll.kernel32.GetUserDefaultUILanguage()  # type: ignore[attr-defined,unused-ignore]
    return locale.windows_locale.get(number, "")


def _(message: str) -> str:
    return _catalogue(language()).gettext(message)


@cache
def _catalogue(language: str) -> gettext.NullTranslations:
    return gettext.translation("tunesmith", LOCALE, [language], fallback=True)
