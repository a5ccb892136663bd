"""What the turns of a dialogue are made of: parts of content, reasoning, tool calls, weights.

Serves every format that has turns; knows nothing of roles, rows or files.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from tunesmith.conversation import Span, ToolCall
from tunesmith.data.row import CONTENT_KEYS, RowError, kind
from tunesmith.i18n import _

REASONING_KEYS = ("thinking", "reasoning_content", "reasoning")
WEIGHT_KEYS = ("loss_weight", "loss_scale", "weight", "train", "loss")
HEAVIEST = 1_000_000  # what is meant as a weight is less; what is more leaves the numbers of a loss

_THINK = re.compile(r"\s*<think>(.*?)</think>\n*", re.DOTALL)


def string(value: Any, place: str) -> str:
    """The value if it is text, else RowError."""
    if not isinstance(value, str):
        reason = _("{place} is {kind}; expected text.").format(place=place, kind=kind(value))
        raise RowError("content_type", reason)
    return value


def parts(content: list[Any], place: str) -> tuple[str, list[str], list[ToolCall], list[Span]]:
    """Text, reasoning, tool calls and weighted spans of content that is a list of parts."""
    said = ""
    spans: list[Span] = []
    reasoning: list[str] = []
    calls: list[ToolCall] = []
    for i, part in enumerate(content):
        at = f"{place}[{i}]"
        if isinstance(part, str):
            said += part
            continue
        if not isinstance(part, dict):
            raise RowError(
                "content_part", _("{place} is {sort}; only text can be trained.").format(place=at, sort=kind(part))
            )
        sort = str(part.get("type", "text"))
        held = next((part[name] for name in (*CONTENT_KEYS, sort) if name in part), part)
        if sort in ("text", "input_text", "output_text"):
            start, said = len(said), said + string(held, at)
            factor = weight(part, at)
            if factor is not None:
                spans.append(Span(start, len(said), factor))
        elif sort in REASONING_KEYS:
            reasoning.append(string(held, at))
        elif sort in ("tool_call", "tool_calls", "tool_use", "function_call"):
            calls += tool_calls(held, at)
        else:
            raise RowError(
                "content_part", _("{place} is {sort}; only text can be trained.").format(place=at, sort=sort)
            )
    return said, reasoning, calls, spans


def inline_reasoning(content: str, place: str) -> tuple[str, str]:
    """Reasoning in a `<think>` block at the beginning of an answer, and the answer after it."""
    if not content.lstrip().startswith("<think>"):
        return "", content
    block = _THINK.match(content)
    if not block:
        raise RowError("unclosed_think", _("{place} opens <think> and never closes it.").format(place=place))
    return block[1].strip("\n"), content[block.end() :]


def without_head(spans: Sequence[Span], cut: int) -> tuple[Span, ...]:
    """The spans of a text whose first `cut` characters were taken away."""
    return tuple(Span(max(s.start - cut, 0), s.stop - cut, s.weight) for s in spans if s.stop > cut)


def tool_calls(value: Any, place: str) -> list[ToolCall]:
    """Calls of tools: one or a list, as objects or as the JSON text of them."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise RowError("tool_call", _("{place} is not JSON: {why}.").format(place=place, why=error)) from error
    return [_tool_call(call, place) for call in (value if isinstance(value, list) else [value])]


def _tool_call(call: Any, place: str) -> ToolCall:
    outer = call if isinstance(call, dict) else {}
    function = outer["function"] if isinstance(outer.get("function"), dict) else outer
    name = function.get("name")
    arguments = next((function[key] for key in ("arguments", "parameters", "input") if key in function), None)
    if isinstance(arguments, str):
        try:
            decoded = json.loads(arguments)
        except (ValueError, RecursionError):
            decoded = None
        arguments = decoded if isinstance(decoded, dict) else arguments
    if not isinstance(name, str) or not name or not isinstance(arguments, dict | str | None):
        raise RowError("tool_call", _("{place} is not a call with a name and arguments.").format(place=place))
    call_id = outer.get("id")
    return ToolCall(name, {} if arguments is None else arguments, call_id if isinstance(call_id, str) else None)


def weight(item: dict[str, Any], place: str = "") -> float | None:
    """The weight in the loss of a turn, a part or a row: the product of those given, true and false being 1 and 0."""
    given = [(key, item[key]) for key in WEIGHT_KEYS if item.get(key) is not None]
    for key, value in given:
        if not isinstance(value, int | float) or not 0 <= value <= HEAVIEST:
            at = f"{place}.{key}" if place else key
            raise RowError("weight", _("{place} is not a weight from 0 to {most:,}.").format(place=at, most=HEAVIEST))
    return math.prod(float(value) for _key, value in given) if given else None
