"""A prompt and its completion: both texts, or both lists of messages."""

from __future__ import annotations

from typing import Any

from tunesmith.conversation import Conversation
from tunesmith.data.formats import Parsed, only_text, parse_pair, write_pair
from tunesmith.data.formats.messages import has_turns, turns
from tunesmith.data.turns import written_turns

PROMPTS = ("prompt", "query")
ANSWERS = ("completion", "response")


def detect(row: dict[str, Any]) -> bool:
    return _dialogue(row) or bool(only_text(row, PROMPTS) and only_text(row, ANSWERS))


def parse(row: dict[str, Any]) -> Parsed:
    if _dialogue(row):
        both = turns(row["prompt"], "prompt") + turns(row["completion"], "completion")
        return Parsed(both, claimed={"prompt", "completion"})
    return parse_pair(row, PROMPTS, ANSWERS)


def _dialogue(row: dict[str, Any]) -> bool:
    return has_turns(row.get("prompt")) and has_turns(row.get("completion"))


def write(conversation: Conversation) -> dict[str, Any]:
    """Texts for a bare question with its answer; otherwise messages, the last answer being the completion."""
    messages = conversation.messages
    plain = [message.role for message in messages] == ["user", "assistant"]
    if plain and not (messages[1].tool_calls or any(message.weight is not None for message in messages)):
        return write_pair(conversation, PROMPTS[0], ANSWERS[0])
    written = written_turns(messages)
    last = max((i for i, message in enumerate(messages) if message.role == "assistant"), default=0)
    return {"prompt": written[:last], "completion": written[last:]}
