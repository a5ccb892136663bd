"""One question in `input`, one answer in `output`."""

from __future__ import annotations

from typing import Any

from tunesmith.conversation import Conversation
from tunesmith.data.formats import Parsed, only_text, parse_pair, write_pair

PROMPTS = ("input",)
ANSWERS = ("output", "target")


def detect(row: dict[str, Any]) -> bool:
    return "instruction" not in row and bool(only_text(row, PROMPTS) and only_text(row, ANSWERS))


def parse(row: dict[str, Any]) -> Parsed:
    return parse_pair(row, PROMPTS, ANSWERS)


def write(conversation: Conversation) -> dict[str, Any]:
    return write_pair(conversation, PROMPTS[0], ANSWERS[0])
