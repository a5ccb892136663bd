"""A prompt and its completion: both texts, or both lists of messages."""

from __future__ import annotations

from typing import Any

from tunesmith.data.formats import Parsed, only_text, parse_pair
from tunesmith.data.formats.messages import has_turns, turns

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
