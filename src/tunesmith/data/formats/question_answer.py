"""A question and its answer."""

from __future__ import annotations

from typing import Any

from tunesmith.conversation import Conversation
from tunesmith.data.formats import Parsed, only_text, parse_pair, write_pair

PROMPTS = ("question", "problem")
ANSWERS = ("answer", "solution", "response")


def detect(row: dict[str, Any]) -> bool:
    return bool(only_text(row, PROMPTS) and only_text(row, ANSWERS))


def parse(row: dict[str, Any]) -> Parsed:
    return parse_pair(row, PROMPTS, ANSWERS)


def write(conversation: Conversation) -> dict[str, Any]:
    return write_pair(conversation, PROMPTS[0], ANSWERS[0])
