"""Instruction sets that call the answer `response`, and the text under the instruction `input` or `context`."""

from __future__ import annotations

from typing import Any

from tunesmith.conversation import Conversation
from tunesmith.data.formats import Parsed
from tunesmith.data.formats.alpaca import is_instruction, parse_instruction, write_instruction

ANSWER = "response"
INPUTS = ("input", "context")


def detect(row: dict[str, Any]) -> bool:
    return "output" not in row and is_instruction(row, INPUTS, ANSWER)


def parse(row: dict[str, Any]) -> Parsed:
    return parse_instruction(row, INPUTS, ANSWER)


def write(conversation: Conversation) -> dict[str, Any]:
    return write_instruction(conversation, ANSWER)
