"""Calls of tools in a generated answer, read back as the template writes them.

How they are written is learned from one rendered call. A template that puts nothing before a call (plain JSON) has no
calls to read: such an answer could as well be meant as it stands. Knows nothing of ids.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from tunesmith.conversation import ToolCall
from tunesmith.tokens.marks import clean, spans

_DECODER = json.JSONDecoder(strict=False)
_MARK = re.compile(r"(?:<[^<>]*>[^<>]+)?(?:<[^<>]*>)?[^<>]*$")  # the part of an opening that every further call has too
_FURTHER = re.compile(r"[\s,;]*(?={)")
_CLOSING = re.compile(r"[\s\]}`]*(?:<[^<>\n]*>\s*)*")  # what a template writes behind a call


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """`first` opens the calls, `start` is before the JSON object of every one; where that object holds the arguments
    alone, the pattern finds the name too."""

    first: str
    start: re.Pattern[str]

    @classmethod
    def of(cls, rendered: str | None) -> CallSyntax | None:
        """From an answer that calls `name`, as rendered, marks included."""
        name = next(spans(rendered or ""), None)
        if rendered is None or name is None:
            return None
        before = clean(rendered[: name[0]])
        outer, brace, _inner = before.rpartition("{")
        opening = ((outer.rstrip("[ \n") if brace else before).split() or [""])[-1]
        if not opening:
            return None
        mark = next(_MARK.finditer(opening))
        start = re.escape(mark[0]) + (r"[\s\[]*(?={)" if brace else r"([\w.\-]+)[^{}]*(?={)")
        return cls(opening[: mark.start()], re.compile(start))

    def read(self, text: str) -> tuple[str, tuple[ToolCall, ...]]:
        """(the words around the calls, the calls); the text as it is and no call where one can't be read."""
        words: list[str] = []
        calls: list[ToolCall | None] = []
        end = 0
        for found in self.start.finditer(text):
            if found.start() < end:
                continue  # within the arguments of a call
            words.append(text[end : found.start()])
            name = found[1] if self.start.groups else None
            values, end = _objects(text, found.end())
            calls += [_call(value, name) for value in values] or [None]
        if not calls or None in calls:
            return text, ()
        before, *others = [*words, text[end:]]
        said = before.removesuffix(self.first) + "".join(_CLOSING.sub("", part, count=1) for part in others)
        return said, tuple(filter(None, calls))


def _objects(text: str, start: int) -> tuple[list[Any], int]:
    """The JSON objects that stand at `start` one behind the other, and where they end."""
    values: list[Any] = []
    end = start
    try:
        while True:
            value, end = _DECODER.raw_decode(text, start)
            values.append(value)
            following = _FURTHER.match(text, end)
            if following is None:
                return values, end
            start = following.end()
    except ValueError:
        return values, end


def _call(value: Any, name: str | None) -> ToolCall | None:
    if name is not None:
        return ToolCall(name, value)
    called, arguments = value.get("name"), value.get("arguments", value.get("parameters"))
    return ToolCall(called, {} if arguments is None else arguments) if isinstance(called, str) else None
