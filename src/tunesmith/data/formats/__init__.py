"""The formats of training rows. One file is one format, and the file's name is its name in YAML.

A format has `detect(row)`, which looks at the types of the values and not only at the names of the columns, and
`parse(row)`, which raises RowError for a row that it can't read. A user's own is named by path or dotted name. Those
that stand here also have `write(conversation)`, the way back: the columns that hold the messages, or RowError where
the format has no place for them. System prompt, tools and other columns that `write` leaves to the row, `columns` adds.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from typing import Any, Protocol, cast

from tunesmith.conversation import Conversation, Message
from tunesmith.data.parts import REASONING_KEYS, inline_reasoning
from tunesmith.data.row import RowError, text_of
from tunesmith.errors import DataError
from tunesmith.i18n import _


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a row says. Columns that are not in `claimed` go to the conversation's `meta`, and so does `meta`; `weight`
    is the whole row's."""

    messages: Sequence[Message]
    tools: Sequence[dict[str, Any]] = ()
    claimed: frozenset[str] | set[str] = frozenset()
    meta: dict[str, Any] = field(default_factory=dict)
    weight: float = 1.0


class Reader(Protocol):
    def parse(self, row: dict[str, Any]) -> Parsed: ...


class Format(Reader, Protocol):
    def detect(self, row: dict[str, Any]) -> bool: ...


class Writer(Format, Protocol):
    """A format that rows can be written in."""

    def write(self, conversation: Conversation) -> dict[str, Any]: ...


@cache
def names() -> tuple[str, ...]:
    return tuple(module.name for module in pkgutil.iter_modules(__path__))


def writer(name: str) -> Writer:
    """The shipped format of this name. DataError if there is none."""
    if name not in names():
        near = "".join(get_close_matches(name, names(), 1))
        hint = _("Did you mean {name}?").format(name=near) if near else ", ".join(names())
        raise DataError(_("There is no format {name} to write. {hint}").format(name=name, hint=hint))
    return cast(Writer, get(name))


def get(name: str) -> Format:
    """The shipped format of this name."""
    return cast(Format, importlib.import_module(f"{__name__}.{name}"))


def reader(name: str) -> Reader:
    """The shipped format of this name, or a user's own: a Python file or a dotted module. DataError if it is neither.

    A user's own has `parse(row)` only: it is named, so nobody asks whether it fits."""
    if name in names():
        return get(name)
    from tunesmith.data import own  # stands on this room

    return own.load(name)


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
    return thought(
        row, Parsed(single_turn(text_of(row, prompt), text_of(row, answer), answer), claimed={prompt, answer})
    )


def thought(row: dict[str, Any], parsed: Parsed) -> Parsed:
    """With the reasoning of a column beside the question and the answer, unless the last answer has its own."""
    column = next((c for c in REASONING_KEYS if isinstance(row.get(c), str) and row[c].strip()), None)
    *before, last = parsed.messages
    if column is None or column in parsed.claimed or last.reasoning:
        return parsed
    messages = [*before, replace(last, reasoning=row[column])]
    return replace(parsed, messages=messages, claimed={*parsed.claimed, column})


def split_system(messages: Sequence[Message]) -> tuple[str, Sequence[Message]]:
    """The system prompt for a column of its own, and the messages after it."""
    if messages and messages[0].role == "system":
        return messages[0].content, messages[1:]
    return "", messages


def pair_of(messages: Sequence[Message]) -> tuple[str, str]:
    """Question and answer as texts, reasoning in front of the answer; RowError if there is more to it than that."""
    if [message.role for message in messages] != ["user", "assistant"]:
        raise RowError("many_turns", _("The format holds one question and one answer; the row has other turns."))
    return messages[0].content, inline(messages[1])


def inline(message: Message) -> str:
    """An answer as one text, with its reasoning in a `<think>` block in front. RowError for calls of tools."""
    if message.tool_calls:
        raise RowError("tool_call", _("The format has no place for calls of tools."))
    thoughts = f"<think>\n{message.reasoning}\n</think>\n\n" if message.reasoning else ""
    return thoughts + message.content


def write_pair(conversation: Conversation, prompt: str, answer: str) -> dict[str, Any]:
    system, messages = split_system(conversation.messages)
    asked, answered = pair_of(messages)
    return {**({"system": system} if system else {}), prompt: asked, answer: answered}
