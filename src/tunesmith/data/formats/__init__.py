"""The formats of training rows. One file is one format, and the file's name is its name in YAML.

A format has `detect(row)`, which looks at the types of the values and not only at the names of the columns, and
`parse(row)`, which raises RowError for a row that it can't read. A user's own is named by path or dotted name.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import ModuleType
from typing import Any, Protocol, cast

from tunesmith.conversation import Message
from tunesmith.data.parts import inline_reasoning
from tunesmith.data.row import RowError, text_of
from tunesmith.errors import DataError
from tunesmith.i18n import _


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a row says. Columns that are not in `claimed` go to the conversation's `meta`, and so does `meta`."""

    messages: Sequence[Message]
    tools: Sequence[dict[str, Any]] = ()
    claimed: frozenset[str] | set[str] = frozenset()
    meta: dict[str, Any] = field(default_factory=dict)


class Format(Protocol):
    def detect(self, row: dict[str, Any]) -> bool: ...

    def parse(self, row: dict[str, Any]) -> Parsed: ...


def names() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__)]


def get(name: str) -> Format:
    """The format of this name, of a Python file (`./mine.py`) or of a dotted module. DataError if there is none."""
    try:
        if name in names():
            return cast(Format, importlib.import_module(f"{__name__}.{name}"))
        module = _from_file(name) if name.endswith(".py") else importlib.import_module(name)
    except Exception as error:
        near = "".join(get_close_matches(name, names(), 1))
        hint = _("Did you mean {name}?").format(name=near) if near else ", ".join(names())
        text = _("The format {name} can't be loaded ({why}). {hint}")
        raise DataError(text.format(name=name, why=error, hint=hint), "data.format") from error
    for function in ("detect", "parse"):
        if not callable(getattr(module, function, None)):
            text = _("The format {name} has no function {function}.")
            raise DataError(text.format(name=name, function=function), "data.format")
    return cast(Format, module)


def _from_file(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("tunesmith_user_format", path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def single_turn(prompt: str, answer: str, place: str) -> tuple[Message, Message]:
    """A question and its answer, reasoning apart; `place` is the answer's name for what goes wrong."""
    if not prompt.strip():
        raise RowError("empty_prompt", _("The question is empty."))
    reasoning, content = inline_reasoning(answer, place)
    return Message("user", prompt), Message("assistant", content, reasoning if reasoning.strip() else None)


def with_system(messages: Sequence[Message], system: str) -> Sequence[Message]:
    """The messages under this system prompt; RowError if they have another one already."""
    if not system.strip():
        return messages
    if not messages or messages[0].role != "system":
        return (Message("system", system), *messages)
    if messages[0].content.strip() != system.strip():
        raise RowError("two_systems", _("The row has two system prompts that differ."))
    return messages


def only_text(row: dict[str, Any], columns: Sequence[str]) -> str | None:
    """The one of these columns that the row has and that holds text; None for none or several."""
    found = [column for column in columns if column in row]
    return found[0] if len(found) == 1 and isinstance(row[found[0]], str) else None


def parse_pair(row: dict[str, Any], prompts: Sequence[str], answers: Sequence[str]) -> Parsed:
    """A question and an answer, each in the first of these columns that the row has."""
    prompt, answer = (next((c for c in columns if c in row), columns[0]) for columns in (prompts, answers))
    return Parsed(single_turn(text_of(row, prompt), text_of(row, answer), answer), claimed={prompt, answer})
