"""The only place that decides what is trained: a conversation to pairs of context and answer, in ids.

The context is what the template renders before an answer, the answer is what it adds through the end of turn; each is
encoded as inference meets it, never across the boundary. Knows nothing of files, models or batches.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tunesmith.conversation import Conversation, Message, ToolCall
from tunesmith.data.fields import fill, pieces
from tunesmith.data.row import RowError
from tunesmith.errors import TemplateError
from tunesmith.i18n import _
from tunesmith.tokens.answer import Answer, Encoded
from tunesmith.tokens.choose import choose, difference
from tunesmith.tokens.template import ChatTemplate, clean, every_text, protect, spans
from tunesmith.tokens.tokenizer import Tokenizer, own_chat_template
from tunesmith.tokens.turn import Frame, render_turn
from tunesmith.tokens.weigh import factors, moved, token_factors

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
        enable_thinking: bool | None = None,
    ) -> None:
        self.tokenizer, self.template, self.thinking, self.system = tokenizer, template, thinking, system
        self.enable_thinking = enable_thinking
        self.notices: list[str] = []
        parts = pieces(system, "template.system") if system else ()
        self.by_columns = any(field is not None for _text, field in parts)
        if system and not self.by_columns:
            self.system = "".join(text for text, _field in parts)
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
        encoder = cls(tokenizer, template, **settings)
        if own and section.path:
            encoder.notices += filter(None, [difference(template, replace(template, text=own))])
        return encoder

    def with_thinking(self, enabled: bool | None) -> Encoder:
        """The same encoder with another choice of `template.enable_thinking`, for a chat that wants it."""
        others = {name: value for name, value in self.template.variables.items() if name != "enable_thinking"}
        chosen = {} if enabled is None else {"enable_thinking": enabled}
        template = replace(self.template, variables=others | chosen)
        encoder = Encoder(self.tokenizer, template, thinking=self.thinking, enable_thinking=enabled)
        encoder.system, encoder.by_columns = self.system, self.by_columns
        return encoder

    # --- training -------------------------------------------------------------------------------------------------

    def encode(
        self, conversation: Conversation, max_length: int | None = None, overflow: str = "trim_history"
    ) -> Encoded:
        """Every trained answer in its own context. Raises TemplateError only for what concerns the whole data set."""
        answers, dropped = [], 0
        self.check_reasoning([conversation])
        try:
            prepared = self._prepared(conversation)
        except TemplateError as error:
            return Encoded(error=("system", error.problems[0].message))
        added = len(prepared.messages) - len(conversation.messages)  # the system prompt that the row does not have
        for turn in prepared.trained_turns():
            try:
                answer = self._answer(prepared, turn, max_length, overflow)
                answers.append(replace(answer, turn=turn - added))
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
            context, rendered = self._turn(history, message, conversation.tools)
            context_ids = self._ids(context)
            answer_ids = self._answer_ids(rendered)
            if max_length is None or len(context_ids) + len(answer_ids) <= max_length:
                weight = message.loss_weight * conversation.weight
                weights = [weight * factor for factor in self._factors(rendered, message, len(answer_ids))]
                return Answer(turn, context_ids, answer_ids, weights, trimmed)
            shorter = _without_oldest_turn(history) if overflow == "trim_history" else None
            if shorter is None:
                raise _TooLong
            trimmed += len(history) - len(shorter)
            history = shorter

    def _turn(self, history: Sequence[Message], message: Message, tools: Sequence[dict[str, Any]]) -> tuple[str, str]:
        context, answer = render_turn(self.template, history, message, tools)
        return self.frame.silenced(context, answer) if self.enable_thinking is False else (context, answer)

    def _answer_ids(self, answer: str) -> list[int]:
        """Through the end of turn; where the template writes none, eos is what ends it."""
        ids = self._ids(answer[: self._end(answer)], continuation=True)
        eos = self.tokenizer.eos_id
        return ids if eos is None or self._ends(answer) else [*ids, eos]

    def _factors(self, answer: str, message: Message, n: int) -> list[float]:
        """For each of the `n` ids of the answer what the message's spans say; 1 for what is the template's own."""
        if not message.spans:
            return [1.0] * n
        said = factors(answer, message)
        found: list[float] = []
        start = 0
        for i, piece in enumerate(self.tokenizer.control_pattern.split(answer[: self._end(answer)])):
            if i % 2:
                found.append(1.0)
            else:
                part, continuation = said[start : start + len(piece)], self.tokenizer.prefix_once if i else True
                found += token_factors(self.tokenizer, piece, part, continuation=continuation)
            start += len(piece)
        return found + [1.0] * (n - len(found))

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

    def _prepared(self, conversation: Conversation) -> Conversation:
        """With the system prompt and the choice about reasoning applied, and every text unable to act as control."""
        if self.system is not None and not (conversation.messages and conversation.messages[0].role == "system"):
            conversation = conversation.with_system(self.system_of(conversation))
        keep = self.thinking != "strip"
        return replace(
            conversation,
            messages=tuple(self._safe_message(m, keep) for m in conversation.messages),
            tools=tuple(every_text(tool, self._safe, self._safe) for tool in conversation.tools),
        )

    def system_of(self, conversation: Conversation) -> str:
        """The system prompt that a conversation is given: its own, else the setting's with the row's columns in it;
        empty where the template's default stands. Raises TemplateError for a column that the row does not have."""
        if conversation.messages and conversation.messages[0].role == "system":
            return conversation.messages[0].content
        if not (self.system and self.by_columns):
            return self.system or ""
        try:
            return fill(self.system, conversation.meta)[0]
        except RowError as error:
            text = _("template.system needs a column. {why}").format(why=error.reason)
            raise TemplateError(text, place=str(conversation.origin or "template.system")) from None

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
            spans=moved(message.spans, message.content),
        )

    def check_reasoning(self, conversations: Sequence[Conversation]) -> None:
        """Raises TemplateError where rows hold reasoning and nothing says what becomes of it: once for all of them."""
        silent = self.enable_thinking is False
        if self.thinking or (self.template.reasoning_key and not silent):
            return
        rows = [c for c in conversations if any(m.reasoning for m in c.messages)]
        if not rows:
            return
        text = _(
            "{n} of {rows} rows hold reasoning and this chat template has no place for it. Set template.thinking: keep"
            " (train it before the answer, leave it out of the history) or strip (train the answers alone)."
        )
        if silent:
            text = _(
                "{n} of {rows} rows hold reasoning and template.enable_thinking: false allows none. Set"
                " template.thinking: strip (train the answers alone), or leave enable_thinking out."
            )
        place = str(rows[0].origin or self.template.source)
        raise TemplateError(text.format(n=len(rows), rows=len(conversations)), place=place)

    # --- inference ------------------------------------------------------------------------------------------------

    def context(self, conversation: Conversation) -> list[int]:
        """Ids before the next answer: exactly the context in which that answer would be trained."""
        conversation = self._prepared(conversation)
        context = self.template.render(conversation.messages, conversation.tools, prompt=True)
        return self._ids(context + (self.frame.silent if self.enable_thinking is False else ""))

    def rendered(self, conversation: Conversation) -> str:
        """The whole conversation as text: what the template makes of it, its last answer as it is trained."""
        conversation = self._prepared(conversation)
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
