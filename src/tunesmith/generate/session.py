"""A dialogue with a model: what was said so far, and the next answer as it is written.

Knows nothing of terminals or web pages; both show what `ask` and `reply` yield.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from peft import PeftModel

from tunesmith.config.schema import GenerationSection
from tunesmith.conversation import Conversation, Message
from tunesmith.generate.engine import Generated, Model, stream

if TYPE_CHECKING:
    from tunesmith.tokens.encode import Encoder


class Session:
    """`system` opens every dialogue; None leaves it to the template. `last` is the newest answer with its numbers.

    With `bare` an adapted model answers as its base does; so one model in memory can speak for both.
    """

    def __init__(
        self,
        model: Model,
        encoder: Encoder,
        section: GenerationSection,
        system: str | None = None,
        *,
        bare: bool = False,
    ) -> None:
        self._model, self._encoder, self._section, self._system = model, encoder, section, system
        self._bare = bare and isinstance(model, PeftModel)
        self.reset()

    def reset(self, system: str | None = None, tools: tuple[dict[str, Any], ...] = ()) -> None:
        """A new dialogue, under this system prompt or, with None, the session's own."""
        system = self._system if system is None else system
        self.tools = tools
        self.messages: tuple[Message, ...] = (Message("system", system),) if system else ()
        self.last: Generated | None = None

    def ask(self, text: str) -> Iterator[str]:
        """The answer to a question, piece by piece."""
        return self.reply((Message("user", text),))

    def reply(self, messages: tuple[Message, ...]) -> Iterator[str]:
        """The answer to all that was said since the last, piece by piece.

        Question and answer enter the history when the answer is whole, and not before.
        """
        asked = Conversation((*self.messages, *messages), self.tools)
        model: Any = self._model
        with model.disable_adapter() if self._bare else nullcontext():
            answer = yield from stream(self._model, self._encoder, asked, self._section)
        self.messages, self.last = (*asked.messages, answer.message), answer
