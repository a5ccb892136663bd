"""Questions said in other words while the answer stays true: other wrapping, other punctuation, a slip of the finger.

Only the last question before the last answer is changed, never an answer. Questions about a text itself (translate,
correct, count), and those with code, quotations or numbers, get another wrapping at most: a changed letter might change
the answer. Needs no network.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace

from tunesmith.conversation import Conversation

Operation = Callable[[str, random.Random], str]

_ABOUT_TEXT = re.compile(
    r"translat|correct|grammar|spell|punctuat|rewrit|rephras|paraphras|edit|letter|character|word|count|repeat|format"
    r"|sentence|summari|翻译|改写|纠正|更正|语法|拼写|标点|润色|字|词|句|段|文|格式|复述|重复|统计",
    re.IGNORECASE,
)
# Code, quotations, addresses, numbers, names with inner capitals: a slip in these may change the answer too.
_FIXED = re.compile(r"[`\"“「《_\d/@\\<>{}=]|\w[A-Z]")
_WORD = re.compile(r"[a-z]{5,}")
_HALF = str.maketrans("？。！", "?.!")
_ENGLISH = ("Please answer this: {}", "A question: {}", "I would like to know: {}", "{}\n\nThank you.", "Hello. {}")
_CHINESE = ("请问：{}", "请回答：{}", "我想了解一下：{}", "{}\n\n谢谢。", "你好。{}")


def _wrap(text: str, draw: random.Random) -> str:
    return draw.choice(_CHINESE if _is_chinese(text) else _ENGLISH).format(text)


def _punctuation(text: str, draw: random.Random) -> str:
    """The mark at the end left out, or a Chinese one in half width."""
    if not text or text[-1] not in "?？.。!！":
        return text
    return draw.choice(sorted({text[:-1].rstrip(), text[:-1] + text[-1].translate(_HALF)} - {text}))


def _whitespace(text: str, draw: random.Random) -> str:
    """A space too many where one stands already; in front or behind where there is none."""
    spaces = [match.start() for match in re.finditer(r"(?<=\S) (?=\S)", text)]
    if spaces and draw.random() < 0.7:
        at = draw.choice(spaces)
        return text[:at] + " " + text[at:]
    return draw.choice((f" {text}", f"{text} ", f"{text}\n"))


def _case(text: str, draw: random.Random) -> str:
    """All small, or no capital at the beginning."""
    return draw.choice((text.lower(), text[:1].lower() + text[1:]))


def _typo(text: str, draw: random.Random) -> str:
    """Two inner letters of one small English word in the wrong order."""
    words = [match for match in _WORD.finditer(text) if len(set(match[0][1:-1])) > 1]
    if not words:
        return text
    word = draw.choice(words)
    places = [i for i in range(word.start() + 1, word.end() - 2) if text[i] != text[i + 1]]
    if not places:
        return text
    at = draw.choice(places)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


WRAP = "wrap"
OPERATIONS: dict[str, Operation] = {
    WRAP: _wrap,
    "punctuation": _punctuation,
    "whitespace": _whitespace,
    "case": _case,
    "typo": _typo,
}


def vary(conversation: Conversation, name: str, draw: random.Random) -> Conversation | None:
    """The conversation with its last question changed by an operation; None where that would change nothing, or
    where the answer might not be true any more."""
    turn = question(conversation)
    if turn is None:
        return None
    text = conversation.messages[turn].content
    if name == WRAP:
        return with_question(conversation, turn, _wrap(text, draw))
    if "\n" in text or _ABOUT_TEXT.search(text) or _FIXED.search(text):
        return None
    changed = OPERATIONS[name](text, draw)
    return with_question(conversation, turn, changed) if changed != text else None


def question(conversation: Conversation) -> int | None:
    """Which message is the user's last before the last trained answer."""
    turns = conversation.trained_turns()
    asked = (
        [i for i, message in enumerate(conversation.messages[: turns[-1]]) if message.role == "user"] if turns else []
    )
    return asked[-1] if asked else None


def with_question(conversation: Conversation, turn: int, text: str) -> Conversation:
    changed = [replace(m, content=text) if i == turn else m for i, m in enumerate(conversation.messages)]
    return replace(conversation, messages=tuple(changed))


def with_system(conversation: Conversation, text: str) -> Conversation | None:
    """The conversation under another system prompt; None where it is the same."""
    changed = conversation.with_system(text)
    return changed if changed.messages != conversation.messages else None


def _is_chinese(text: str) -> bool:
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return wide * 3 > len(text)
