"""A dialogue with a model: what was said so far, and the next answer as it is written.

Knows nothing of terminals or web pages; both show what `ask` yields.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tunesmith.config.schema import GenerationSection
from tunesmith.conversation import Conversation, Message
from tunesmith.generate.engine import Generated, Model, stream

if TYPE_CHECKING:
    from tunesmith.tokens.encode import Encoder


class Session:
    """`system` opens every dialogue; None leaves it to the template. `last` is the newest answer with its numbers."""

    def __init__(self, model: Model, encoder: Encoder, section: GenerationSection, system: str | None = None) -> None:
        self._model, self._encoder, self._section, self._system = model, encoder, section, system
        self.reset()

    def reset(self) -> None:
        """Forget everything but the system prompt."""
        self.messages: tuple[Message, ...] = (Message("system", self._system),) if self._system else ()
        self.last: Generated | None = None

    def ask(self, text: str) -> Iterator[str]:
        """The answer, piece by piece. Question and answer enter the history when it is whole, and not before."""
        messages = (*self.messages, Message("user", text))
        answer = yield from stream(self._model, self._encoder, Conversation(messages), self._section)
        self.messages, self.last = (*messages, answer.message), answer
