"""A row of a file as it was read, and what can be wrong with it.

Knows JSON's kinds of values and nothing of files, formats or settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tunesmith.conversation import Origin
from tunesmith.i18n import _

EXCERPT = 200
ROLE_KEYS = ("role", "from", "speaker")
CONTENT_KEYS = ("content", "value", "text")


@dataclass(frozen=True, slots=True)
class Row:
    """One object of the input, its columns by name."""

    value: dict[str, Any]
    origin: Origin


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be read. `code` is for programs, `reason` for people, `excerpt` is how the row begins."""

    origin: Origin
    code: str
    reason: str
    excerpt: str


class RowError(Exception):
    """A row that says nothing trainable; it is rejected with this code and reason, and the others go on."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def kind(value: Any) -> str:
    """What a value is, in a reader's words."""
    if value is None:
        return _("empty (null)")
    if isinstance(value, bool):
        return _("true or false")
    if isinstance(value, int | float):
        return _("a number")
    if isinstance(value, str):
        return _("text")
    return _("a list") if isinstance(value, list) else _("an object")


def text_of(row: dict[str, Any], column: str) -> str:
    """The text in a column; RowError where there is none or something else."""
    if column not in row:
        raise RowError("missing_column", _("The row has no column {column}.").format(column=column))
    if not isinstance(row[column], str):
        reason = _("{place} is {kind}; expected text.").format(place=column, kind=kind(row[column]))
        raise RowError("content_type", reason)
    return row[column]


def is_message(value: Any) -> bool:
    """Whether this is one turn of a dialogue: an object with a speaker's name and something said."""
    if not isinstance(value, dict):
        return False
    speaks = any(isinstance(value.get(key), str) for key in ROLE_KEYS)
    return speaks and any(key in value for key in (*CONTENT_KEYS, "tool_calls"))


def is_dialogue(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_message, value))
