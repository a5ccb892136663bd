"""ShareGPT: a column that holds a list of {from, value}, with the many words that such files have for the speakers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from tunesmith.conversation import Conversation, Message
from tunesmith.data.formats import Parsed, inline
from tunesmith.data.formats.messages import OTHER_FORMATS, ROLE_WORDS, has_turns, turns
from tunesmith.data.row import RowError
from tunesmith.i18n import _

WORDS = {
    **ROLE_WORDS,
    **dict.fromkeys(("系统",), "system"),
    **dict.fromkeys(("prompter", "用户"), "user"),
    **dict.fromkeys(("bot", "chatgpt", "助手"), "assistant"),
    **dict.fromkeys(("observations", "function_response"), "tool"),
}
SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def detect(row: dict[str, Any]) -> bool:
    return len(_columns(row)) == 1


def parse(row: dict[str, Any]) -> Parsed:
    found = _columns(row)
    if len(found) != 1:
        raise RowError(
            "no_messages", _("The row needs one column with a list of turns; it has {n}.").format(n=len(found))
        )
    return Parsed(turns(row[found[0]], found[0], WORDS), claimed=set(found))


def _columns(row: dict[str, Any]) -> list[str]:
    return [name for name, value in row.items() if name not in OTHER_FORMATS and has_turns(value, ("from", "speaker"))]


def write(conversation: Conversation) -> dict[str, Any]:
    return {"conversations": [_written(message) for message in conversation.messages]}


def _written(message: Message) -> dict[str, Any]:
    """A turn that is nothing but one call of a tool has a speaker of its own; others keep calls beside the text."""
    weight = {} if message.weight is None else {"loss_weight": message.weight}
    if message.tool_calls and message.role == "assistant":
        calls = [{"name": call.name, "arguments": call.arguments} for call in message.tool_calls]
        if not (message.content or message.reasoning):
            return {"from": "function_call", "value": json.dumps(calls, ensure_ascii=False), **weight}
        return {"from": "gpt", "value": inline(replace(message, tool_calls=())), "tool_calls": calls, **weight}
    return {"from": SPEAKERS[message.role], "value": inline(message), **weight}
