"""Marks in text: noncharacters that tell content from template text by its place, and break what is spelled in it.

Content goes through a template between OPEN and CLOSE; a control token that is spelled inside content has BREAK before
each of its characters. Knows nothing of templates and ids.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

OPEN, CLOSE, BREAK, ANCHOR = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3"
MARKS = re.compile(f"[{OPEN}{CLOSE}{BREAK}{ANCHOR}]")


class Marked(str):
    """Text with marks, which stay what they are where a template writes a value as Python does (`{{ tools }}`)."""

    def __repr__(self) -> str:
        written = r"\\(\\|ufdd[0123])"  # an escaped backslash is a user's own
        return re.sub(written, lambda m: m[0] if m[1] == "\\" else chr(int(m[1][1:], 16)), super().__repr__())


def clean(text: str) -> str:
    return text if text.isascii() else MARKS.sub("", text)


def enclosed(text: str) -> str:
    """Marks around what is left when white space is trimmed, so that a template's trimming does what it always does."""
    core = text.strip()
    if not core:
        return text
    start = text.index(core)
    return Marked(f"{text[:start]}{OPEN}{core}{CLOSE}{text[start + len(core) :]}")


def anchored(text: str) -> str:
    """The same with ANCHOR as its last character; empty text has no place for one."""
    return Marked(enclosed(text).replace(CLOSE, ANCHOR + CLOSE))


def protect(text: str, pattern: re.Pattern[str]) -> str:
    """The text with every control token in it broken, so that it can't act as one; noncharacters are taken out."""
    return Marked(pattern.sub(_broken, clean(text)))


def _broken(token: re.Match[str]) -> str:
    """White space that a token swallows stays free, so that a template may trim it."""
    return re.sub(r"(?=\S)", BREAK, token[0]) if token[0].strip() else BREAK + BREAK.join(token[0])


def spans(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of each marked content in a rendered text, marks included."""
    for match in re.finditer(f"{OPEN}[^{OPEN}{CLOSE}]*{CLOSE}", text):
        yield match.span()


def every_text(value: Any, change: Callable[[str], str], keys: Callable[[str], str] | None = None) -> Any:
    """The JSON value with each text in it changed, its keys too where `keys` is given."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {keys(k) if keys else k: every_text(v, change, keys) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [every_text(item, change, keys) for item in value]
    return value
