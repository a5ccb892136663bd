"""Dialogues under `text`, beside columns such as a subtype. A `text` that is a string is not this format."""

from __future__ import annotations

from typing import Any

from tunesmith.conversation import Conversation
from tunesmith.data.formats import Parsed
from tunesmith.data.formats.messages import has_turns, turns
from tunesmith.data.turns import written_turns

COLUMN = "text"


def detect(row: dict[str, Any]) -> bool:
    return has_turns(row.get(COLUMN))


def parse(row: dict[str, Any]) -> Parsed:
    return Parsed(turns(row.get(COLUMN), COLUMN), claimed={COLUMN})


def write(conversation: Conversation) -> dict[str, Any]:
    return {COLUMN: written_turns(conversation.messages)}
