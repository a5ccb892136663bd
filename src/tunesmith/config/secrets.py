"""What looks like a key that opens something, and so must not stand in settings: these are copied, shown and kept.

Knows how keys begin and what they are called; never says one again. Which setting holds it, the caller knows.
"""

from __future__ import annotations

import re

from tunesmith.i18n import _

_KEYS = re.compile(
    r"\bhf_[A-Za-z0-9]{24,}|\bsk-(?=[\w-]*\d)[\w-]{20,}|\bgh[opsur]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|glpat-[\w-]{20,}"
    r"|AKIA[0-9A-Z]{16}|AIza[\w-]{30,}|xox[abeprs]-[\w-]{10,}|ey[A-Za-z0-9_-]{10,}\.ey[\w-]{10,}\.[\w-]+"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----|[a-z][a-z0-9+.-]*://[^\s/@:]*:[^\s/@]+@",
    re.ASCII,
)
_NAMES = re.compile(
    r"(^|[_.-])(api_?key|secret(_?key)?|password|passwd|credentials?|(access|auth|hf|hub)_?token|token)$"
)


def advice() -> str:
    """Where a key belongs instead."""
    return _(
        "Keys never stand in settings, which are copied and shown. Move it into an environment variable such as"
        " HF_TOKEN or WANDB_API_KEY, or log in with the service's own command; have it renewed if others saw it."
    )


def is_secret(text: str) -> bool:
    """Whether the text holds a key of one of the usual kinds, or an address with a password in it."""
    return bool(_KEYS.search(text))


def names_secret(name: str) -> bool:
    """Whether a name of nobody's setting says that its value is a key."""
    return bool(_NAMES.search(name.lower().replace("-", "_")))
