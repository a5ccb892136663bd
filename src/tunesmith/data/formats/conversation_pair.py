"""Dialogues under `conversation_pair`, turns with `thinking`; the system prompt stands beside them in a column."""

from __future__ import annotations

from typing import Any

from tunesmith.data.formats import Parsed
from tunesmith.data.formats.messages import has_turns, turns

COLUMN = "conversation_pair"


def detect(row: dict[str, Any]) -> bool:
    return has_turns(row.get(COLUMN))


def parse(row: dict[str, Any]) -> Parsed:
    return Parsed(turns(row.get(COLUMN), COLUMN), claimed={COLUMN})
