"""Rows to conversations, one at a time: what a row says or why it is rejected, and what is noticed on the way.

Counts, and keeps no row: so it can go through any number of them, in several processes. Knows nothing of files.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from tunesmith.conversation import Conversation, Message, Origin
from tunesmith.data import fields, formats
from tunesmith.data.detect import SYSTEMS, Parse, choose
from tunesmith.data.formats import with_system
from tunesmith.data.row import EXCERPT, BadRow, Row, RowError
from tunesmith.data.weights import Rules, of_row
from tunesmith.i18n import _

if TYPE_CHECKING:
    from tunesmith.config.schema import DataSection

TOOLS = ("tools", "functions")
ALL = "{column}_all"  # beside a column that has several values in a row: all of them


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that is not trained. `index` is the 0-based input row; `code` is for programs, `reason` for people."""

    origin: Origin
    index: int
    code: str
    reason: str
    excerpt: str

    def as_dict(self) -> dict[str, Any]:
        """In JSON's types, as the list of rejected rows has it."""
        return {
            "file": self.origin.file,
            "line": self.origin.line,
            "row": self.index,
            "code": self.code,
            "reason": self.reason,
            "excerpt": self.excerpt,
        }


class Intake:
    """What the settings make of a row in the format `name`. `seen` counts what the notices are about."""

    def __init__(self, name: str, parse: Parse, section: DataSection) -> None:
        self.format, self._parse = name, parse
        self.columns = list(filter(None, dict.fromkeys((section.stratify_by, section.split_by))))
        self._rules = Rules(section.weights)
        self.seen: Counter[str] = Counter()

    @classmethod
    def known(cls, name: str, section: DataSection) -> Intake:
        """For a format that was recognised before."""
        if not name:
            return cls(name, formats.get("messages").parse, section)
        known = {"format": name} if name in formats.names() else {}
        return cls(*choose([], section.model_copy(update=known), ""), section)

    def take(self, row: Row | BadRow, index: int) -> Conversation | Rejected:
        """Row `index` as a conversation, with its weights."""
        if isinstance(row, BadRow):
            return Rejected(row.origin, index, row.code, row.reason, row.excerpt)
        try:
            conversation = conversation_of(row, index, self._parse, self.columns)
        except RowError as error:
            excerpt = json.dumps(row.value, ensure_ascii=False, default=str)[:EXCERPT]
            reason = _("{reason} (format: {format})").format(reason=error.reason, format=self.format)
            return Rejected(row.origin, index, error.code, reason, excerpt)
        self._remark(conversation)
        return self._rules.weigh(conversation, self.seen)

    def _remark(self, conversation: Conversation) -> None:
        messages, seen = conversation.messages, self.seen
        seen["accepted"] += 1
        seen["weighted"] += sum(message.role != "assistant" and (message.weight or 0) > 0 for message in messages)
        seen["numbers"] += isinstance(conversation.meta.get("weight"), int | float)
        seen["opening"] += next((m.role for m in messages if m.role != "system"), "") == "assistant"
        for column in self.columns:
            seen[column] += isinstance(conversation.meta.get(ALL.format(column=column)), list)

    def notices(self) -> list[str]:
        """What should be known of the conversations as a whole."""
        seen, said = self.seen, self._rules.notices(self.seen)
        if seen["weighted"]:
            text = _("Messages that are not answers and carry a weight: {n}. Only answers are trained.")
            said.append(text.format(n=seen["weighted"]))
        if seen["numbers"] * 2 > seen["accepted"]:
            said.append(_("A column weight changes no loss; call it loss_weight if it is meant to."))
        if seen["opening"]:
            text = _("Conversations that open with the assistant: {n}. That message is context and is not trained.")
            said.append(text.format(n=seen["opening"]))
        for column in self.columns:
            if seen[column]:
                text = _("Rows with several values of {column}: {n}. The first groups a row; all are kept in {beside}.")
                said.append(text.format(column=column, n=seen[column], beside=ALL.format(column=column)))
        return said


def fingerprint(messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> bytes:
    """16 bytes that are equal where everything that is said is."""
    said = [(m.role, m.content, m.reasoning, m.tool_calls, m.name, m.tool_call_id, m.weight, m.spans) for m in messages]
    return blake2b(repr((said, tools)).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def conversation_of(row: Row, index: int, parse: Parse, named: Sequence[str | None] = ()) -> Conversation:
    """What the row says; the columns `named` are in its `meta`, wherever in the row they stand.

    Raises RowError for a row that can't be read or has nothing to train.
    """
    parsed = parse(row.value)
    claimed = set(parsed.claimed)
    messages = with_system(parsed.messages, system_of(row.value, claimed))
    tools = tuple(parsed.tools) or tools_of(row.value, claimed)
    weight = parsed.weight * of_row(row.value, claimed)
    meta = {column: value for column, value in row.value.items() if column not in claimed} | parsed.meta
    for column in filter(None, named):
        meta |= _named(row.value, column)
    conversation = Conversation(tuple(messages), tools, meta, row.origin, index, weight)
    _check(conversation)
    return conversation


def _named(row: dict[str, Any], column: str) -> dict[str, Any]:
    """The value that groups the row, and where there are several, all of them beside it."""
    values = fields.column(row, column)
    several = {ALL.format(column=column): values} if len(values) > 1 else {}
    return {column: values[0], **several} if values else {}


def system_of(row: dict[str, Any], claimed: set[str]) -> str:
    """The system prompt of a column beside the messages; claims the column."""
    columns = [name for name in SYSTEMS if name not in claimed and isinstance(row.get(name), str)]
    claimed.update(columns)
    found = {row[name] for name in columns if row[name].strip()}
    if len(found) > 1:
        raise RowError("two_systems", _("The row has two system prompts that differ."))
    return found.pop() if found else ""


def tools_of(row: dict[str, Any], claimed: set[str]) -> tuple[dict[str, Any], ...]:
    """The tools of a column, a list or its JSON text, each as an API declares a function; claims the column."""
    for name in TOOLS:
        value = None if name in claimed else row.get(name)
        if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise RowError("tools", _("{place} is not JSON: {why}.").format(place=name, why=error)) from error
        if isinstance(value, dict):
            value = [value]
        if isinstance(value, list) and all(isinstance(tool, dict) for tool in value):
            claimed.add(name)
            if value:
                return tuple(map(_declared, value))
    return ()


def _declared(tool: dict[str, Any]) -> dict[str, Any]:
    bare = "name" in tool and "function" not in tool
    return {"type": "function", "function": tool} if bare else tool


def _check(conversation: Conversation) -> None:
    """Raise RowError for a conversation that has nothing to train."""
    answers = [message for message in conversation.messages if message.role == "assistant"]
    if not answers:
        raise RowError("no_answer", _("The row has no message of the assistant."))
    started = False
    for i, message in enumerate(conversation.messages):
        started = started or message.role in ("user", "tool")
        if started and message.loss_weight > 0 and message.empty:
            raise RowError("empty_answer", _("The answer in message {i} is empty.").format(i=i))
    if not conversation.trained_turns():
        raise RowError("nothing_trained", _("No answer follows a question and has a weight above 0."))
