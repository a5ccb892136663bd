"""Alpaca: `instruction` and `output`, an optional `input` under the instruction, an optional `history` before it."""

from __future__ import annotations

from typing import Any

from tunesmith.conversation import Conversation, Message
from tunesmith.data.formats import Parsed, pair_of, single_turn, split_system, thought
from tunesmith.data.row import RowError, text_of
from tunesmith.i18n import _

ANSWER = "output"
INPUTS = ("input",)


def detect(row: dict[str, Any]) -> bool:
    return "response" not in row and is_instruction(row, INPUTS, ANSWER)


def parse(row: dict[str, Any]) -> Parsed:
    return parse_instruction(row, INPUTS, ANSWER)


def is_instruction(row: dict[str, Any], inputs: tuple[str, ...], answer: str) -> bool:
    required = isinstance(row.get("instruction"), str) and isinstance(row.get(answer), str)
    return required and all(isinstance(row.get(column) or "", str) for column in inputs)


def parse_instruction(row: dict[str, Any], inputs: tuple[str, ...], answer: str) -> Parsed:
    """Instruction and inputs are joined by a newline; earlier questions and answers of `history` come first."""
    present = [column for column in inputs if row.get(column) is not None]
    parts = [text_of(row, column) for column in ("instruction", *present)]
    prompt = "\n".join(part for part in parts if part.strip())
    messages = [*_history(row.get("history")), *single_turn(prompt, text_of(row, answer), answer)]
    return thought(row, Parsed(messages, claimed={"instruction", *inputs, "history", answer}))


def _history(value: Any) -> list[Message]:
    pairs = value or []
    if not isinstance(pairs, list) or not all(map(_is_pair, pairs)):
        raise RowError("history", _("history must be a list of pairs of a question and an answer."))
    return [message for prompt, answer in pairs for message in single_turn(prompt, answer, "history")]


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(said, str) for said in value)


def write(conversation: Conversation) -> dict[str, Any]:
    return write_instruction(conversation, ANSWER)


def write_instruction(conversation: Conversation, answer: str) -> dict[str, Any]:
    """The last question and answer under Alpaca's names, earlier ones in `history`; RowError for other turns."""
    system, messages = split_system(conversation.messages)
    pairs = [pair_of(messages[i : i + 2]) for i in range(0, len(messages), 2)] or [pair_of(())]
    *history, (asked, answered) = pairs
    earlier = {"history": [list(pair) for pair in history]} if history else {}
    return {**({"system": system} if system else {}), "instruction": asked, "input": "", answer: answered, **earlier}
