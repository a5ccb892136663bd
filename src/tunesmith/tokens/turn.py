"""One turn as text: a context and the answer behind it, proved to hold what the message says; and the way back.

What a template writes around answers is learned from what it renders, never assumed. Knows nothing of ids.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunesmith.conversation import Message, ToolCall
from tunesmith.errors import TemplateError
from tunesmith.i18n import _
from tunesmith.tokens.calls import CallSyntax
from tunesmith.tokens.manner import PROBE_ID
from tunesmith.tokens.marks import ANCHOR, CLOSE, OPEN, clean, spans
from tunesmith.tokens.template import ChatTemplate

THINK, UNTHINK = "<think>\n", "\n</think>\n\n"
EMPTY = re.compile(r"(?:<think>\s*)?</think>\s*$")  # a generation prompt that has closed the reasoning
BEGUN = re.compile(r"<think>\n?$")  # a generation prompt that opens the reasoning itself, as QwQ's and DeepSeek-R1's do
QUESTION, ANSWER = Message("user", "question"), Message("assistant", "answer")
CALL = Message("assistant", tool_calls=(ToolCall("name", {"key": "value"}, PROBE_ID),))


def render_turn(
    template: ChatTemplate, history: Sequence[Message], message: Message, tools: Sequence[dict[str, Any]] = ()
) -> tuple[str, str]:
    """(context, answer) with marks, the answer with all that the template adds. TemplateError if anything is lost."""
    context = template.render(history, tools, prompt=True)
    full = template.render([*history, message], tools, prompt=False)
    turn, has_place = len(history), template.manner.reasoning_key is not None
    if not full.startswith(context) and (OPEN in full) != (OPEN in context):  # one of them could not bear marks
        context, full = (text.replace(OPEN, "").replace(CLOSE, "") for text in (context, full))
    answer = _behind(context, full, message, has_place=has_place)
    if answer is None:  # the history changes once it is answered, as in Mistral's; what stands behind it may not
        before = template.render(history, tools, prompt=True, anchored=turn - 1).partition(ANCHOR)[2]
        whole = template.render([*history, message], tools, prompt=False, anchored=turn - 1).partition(ANCHOR)[2]
        answer = _behind(before, whole, message, has_place=has_place) if before else None
    if answer is None:
        said = _(
            "messages[{turn}]: the chat template renders what stands before this answer differently once it is there."
        )
        raise TemplateError(said.format(turn=turn))
    wanted = Counter(clean(part) for part in _parts(message))
    missing = next((part for part, times in wanted.items() if clean(answer).count(part) < times), None)
    if missing is not None:
        said = _("messages[{turn}]: the chat template does not render this part: {part}")
        raise TemplateError(said.format(turn=turn, part=repr(missing[:60])))
    lost = next((tool for tool in tools if _name(tool) not in clean(context)), None)
    if lost is not None:
        raise TemplateError(_("The chat template does not render the tool {name}.").format(name=_name(lost)))
    return context, answer


def _behind(context: str, full: str, message: Message, *, has_place: bool) -> str | None:
    """What the answer adds to its context, with its reasoning also where the template has no place for that."""
    if full.startswith(context):
        answer = full[len(context) :]
        return answer if has_place or not message.reasoning else _with_reasoning(answer, message)
    closed = EMPTY.search(context)
    if closed and not message.reasoning and full.startswith(context[: closed.start()]):
        return full[closed.start() :]
    begun = BEGUN.search(context)
    if begun is None or has_place or not full.startswith(context[: begun.start()]):
        return None
    answer = _with_reasoning(full[begun.start() :], message)
    return answer.removeprefix(begun.group()) if answer.startswith(begun.group()) else None


def _with_reasoning(answer: str, message: Message) -> str:
    """Reasoning put before the content, or before the calls where there is none."""
    space = message.content[: len(message.content) - len(message.content.lstrip())]
    head = answer[: max(answer.find(OPEN), 0)].removesuffix(space) if message.content.strip() else ""
    reasoning = f"{OPEN}{message.reasoning.strip()}{CLOSE}" if message.reasoning else ""
    return f"{head}{THINK}{reasoning}{UNTHINK}{answer[len(head) :]}"


def _parts(message: Message) -> Iterator[str]:
    """Texts of an answer that a template may not lose."""
    yield from filter(None, (message.content.strip(), (message.reasoning or "").strip()))
    yield from (call.name for call in message.tool_calls)


def _name(tool: dict[str, Any]) -> str:
    inner = tool.get("function", tool)
    return clean(str(inner.get("name", ""))) if isinstance(inner, dict) else ""


def _tried(template: ChatTemplate, answer: Message) -> str | None:
    try:
        return render_turn(template, [QUESTION], answer)[1]
    except TemplateError:
        return None


@dataclass(frozen=True, slots=True)
class Frame:
    """What a template writes around an answer: before its content, and before and behind its reasoning."""

    plain: str  # a whole answer as rendered, marks included
    call: str | None  # one that calls a tool; None where there is no place for it
    calls: CallSyntax | None  # how calls are read back
    head: str
    before_reasoning: str
    behind_reasoning: str
    tail: str  # white space behind the content, the template's own
    silent: str  # what stands behind the generation prompt where an answer may not reason: the family's empty block
    spoken: str  # the part of it with which such an answer begins

    @classmethod
    def of(cls, template: ChatTemplate) -> Frame:
        context, plain = render_turn(template, [QUESTION], ANSWER)
        thought, call = _tried(template, replace(ANSWER, reasoning="reason")), _tried(template, CALL)
        marked = [*spans(thought or "")]
        before, behind = THINK, UNTHINK
        if thought and len(marked) > 1:
            before, behind = clean(thought[: marked[0][0]]), clean(thought[marked[0][1] : marked[1][0]])
        head, rest = clean(plain[: max(plain.find(OPEN), 0)]), plain.rpartition(CLOSE)[2]
        own = template.manner.reasoning_key or BEGUN.search(context) or "enable_thinking" in template.text
        spoken = head if head.strip() or not own else ""
        silent = spoken if own else head + THINK + UNTHINK
        return cls(
            plain,
            call,
            CallSyntax.of(call),
            head,
            before,
            behind,
            rest[: len(rest) - len(rest.lstrip())],
            silent,
            spoken,
        )

    def silenced(self, context: str, answer: str) -> tuple[str, str]:
        """The turn with the empty block in its context, where it is not trained."""
        if not answer.startswith(self.spoken):
            raise TemplateError(_("This answer can't follow the empty block of template.enable_thinking: false."))
        return context + self.silent, answer.removeprefix(self.spoken)

    def read(self, text: str) -> Message:
        """A generated answer read back: its reasoning and calls apart, the template's own words around it removed."""
        text = text.removesuffix(self.tail)
        before, behind = self.before_reasoning.strip(), self.behind_reasoning.strip()
        found = re.match(rf"\s*{re.escape(before)}(.*?){re.escape(behind)}(.*)", text, re.DOTALL)
        reasoning, content = None, text.removeprefix(self.head)
        if found:
            gap = self.behind_reasoning[len(self.behind_reasoning.rstrip()) :]
            content = found[2].removeprefix(gap) if found[2].startswith(gap) else found[2].lstrip("\n")
            reasoning = found[1].strip() or None
        said, calls = self.calls.read(content) if self.calls else (content, ())
        if calls and not found and before and said.lstrip().startswith(before):  # a call may follow it in another way
            reasoning = said.lstrip().removeprefix(before).partition(behind.partition(">")[0])[0].strip() or None
            said = ""
        return Message("assistant", said.strip() if calls else said, reasoning=reasoning, tool_calls=calls)
