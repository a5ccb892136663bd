"""The one value that everything speaks: formats make it, templates read it, generation returns it.

Holds what a row of data *means*. Knows nothing of files' shapes, templates, tokens or settings.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a row came from. `line` counts from 1; for a JSON list it is the line on which the row begins."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool. `arguments` is a dict, or the text that the data holds where it is not a JSON object."""

    name: str
    arguments: Any
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """Characters [start, stop) of a message's content, whose weight is multiplied by `weight`."""

    start: int
    stop: int
    weight: float


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `weight` is how much each of its tokens counts in the loss; None leaves it to the role. `spans` say
    more about parts of the content; where several cover a character, all of them count."""

    role: str
    content: str = ""
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    name: str | None = None
    tool_call_id: str | None = None
    weight: float | None = None
    spans: tuple[Span, ...] = ()

    @property
    def loss_weight(self) -> float:
        """The weight that counts: answers 1 unless the data says otherwise, everything else 0."""
        if self.role != "assistant":
            return 0.0
        return 1.0 if self.weight is None else self.weight

    @property
    def empty(self) -> bool:
        return not (self.content.strip() or self.tool_calls or (self.reasoning or "").strip())


@dataclass(frozen=True, slots=True)
class Conversation:
    """A whole dialogue. `index` is the 0-based input row; `meta` keeps every column that no format claimed; `weight`
    multiplies that of every answer."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)
    origin: Origin | None = None
    index: int = 0
    weight: float = 1.0

    def with_system(self, text: str) -> Conversation:
        """The same conversation under another system prompt; an empty text removes it."""
        rest = self.messages[1:] if self.messages and self.messages[0].role == "system" else self.messages
        head = (Message("system", text),) if text else ()
        return replace(self, messages=head + rest)

    def trained_turns(self) -> list[int]:
        """Indices of the messages that carry loss: answers with a weight, the conversation's opening excepted."""
        seen_user = False
        turns = []
        for i, message in enumerate(self.messages):
            seen_user = seen_user or message.role in ("user", "tool")
            if (
                seen_user
                and message.role == "assistant"
                and message.loss_weight * self.weight > 0
                and not message.empty
            ):
                turns.append(i)
        return turns
