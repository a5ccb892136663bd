"""Dialogues under `conversation_pair`, turns with `thinking`; the system prompt stands beside them in a column.

A label may be written as the pair `"key": "scene", "value": "refunds"`, which is the column `"scene": "refunds"`.
"""

from __future__ import annotations

from typing import Any

from tunesmith.conversation import Conversation
from tunesmith.data.formats import Parsed, split_system
from tunesmith.data.formats.messages import has_turns, turns
from tunesmith.data.turns import written_turns

COLUMN = "conversation_pair"


def detect(row: dict[str, Any]) -> bool:
    return has_turns(row.get(COLUMN))


def parse(row: dict[str, Any]) -> Parsed:
    return Parsed(turns(row.get(COLUMN), COLUMN), claimed={COLUMN}, meta=_label(row))


def _label(row: dict[str, Any]) -> dict[str, Any]:
    """The column that `key` and `value` mean, unless the row has one of that name."""
    key = row.get("key")
    return {key: row["value"]} if isinstance(key, str) and key and "value" in row and key not in row else {}


def write(conversation: Conversation) -> dict[str, Any]:
    system, messages = split_system(conversation.messages)
    number = conversation.meta.get("conversation_id", conversation.index + 1)
    written = written_turns(messages, reasoning="thinking")
    return {"conversation_id": number, **({"system_prompt": system} if system else {}), COLUMN: written}
