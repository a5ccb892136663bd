"""One turn as text: a context and the answer behind it, proved to hold what the message says; and the way back.

What a template writes around answers is learned from what it renders, never assumed. Knows nothing of ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunesmith.conversation import Message, ToolCall
from tunesmith.errors import TemplateError
from tunesmith.i18n import _
from tunesmith.tokens.template import CLOSE, OPEN, ChatTemplate, clean, spans

THINK, UNTHINK = "<think>\n", "\n</think>\n\n"
QUESTION, ANSWER = Message("user", "question"), Message("assistant", "answer")
CALL = Message("assistant", tool_calls=(ToolCall("name", {"key": "value"}),))


def render_turn(
    template: ChatTemplate, history: Sequence[Message], message: Message, tools: Sequence[dict[str, Any]] = ()
) -> tuple[str, str]:
    """(context, answer) with marks, the answer with all that the template adds. TemplateError if anything is lost."""
    context = template.render(history, tools, prompt=True)
    full = template.render([*history, message], tools, prompt=False)
    turn = len(history)
    if not full.startswith(context):
        said = _(
            "messages[{turn}]: the chat template renders what stands before this answer differently once it is there."
        )
        raise TemplateError(said.format(turn=turn))
    answer = full[len(context) :]
    if message.reasoning and not template.reasoning_key:
        answer = _with_reasoning(answer, message.reasoning)
    missing = next((part for part in _parts(message) if clean(part) not in clean(answer)), None)
    if missing is not None:
        said = _("messages[{turn}]: the chat template does not render this part: {part}")
        raise TemplateError(said.format(turn=turn, part=repr(clean(missing)[:60])))
    lost = next((tool for tool in tools if _name(tool) not in clean(context)), None)
    if lost is not None:
        raise TemplateError(_("The chat template does not render the tool {name}.").format(name=_name(lost)))
    return context, answer


def _with_reasoning(answer: str, reasoning: str) -> str:
    """Reasoning put before the content of an answer whose template has no place for it."""
    at = max(answer.find(OPEN), 0)
    return f"{answer[:at]}{THINK}{OPEN}{reasoning.strip()}{CLOSE}{UNTHINK}{answer[at:]}"


def _parts(message: Message) -> Iterator[str]:
    """Texts of an answer that a template may not lose."""
    yield from filter(None, (message.content.strip(), (message.reasoning or "").strip()))
    yield from (call.name for call in message.tool_calls)


def _name(tool: dict[str, Any]) -> str:
    inner = tool.get("function", tool)
    return clean(str(inner.get("name", ""))) if isinstance(inner, dict) else ""


@dataclass(frozen=True, slots=True)
class Frame:
    """What a template writes around an answer: before its content, and before and behind its reasoning."""

    plain: str  # a whole answer as rendered, marks included
    call: str | None  # one that calls a tool; None where there is no place for it
    head: str
    before_reasoning: str
    behind_reasoning: str

    @classmethod
    def of(cls, template: ChatTemplate) -> Frame:
        plain = render_turn(template, [QUESTION], ANSWER)[1]
        thought = render_turn(template, [QUESTION], replace(ANSWER, reasoning="reason"))[1]
        first, second = list(spans(thought))[:2]
        try:
            call = render_turn(template, [QUESTION], CALL)[1]
        except TemplateError:
            call = None
        head = clean(plain[: plain.index(OPEN)])
        return cls(plain, call, head, clean(thought[: first[0]]), clean(thought[first[1] : second[0]]))

    def read(self, text: str) -> Message:
        """A generated answer read back: its reasoning apart, the template's own words around it removed."""
        before, behind = self.before_reasoning.strip(), self.behind_reasoning.strip()
        found = re.match(rf"\s*{re.escape(before)}(.*?){re.escape(behind)}(.*)", text, re.DOTALL)
        if found:
            return Message("assistant", found[2].lstrip("\n"), reasoning=found[1].strip() or None)
        return Message("assistant", text.removeprefix(self.head))
