"""The only place that decides what is trained: a conversation to pairs of context and answer, in ids.

The context is what the template renders before an answer, the answer is what it adds through the end of turn; each is
encoded as inference meets it, never across the boundary. Knows nothing of files, models or batches.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tunesmith.conversation import Conversation, Message, ToolCall
from tunesmith.errors import TemplateError
from tunesmith.i18n import _
from tunesmith.tokens.answer import Answer, Encoded
from tunesmith.tokens.choose import choose
from tunesmith.tokens.template import ChatTemplate, clean, every_text, protect, spans
from tunesmith.tokens.tokenizer import Tokenizer, own_chat_template
from tunesmith.tokens.turn import Frame, render_turn

if TYPE_CHECKING:
    from tunesmith.config.schema import TemplateSection


class Encoder:
    """One tokenizer with one chat template: the same for training, chat, batch and evaluation."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        *,
        thinking: Literal["keep", "strip"] | None = None,
        system: str | None = None,
    ) -> None:
        self.tokenizer, self.template, self.thinking, self.system = tokenizer, template, thinking, system
        self.pad_id = tokenizer.pad_id
        self.frame = Frame.of(template)
        self._turn_end = self._end_of(self.frame.plain)
        whole = [self.frame.plain, *([self.frame.call] if self.frame.call else [])]
        stops = {self._answer_ids(answer)[-1] for answer in whole} | {tokenizer.eos_id}
        self.stop_ids = frozenset(i for i in stops if i in tokenizer.control_ids)

    @classmethod
    def load(cls, folder: str | Path, section: TemplateSection, text: str | None = None) -> Encoder:
        """From a tokenizer's folder. `text` is a template that a run recorded; it wins over everything."""
        source = "run"
        if text is None:
            own = own_chat_template(Path(folder))
            text, source = choose(path=section.path, own=own, folder=Path(folder), fallback=section.fallback)
        tokenizer = Tokenizer(folder, text)
        template = ChatTemplate(text, source, tokenizer.special_tokens | section.kwargs, section.date)
        return cls(tokenizer, template, thinking=section.thinking, system=section.system)

    # --- training -------------------------------------------------------------------------------------------------

    def encode(
        self, conversation: Conversation, max_length: int | None = None, overflow: str = "trim_history"
    ) -> Encoded:
        """Every trained answer in its own context. Raises TemplateError only for what concerns the whole data set."""
        answers, dropped = [], 0
        conversation = self._prepared(conversation)
        self._check_reasoning(conversation)
        for turn in conversation.trained_turns():
            try:
                answers.append(self._answer(conversation, turn, max_length, overflow))
            except _TooLong:
                dropped += 1
            except TemplateError as error:
                return Encoded(error=("template", error.problems[0].message))
        return Encoded(tuple(answers), dropped)

    def _answer(self, conversation: Conversation, turn: int, max_length: int | None, overflow: str) -> Answer:
        message = conversation.messages[turn]
        history = conversation.messages[:turn]
        trimmed = 0
        while True:
            context, rendered = render_turn(self.template, history, message, conversation.tools)
            context_ids = self._ids(context)
            answer_ids = self._answer_ids(rendered)
            if max_length is None or len(context_ids) + len(answer_ids) <= max_length:
                weight = message.loss_weight * conversation.weight
                return Answer(turn, context_ids, answer_ids, [weight] * len(answer_ids), trimmed)
            shorter = _without_oldest_turn(history) if overflow == "trim_history" else None
            if shorter is None:
                raise _TooLong
            trimmed += len(history) - len(shorter)
            history = shorter

    def _answer_ids(self, answer: str) -> list[int]:
        """Through the end of turn; where the template writes none, eos is what ends it."""
        ends = self._ends(answer)
        if not ends:
            eos = self.tokenizer.eos_id
            return self._ids(answer, continuation=True) + ([] if eos is None else [eos])
        usual = next((m for m in ends if m.group() == self._turn_end), None)
        if usual is None:  # another kind of turn, such as a tool call: through the control tokens that close it
            run = zip(ends, [*ends[1:], None], strict=True)
            usual = next(m for m, following in run if following is None or following.start() > m.end())
        return self._ids(answer[: usual.end()], continuation=True)

    def _ends(self, answer: str) -> list[re.Match[str]]:
        """The control tokens behind an answer's content."""
        content_end = max((end for _start, end in spans(answer)), default=0)
        return list(self.tokenizer.control_pattern.finditer(answer, content_end))

    def _end_of(self, answer: str) -> str | None:
        return next((match.group() for match in self._ends(answer)), None)

    def _ids(self, rendered: str, *, continuation: bool = False) -> list[int]:
        """Control tokens by id, everything between them as ordinary text."""
        ids: list[int] = []
        pieces = self.tokenizer.control_pattern.split(rendered)
        for i, piece in enumerate(pieces):
            if i % 2:
                ids.append(self.tokenizer.control_id(piece))
            else:
                begun = bool(ids) and self.tokenizer.prefix_once
                ids += self.tokenizer.text_ids(clean(piece), continuation=begun or (continuation and not ids))
        return ids

    def _prepared(self, conversation: Conversation) -> Conversation:
        """With the system prompt and the choice about reasoning applied, and every text unable to act as control."""
        if self.system is not None and not (conversation.messages and conversation.messages[0].role == "system"):
            conversation = conversation.with_system(self.system)
        keep = self.thinking != "strip"
        return replace(
            conversation,
            messages=tuple(self._safe_message(m, keep) for m in conversation.messages),
            tools=tuple(every_text(tool, self._safe, self._safe) for tool in conversation.tools),
        )

    def _safe(self, text: str) -> str:
        return protect(text, self.tokenizer.control_pattern)

    def _safe_message(self, message: Message, keep_reasoning: bool) -> Message:
        name, call_id = (text and self._safe(text) for text in (message.name, message.tool_call_id))
        return Message(
            self._safe(message.role),
            content=self._safe(message.content),
            reasoning=self._safe(message.reasoning) if message.reasoning and keep_reasoning else None,
            tool_calls=tuple(
                ToolCall(self._safe(c.name), every_text(c.arguments, self._safe, self._safe), c.id and self._safe(c.id))
                for c in message.tool_calls
            ),
            name=name,
            tool_call_id=call_id,
            weight=message.weight,
        )

    def _check_reasoning(self, conversation: Conversation) -> None:
        if self.thinking or self.template.reasoning_key:
            return
        if any(m.reasoning for m in conversation.messages):
            raise TemplateError(
                _(
                    "The answers hold reasoning and this chat template has no place for it. Set template.thinking: keep"
                    " (train it before the answer, leave it out of the history) or strip (train the answers alone)."
                ),
                place=str(conversation.origin or self.template.source),
            )

    # --- inference ------------------------------------------------------------------------------------------------

    def context(self, conversation: Conversation) -> list[int]:
        """Ids before the next answer: exactly the context in which that answer would be trained."""
        conversation = self._prepared(conversation)
        return self._ids(self.template.render(conversation.messages, conversation.tools, prompt=True))

    def rendered(self, conversation: Conversation) -> str:
        """The whole conversation as text: what the template makes of it, its last answer as it is trained."""
        conversation = self._prepared(conversation)
        *history, last = conversation.messages
        if last.role == "assistant":
            return clean("".join(render_turn(self.template, history, last, conversation.tools)))
        return clean(self.template.render(conversation.messages, conversation.tools, prompt=False))

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids)

    def message(self, ids: list[int]) -> Message:
        """A generated answer read back, its reasoning apart."""
        while ids and ids[-1] in self.stop_ids:
            ids = ids[:-1]
        return self.frame.read(self.tokenizer.decode(ids, skip_special_tokens=False))


class _TooLong(Exception):
    """An answer that fits in no context."""


def _without_oldest_turn(history: Sequence[Message]) -> tuple[Message, ...] | None:
    """The history without its oldest turn (a question and all that answered it), system kept; None if one is left."""
    starts = [i for i, m in enumerate(history) if m.role == "user"]
    if len(starts) < 2:
        return None
    head = [m for m in history[: starts[0]] if m.role == "system"]
    return (*head, *history[starts[1] :])
