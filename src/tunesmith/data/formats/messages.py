"""Dialogues as chat APIs write them: a column that holds a list of {role, content}, whatever the column is called.

Also the one reader of turns, for every format that has them; what a turn's content may be made of is parts' business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.conversation import Conversation, Message, Span, ToolCall
from tunesmith.data.formats import Parsed
from tunesmith.data.parts import REASONING_KEYS, inline_reasoning, parts, string, tool_calls, weight, without_head
from tunesmith.data.row import CONTENT_KEYS, ROLE_KEYS, RowError, is_message, kind
from tunesmith.data.turns import written_turns
from tunesmith.i18n import _

CALL = "call"  # a turn that is nothing but a tool call: an assistant's
ROLE_WORDS = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "model", "ai", "gpt"), "assistant"),
    **dict.fromkeys(("tool", "function", "ipython", "observation", "tool_response"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), CALL),
}
OTHER_FORMATS = ("conversation_pair", "text", "prompt", "completion", "chosen", "rejected")


def detect(row: dict[str, Any]) -> bool:
    return len(_columns(row)) == 1


def parse(row: dict[str, Any]) -> Parsed:
    found = _columns(row)
    if len(found) != 1:
        raise RowError(
            "no_messages", _("The row needs one column with a list of messages; it has {n}.").format(n=len(found))
        )
    return Parsed(turns(row[found[0]], found[0]), claimed=set(found))


def has_turns(value: Any, role_keys: tuple[str, ...] = ROLE_KEYS) -> bool:
    """Whether a value is a dialogue, perhaps with a broken turn, whose speakers stand under one of these keys."""
    return isinstance(value, list) and any(is_message(turn) and any(key in turn for key in role_keys) for turn in value)


def _columns(row: dict[str, Any]) -> list[str]:
    return [name for name, value in row.items() if name not in OTHER_FORMATS and has_turns(value, ("role",))]


def turns(value: Any, place: str, words: Mapping[str, str] = ROLE_WORDS) -> list[Message]:
    """Messages of a list of turns; `place` is the column's name for what goes wrong, `words` the known roles."""
    if not isinstance(value, list):
        reason = _("{place} is {kind}; expected a list of messages.").format(place=place, kind=kind(value))
        raise RowError("no_messages", reason)
    return [_turn(item, f"{place}[{i}]", words) for i, item in enumerate(value)]


def _turn(item: Any, place: str, words: Mapping[str, str]) -> Message:
    if not isinstance(item, dict):
        reason = _("{place} is {kind}; expected a message with a role and content.")
        raise RowError("content_type", reason.format(place=place, kind=kind(item)))
    role = _role(item, place, words)
    content, reasoning, calls, spans = _content(item, place)
    whole = len(content)
    for key in REASONING_KEYS:
        reasoning.append(string(item.get(key) or "", f"{place}.{key}"))
    if role in ("assistant", CALL):
        inline, content = inline_reasoning(content, place)
        reasoning.append(inline)
    if role == CALL:
        calls, content, role = [*calls, *tool_calls(content, place)], "", "assistant"
    for key in ("tool_calls", "function_call"):
        calls += tool_calls(item[key], f"{place}.{key}") if item.get(key) else []
    thoughts = list(dict.fromkeys(filter(str.strip, reasoning)))
    if role != "assistant" and (thoughts or calls):
        raise RowError("role", _("{place}: only the assistant can reason or call tools.").format(place=place))
    return Message(
        role,
        content,
        "\n".join(thoughts) or None,
        tuple(calls),
        item.get("name") if isinstance(item.get("name"), str) else None,
        item.get("tool_call_id") if isinstance(item.get("tool_call_id"), str) else None,
        weight(item, place),
        without_head(spans, whole - len(content)),
    )


def _role(item: dict[str, Any], place: str, words: Mapping[str, str]) -> str:
    key = next((key for key in ROLE_KEYS if key in item), "role")
    word = item.get(key)
    if not isinstance(word, str) or word.strip().lower() not in words:
        reason = _("{place} is {word}; expected system, user, assistant or tool.")
        raise RowError("unknown_role", reason.format(place=f"{place}.{key}", word=repr(word)[:60]))
    return words[word.strip().lower()]


def _content(item: dict[str, Any], place: str) -> tuple[str, list[str], list[ToolCall], list[Span]]:
    """Text, reasoning, tool calls and weighted spans of a turn's content, which is text or a list of parts."""
    key = next((key for key in CONTENT_KEYS if key in item), "content")
    content = item.get(key)
    # Beside tool calls an API sends no content, or null.
    if content is None and any(item.get(other) for other in ("tool_calls", "function_call", *REASONING_KEYS)):
        return "", [], [], []
    if not isinstance(content, list):
        return string(content, f"{place}.{key}"), [], [], []
    return parts(content, f"{place}.{key}")


def write(conversation: Conversation) -> dict[str, Any]:
    return {"messages": written_turns(conversation.messages)}
