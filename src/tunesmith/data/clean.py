"""Rows that teach nothing or teach wrongly, each with the reason for which it goes. Every check is a setting.

Judges conversations by their text alone; knows no files and no model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tunesmith.conversation import Conversation, Message
from tunesmith.data.convert import refusal
from tunesmith.data.garbled import garbled
from tunesmith.data.intake import Rejected
from tunesmith.data.near import Near, plain
from tunesmith.i18n import _

if TYPE_CHECKING:
    from tunesmith.config.schema import CleanSection

COPY = 8  # characters from which an answer that repeats its question is a copy; shorter ones are greetings
_REPEATED = re.compile(r"(\S.{0,7}?)\1{9,}")
_REFUSES = (
    r"\b(can(no|['’])?t|can not|unable to|not able to|won['’]t be able)\b",
    r"无法|不能|没有办法|没法",
)
_REFUSAL = re.compile(
    r"^\W*("
    rf"(as an (ai|artificial intelligence)\b.{{0,60}}?({_REFUSES[0]}))"
    rf"|((i['’]m|i am)\s+(very |so |really )?sorry\b.{{0,20}}?\bi\b.{{0,10}}?({_REFUSES[0]}))"
    rf"|(作为(一个|一名|一款)?\s*(ai|人工智能|语言模型|大模型).{{0,20}}?({_REFUSES[1]}))"
    rf"|((很|非常|十分)?(抱歉|对不起|遗憾)[，,。!！ ]*(但)?(我|作为).{{0,12}}?({_REFUSES[1]}))"
    r")",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(slots=True)
class Cleaned:
    """Conversations that stay and those that go, both in input order."""

    kept: list[Conversation] = field(default_factory=list)
    removed: list[Rejected] = field(default_factory=list)


def clean(conversations: Sequence[Conversation], section: CleanSection) -> Cleaned:
    """Every conversation ends in one of the two lists. The first of rows that repeat one another stays."""
    found = Cleaned()
    seen: dict[tuple[object, ...], Conversation] = {}
    near = Near(section.near_duplicates) if section.near_duplicates else None
    remembered: list[Conversation] = []
    for conversation in conversations:
        wrong = _fault(conversation, section)
        if wrong is None and section.duplicates:
            first = seen.setdefault((conversation.messages, repr(conversation.tools)), conversation)
            if first is not conversation:
                wrong = "duplicate", _("The row repeats {place}.").format(place=first.origin)
        if wrong is None and near is not None:
            number = near.add(*_sides(conversation))
            if number is None:
                remembered.append(conversation)
            else:
                text = _("The row nearly repeats {place} (clean.near_duplicates).")
                wrong = "near_duplicate", text.format(place=remembered[number].origin)
        if wrong is None:
            found.kept.append(conversation)
        else:
            found.removed.append(refusal(conversation, *wrong))
    return found


def _sides(conversation: Conversation) -> tuple[str, str]:
    """What is asked and what is answered; both must be alike for a row to repeat another."""
    asked = "\n".join(message.content for message in conversation.messages if message.role in ("user", "tool"))
    said = [message for message in conversation.messages if message.role == "assistant"]
    return asked, "\n".join(f"{message.reasoning or ''}{message.content}{message.tool_calls or ''}" for message in said)


def _fault(conversation: Conversation, section: CleanSection) -> tuple[str, str] | None:
    """Code and reason why a row goes, on its own account."""
    answers = [conversation.messages[i] for i in conversation.trained_turns()]
    shortest = min((len(answer.content.strip()) for answer in answers if not answer.tool_calls), default=None)
    if shortest is not None and shortest < section.min_answer:
        text = _("An answer has {n} characters (clean.min_answer is {limit}).")
        return "too_short", text.format(n=shortest, limit=section.min_answer)
    size = sum(len(message.content) + len(message.reasoning or "") for message in conversation.messages)
    if size > section.max_chars:
        text = _("The row has {n} characters (clean.max_chars is {limit}).")
        return "too_long", text.format(n=size, limit=section.max_chars)
    for i, message in enumerate(conversation.messages):
        for said in filter(None, (message.content, message.reasoning)):
            fault = _text_fault(said, section)
            if fault:
                return fault[0], f"messages[{i}]: {fault[1]}"
    return _answer_fault(conversation, answers, section)


def _text_fault(text: str, section: CleanSection) -> tuple[str, str] | None:
    if section.garbled and (found := garbled(text)):
        return "garbled", _("The text is garbled: {excerpt} (clean.garbled).").format(excerpt=found)
    longest = repeated(text)
    if section.max_repeat and longest[1] > section.max_repeat:
        text = _("{excerpt} is repeated {n} times in a row (clean.max_repeat is {limit}).")
        return "repeated", text.format(excerpt=repr(longest[0]), n=longest[1], limit=section.max_repeat)
    return None


def repeated(text: str) -> tuple[str, int]:
    """The piece of up to 8 characters that is said most often in a row, and how often; rulers like ---- don't count."""
    found = [(match[1], len(match[0]) // len(match[1])) for match in _REPEATED.finditer(text)]
    return max((each for each in found if any(map(str.isalnum, each[0]))), key=lambda each: each[1], default=("", 0))


def _answer_fault(
    conversation: Conversation, answers: Sequence[Message], section: CleanSection
) -> tuple[str, str] | None:
    if section.refusals and answers and _REFUSAL.match(answers[-1].content):
        text = _("The answer refuses: {excerpt} (clean.refusals).")
        return "refusal", text.format(excerpt=repr(answers[-1].content[:60]))
    asked = {plain(message.content) for message in conversation.messages if message.role == "user"}
    for answer in answers if section.copies else ():
        said = plain(answer.content)
        if len(said) >= COPY and said in asked:
            return "copy", _("The answer is a copy of the question (clean.copies).")
    return None
