"""The only place that decides what is trained: a conversation to pairs of context and answer, in ids.

The context is what the template renders before an answer, the answer is what it adds through the end of turn; each is
encoded as inference meets it, never across the boundary. Knows nothing of files, models or batches.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tunesmith.conversation import Conversation, Message, ToolCall
from tunesmith.errors import TemplateError
from tunesmith.i18n import _
from tunesmith.tokens.template import CLOSE, OPEN, ChatTemplate, choose, clean, every_text, protect, spans
from tunesmith.tokens.tokenizer import Tokenizer, own_chat_template

if TYPE_CHECKING:
    from tunesmith.config.schema import TemplateSection

THINK, UNTHINK = "<think>\n", "\n</think>\n\n"
CALL = ToolCall("name", {"key": "value"})


@dataclass(frozen=True, slots=True)
class Answer:
    """One trained answer: `turn` is its message's index; `weights` has one number for each of `answer_ids`."""

    turn: int
    context_ids: list[int]
    answer_ids: list[int]
    weights: list[float]
    trimmed: int = 0  # messages left out of the context so that it fits

    def __len__(self) -> int:
        return len(self.context_ids) + len(self.answer_ids)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A conversation's answers; `dropped` answers did not fit. `error`: (code, reason) where the row can't be used."""

    answers: tuple[Answer, ...] = ()
    dropped: int = 0
    error: tuple[str, str] | None = None

    @property
    def trimmed(self) -> int:
        return sum(1 for answer in self.answers if answer.trimmed)


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
        self._learn_frame()

    @classmethod
    def load(cls, folder: str | Path, section: TemplateSection, text: str | None = None) -> Encoder:
        """From a tokenizer's folder. `text` is a template that a run recorded; it wins over everything."""
        source = "run"
        if text is None:
            text, source = choose(
                path=section.path,
                own=own_chat_template(Path(folder)),
                folder=Path(folder),
                fallback=section.fallback,
            )
        tokenizer = Tokenizer(folder, text)
        variables = tokenizer.special_tokens | section.kwargs
        template = ChatTemplate(text, source, variables, section.date)
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
            context, rendered = self._render_pair(history, message, conversation.tools)
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

    def _render_pair(
        self, history: Sequence[Message], message: Message, tools: Sequence[dict[str, Any]]
    ) -> tuple[str, str]:
        """(context, answer) as rendered, marks included. The answer is still whole, its tail not yet cut."""
        context = self.template.render(history, tools, prompt=True)
        full = self.template.render([*history, message], tools, prompt=False)
        if not full.startswith(context):
            raise TemplateError(
                _("messages[{turn}]: what the chat template renders before this answer is not how it renders it with it.")
                .format(turn=len(history))
            )  # fmt: skip
        answer = full[len(context) :]
        if message.reasoning and not self.template.reasoning_key:
            answer = _with_reasoning(answer, protect(message.reasoning, self.tokenizer.control_pattern))
        missing = next((text for text in _must_appear(message) if clean(text) not in clean(answer)), None)
        if missing is not None:
            raise TemplateError(
                _("messages[{turn}]: the chat template does not render this part: {part}").format(
                    turn=len(history), part=repr(clean(missing)[:60])
                )
            )
        lost = next((tool for tool in tools if _tool_name(tool) not in clean(context)), None)
        if lost is not None:
            raise TemplateError(_("The chat template does not render the tool {name}.").format(name=_tool_name(lost)))
        return context, answer

    def _answer_ids(self, answer: str) -> list[int]:
        """Through the end of turn; where the template writes none, eos is what ends it."""
        content_end = max((end for _start, end in spans(answer)), default=0)
        ends = list(self.tokenizer.control_pattern.finditer(answer, content_end))
        if not ends:
            eos = self.tokenizer.eos_id
            return self._ids(answer, continuation=True) + ([] if eos is None else [eos])
        usual = next((m for m in ends if m.group() == self._turn_end), None)
        if usual is None:  # another kind of turn, such as a tool call: through the control tokens that close it
            run = zip(ends, [*ends[1:], None], strict=True)
            usual = next(m for m, following in run if following is None or following.start() > m.end())
        return self._ids(answer[: usual.end()], continuation=True)

    def _ids(self, rendered: str, *, continuation: bool = False) -> list[int]:
        """Control tokens by id, everything between them as ordinary text."""
        ids: list[int] = []
        pieces = self.tokenizer.control_pattern.split(rendered)
        for i, piece in enumerate(pieces):
            if i % 2:
                ids.append(self.tokenizer.control[piece.strip()])
            else:
                ids += self.tokenizer.text_ids(clean(piece), continuation=continuation and not ids)
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
        return replace(
            message,
            content=self._safe(message.content),
            reasoning=self._safe(message.reasoning) if message.reasoning and keep_reasoning else None,
            tool_calls=tuple(
                ToolCall(self._safe(c.name), every_text(c.arguments, self._safe, self._safe), c.id)
                for c in message.tool_calls
            ),
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

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids)

    def message(self, ids: list[int]) -> Message:
        """A generated answer read back: its reasoning apart, the template's own words around it removed."""
        while ids and ids[-1] in self.stop_ids:
            ids = ids[:-1]
        text = self.tokenizer.decode(ids, skip_special_tokens=False)
        before, between = self._reasoning_frame
        found = re.match(rf"\s*{re.escape(before.strip())}(.*?){re.escape(between.strip())}(.*)", text, re.DOTALL)
        if found and before.strip():
            reasoning, text = found.group(1).strip(), found.group(2).lstrip("\n")
            return Message("assistant", text, reasoning=reasoning or None)
        return Message("assistant", text.removeprefix(self._answer_head))

    def _learn_frame(self) -> None:
        """How this template frames an answer: what stands around reasoning, before content, and what ends the turn."""
        question, answer = Message("user", "question"), Message("assistant", "answer")
        _context, plain = self._render_pair([question], answer, ())
        end = self.tokenizer.control_pattern.search(plain, max(end for _start, end in spans(plain)))
        self._turn_end = end.group() if end else None
        stops = {self._answer_ids(plain)[-1], self.tokenizer.eos_id}
        try:
            _context, called = self._render_pair([question], Message("assistant", tool_calls=(CALL,)), ())
            stops.add(self._answer_ids(called)[-1])
        except TemplateError:
            pass  # a template without tool calls
        self.stop_ids = frozenset(i for i in stops if i in self.tokenizer.control_ids)
        self._answer_head = clean(plain[: plain.index(OPEN)])
        _context, thought = self._render_pair([question], replace(answer, reasoning="reason"), ())
        first, second = list(spans(thought))[:2]
        self._reasoning_frame = clean(thought[: first[0]]), clean(thought[first[1] : second[0]])


class _TooLong(Exception):
    """An answer that fits in no context."""


def _with_reasoning(answer: str, reasoning: str) -> str:
    """Reasoning put before the content of an answer whose template has no place for it."""
    at = max(answer.find(OPEN), 0)
    return f"{answer[:at]}{THINK}{OPEN}{reasoning.strip()}{CLOSE}{UNTHINK}{answer[at:]}"


def _must_appear(message: Message) -> Iterator[str]:
    """Texts of an answer that a template may not lose."""
    if message.content.strip():
        yield message.content.strip()
    if message.reasoning:
        yield message.reasoning.strip()
    for call in message.tool_calls:
        yield call.name


def _tool_name(tool: dict[str, Any]) -> str:
    inner = tool.get("function", tool)
    return clean(str(inner.get("name", ""))) if isinstance(inner, dict) else ""


def _without_oldest_turn(history: Sequence[Message]) -> tuple[Message, ...] | None:
    """The history without its oldest turn (a question and all that answered it), system kept; None if one is left."""
    starts = [i for i, m in enumerate(history) if m.role == "user"]
    if len(starts) < 2:
        return None
    head = [m for m in history[: starts[0]] if m.role == "system"]
    return (*head, *history[starts[1] :])
