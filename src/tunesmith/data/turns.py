"""Messages as turns of a dialogue, the way chat APIs write them: the way back of formats/messages.

Serves every format that has turns; knows nothing of rows, columns or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

from tunesmith.conversation import Message, ToolCall


def written_turns(messages: Sequence[Message], reasoning: str = "reasoning_content") -> list[dict[str, Any]]:
    """Turns as chat APIs write them, the reasoning under the given key; only what a message has is there."""
    return [_written(message, reasoning) for message in messages]


def _written(message: Message, reasoning: str) -> dict[str, Any]:
    said: dict[str, Any] = {"role": message.role, "content": _weighted(message) if message.spans else message.content}
    if message.reasoning is not None:
        said[reasoning] = message.reasoning
    if message.tool_calls:
        said["tool_calls"] = [_call(call) for call in message.tool_calls]
    beside = {"name": message.name, "tool_call_id": message.tool_call_id, "loss_weight": message.weight}
    return said | {key: value for key, value in beside.items() if value is not None}


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {**({} if call.id is None else {"id": call.id}), "type": "function", "function": function}


def _weighted(message: Message) -> list[dict[str, Any]]:
    """The content in parts, each with the weight of the spans that cover it."""
    ends = sorted({0, len(message.content), *(end for span in message.spans for end in (span.start, span.stop))})
    found = []
    for start, stop in pairwise(ends):
        over = [span.weight for span in message.spans if span.start <= start and stop <= span.stop]
        weight = {"loss_weight": prod(over)} if over else {}
        found.append({"type": "text", "text": message.content[start:stop], **weight})
    return found
