"""The only place that decides what is trained: a conversation to pairs of context and answer, in ids.

The context is what the template renders before an answer, the answer is what it adds through the end of turn; each is
encoded as inference meets it, never across the boundary. Knows nothing of files, models or batches.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.conversation import Conversation, Message
from tunesmith.errors import TemplateError
from tunesmith.tokens.answer import Answer, Encoded
from tunesmith.tokens.choose import choose, difference
from tunesmith.tokens.limits import Overrun
from tunesmith.tokens.marks import clean, spans
from tunesmith.tokens.ready import Preparation
from tunesmith.tokens.template import ChatTemplate
from tunesmith.tokens.tokenizer import Tokenizer, own_chat_template
from tunesmith.tokens.turn import Frame, render_turn
from tunesmith.tokens.weigh import answer_factors

if TYPE_CHECKING:
    from tunesmith.config.schema import TemplateSection


class Encoder:
    """One tokenizer with one chat template: the same for training, chat, batch and evaluation."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate, ready: Preparation) -> None:
        self.tokenizer, self.template, self.ready = tokenizer, template, ready
        self.notices: list[str] = []
        self.pad_id = tokenizer.pad_id
        self.frame = Frame.of(template)
        self._turn_end = self._end_of(self.frame.plain)
        whole = [self.frame.plain, *([self.frame.call] if self.frame.call else [])]
        stops = {self._answer_ids(answer)[-1] for answer in whole} | {tokenizer.eos_id}
        self.stop_ids = frozenset(i for i in stops if i in tokenizer.control_ids)

    @classmethod
    def load(cls, folder: str | Path, section: TemplateSection, text: str | None = None) -> Encoder:
        """From a tokenizer's folder. `text` is a template that a run recorded; it wins over everything."""
        source, own = "run", None
        if text is None:
            own = own_chat_template(Path(folder))
            text, source = choose(path=section.path, own=own, folder=Path(folder), fallback=section.fallback)
        tokenizer = Tokenizer(folder, text)
        chosen = {} if section.enable_thinking is None else {"enable_thinking": section.enable_thinking}
        template = ChatTemplate(text, source, tokenizer.special_tokens | section.kwargs | chosen, section.date)
        settings = {name: getattr(section, name) for name in ("thinking", "system", "enable_thinking")}
        encoder = cls(tokenizer, template, Preparation(template, tokenizer.control_pattern, **settings))
        if own and section.path:
            encoder.notices += filter(None, [difference(template, replace(template, text=own))])
        return encoder

    def with_thinking(self, enabled: bool | None) -> Encoder:
        """The same encoder with another choice of `template.enable_thinking`, for a chat that wants it."""
        others = {name: value for name, value in self.template.variables.items() if name != "enable_thinking"}
        chosen = {} if enabled is None else {"enable_thinking": enabled}
        template = replace(self.template, variables=others | chosen)
        return Encoder(self.tokenizer, template, self.ready.under(template, enabled))

    # --- training -------------------------------------------------------------------------------------------------

    def encode(
        self, conversation: Conversation, max_length: int | None = None, overflow: str = "trim_history"
    ) -> Encoded:
        """Every trained answer in its own context. Raises TemplateError only for what concerns the whole data set."""
        answers, dropped = [], 0
        self.ready.check_reasoning(conversation)
        try:
            prepared = self.ready.of(conversation)
        except TemplateError as error:
            return Encoded(error=("system", error.problems[0].message))
        added = len(prepared.messages) - len(conversation.messages)  # the system prompt that the row does not have
        for turn in prepared.trained_turns():
            try:
                answers.append(self._answer(prepared, turn, added, max_length, overflow))
            except _TooLong:
                dropped += 1
            except Overrun:
                raise
            except TemplateError as error:
                return Encoded(error=("template", error.problems[0].message))
        return Encoded(tuple(answers), dropped)

    def _answer(
        self, conversation: Conversation, turn: int, added: int, max_length: int | None, overflow: str
    ) -> Answer:
        message = conversation.messages[turn]
        history = conversation.messages[:turn]
        trimmed = 0
        while True:
            context, rendered = self._turn(history, message, conversation.tools)
            context_ids = self._ids(context)
            answer_ids = self._answer_ids(rendered)
            if max_length is None or len(context_ids) + len(answer_ids) <= max_length:
                weight = message.loss_weight * conversation.weight
                weights = [weight] * len(answer_ids)
                if message.spans:
                    trained = rendered[: self._end(rendered)]
                    factors = answer_factors(self.tokenizer, trained, message, len(answer_ids))
                    weights = [weight * factor for factor in factors]
                return Answer(turn - added, context_ids, answer_ids, weights, trimmed)
            shorter = _without_oldest_turn(history) if overflow == "trim_history" else None
            if shorter is None:
                raise _TooLong
            trimmed += len(history) - len(shorter)
            history = shorter

    def _turn(self, history: Sequence[Message], message: Message, tools: Sequence[dict[str, Any]]) -> tuple[str, str]:
        context, answer = render_turn(self.template, history, message, tools)
        return self.frame.silenced(context, answer) if self.ready.silent else (context, answer)

    def _answer_ids(self, answer: str) -> list[int]:
        """Through the end of turn; where the template writes none, eos is what ends it."""
        ids = self._ids(answer[: self._end(answer)], continuation=True)
        eos = self.tokenizer.eos_id
        return ids if eos is None or self._ends(answer) else [*ids, eos]

    def _end(self, answer: str) -> int | None:
        """Where the end of turn ends; None where the template writes none."""
        ends = self._ends(answer)
        usual = next((m for m in ends if m.group() == self._turn_end), None)
        if usual is None and ends:  # another kind of turn, as a tool call: through the control tokens that close it
            run = zip(ends, [*ends[1:], None], strict=True)
            usual = next(m for m, following in run if following is None or following.start() > m.end())
        return usual.end() if usual else None

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

    # --- inference ------------------------------------------------------------------------------------------------

    def context(self, conversation: Conversation) -> list[int]:
        """Ids before the next answer: exactly the context in which that answer would be trained."""
        conversation = self.ready.of(conversation)
        context = self.template.render(conversation.messages, conversation.tools, prompt=True)
        return self._ids(context + (self.frame.silent if self.ready.silent else ""))

    def rendered(self, conversation: Conversation) -> str:
        """The whole conversation as text: what the template makes of it, its last answer as it is trained."""
        conversation = self.ready.of(conversation)
        *history, last = conversation.messages
        if last.role == "assistant":
            return clean("".join(self._turn(history, last, conversation.tools)))
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
