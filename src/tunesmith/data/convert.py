"""Conversations as rows of a format, each read back at once: what the format could not carry is known, not hoped.

Knows formats; knows nothing of files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from tunesmith.conversation import Conversation, Message, Origin
from tunesmith.data import formats
from tunesmith.data.formats import Writer, writer
from tunesmith.data.intake import Rejected, conversation_of
from tunesmith.data.row import EXCERPT, Row, RowError
from tunesmith.i18n import _


@dataclass(slots=True)
class Converted:
    """Rows in the new format, how many of them lost what (by a code), and the conversations that it can't hold."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    refused: list[Rejected] = field(default_factory=list)

    def notices(self, name: str) -> list[str]:
        """What was lost, in sentences."""
        texts = {
            "messages": _("Rows whose text or turns changed in the format {format}: {n}."),
            "reasoning": _("Rows that lost reasoning in the format {format}: {n}."),
            "calls": _("Rows that lost ids or calls of tools in the format {format}: {n}."),
            "weights": _("Rows that lost weights in the format {format}: {n}."),
            "names": _("Rows that lost names of speakers in the format {format}: {n}."),
            "tools": _("Rows that lost declarations of tools in the format {format}: {n}."),
            "columns": _("Rows that lost other columns, whose names the format {format} needs: {n}."),
        }
        texts["unclear"] = _("Rows that fit other formats too: {n}. Set data.format={format} when you train them.")
        return [text.format(format=name, n=self.lost[code]) for code, text in texts.items() if self.lost[code]]


def convert(conversations: Sequence[Conversation], name: str) -> Converted:
    """The conversations in the shipped format `name`. Raises DataError if there is none of that name."""
    target = writer(name)
    found = Converted()
    for conversation in conversations:
        try:
            row = as_row(conversation, target)
            origin = conversation.origin or Origin("", 0)
            again = conversation_of(Row(row, origin), conversation.index, target.parse)
        except RowError as error:
            found.refused.append(refusal(conversation, error.code, error.reason))
            continue
        found.rows.append(row)
        found.lost.update(_lost(conversation, again))
        found.lost["unclear"] += [other for other in formats.names() if formats.get(other).detect(row)] != [name]
    return found


def as_row(conversation: Conversation, target: Writer) -> dict[str, Any]:
    """The format's own columns, then tools, then every other column whose name is free. RowError."""
    if conversation.weight != 1:
        conversation = replace(
            conversation, messages=tuple(map(partial(_weighed, conversation), conversation.messages))
        )
    row = target.write(conversation)
    tools = {"tools": list(conversation.tools)} if conversation.tools else {}
    claimed = set(target.parse(row).claimed)
    rest = {column: value for column, value in conversation.meta.items() if column not in claimed}
    return {**row, **tools, **rest}


def _weighed(conversation: Conversation, message: Message) -> Message:
    """The message with the row's weight in its own."""
    return (
        replace(message, weight=message.loss_weight * conversation.weight) if message.role == "assistant" else message
    )


def refusal(conversation: Conversation, code: str, reason: str) -> Rejected:
    """A conversation as a row that was left out."""
    first = next((message.content for message in conversation.messages if message.role == "user"), "")
    return Rejected(conversation.origin or Origin("", 0), conversation.index, code, reason, first[:EXCERPT])


def _lost(before: Conversation, after: Conversation) -> set[str]:
    """Codes of what `after` does not say although `before` did."""
    old, new = _facets(before), _facets(after)
    lost = {code for code in old if old[code] != new[code]}
    if any(column not in after.meta or after.meta[column] != value for column, value in before.meta.items()):
        lost.add("columns")
    return lost


def _facets(conversation: Conversation) -> dict[str, Any]:
    messages = conversation.messages
    return {
        "messages": [(message.role, message.content) for message in messages],
        "reasoning": [message.reasoning for message in messages],
        "calls": [(message.tool_calls, message.tool_call_id) for message in messages],
        "weights": [(message.loss_weight * conversation.weight, message.spans) for message in messages],
        "names": [message.name for message in messages],
        "tools": conversation.tools,
    }
