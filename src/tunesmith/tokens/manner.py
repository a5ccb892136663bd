"""How a chat template wants its messages written, learned from what it renders: reasoning, tool calls, lost roles.

Knows messages and a function that tries a template; nothing of ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import product
from typing import Any

from tunesmith.conversation import Message
from tunesmith.errors import TemplateError
from tunesmith.i18n import _
from tunesmith.tokens.jinja import tojson
from tunesmith.tokens.marks import clean, enclosed, every_text

REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
PROBE, PROBE_ID = "probe", "call00000"  # Mistral's template refuses ids of another length
PROBE_TOOL = {"type": "function", "function": {"name": "tool", "description": "text", "parameters": {}}}
USER = {"role": "user", "content": "question"}

Try = Callable[[list[dict[str, Any]], Sequence[dict[str, Any]]], str]


class Manner:
    """`attempt` renders messages and tools, empty where the template refuses them; `source` names it in errors."""

    def __init__(self, attempt: Try, source: str) -> None:
        self._try, self.source = attempt, source

    def written(self, message: Message, mark: Callable[[str], str] = enclosed) -> dict[str, Any]:
        """The message as the template reads it, each of its texts changed by `mark`."""
        content_key, as_text = self.tool_call_style if message.tool_calls else ("", False)
        shown: dict[str, Any] = {"role": message.role, "content": mark(message.content)}
        if message.tool_calls:
            if not message.content and content_key == "none":
                shown["content"] = None
            elif not message.content and content_key == "absent":
                del shown["content"]
            shown["tool_calls"] = [_call(c.name, c.arguments, c.id, as_text, mark) for c in message.tool_calls]
        if message.reasoning and self.reasoning_key:
            shown[self.reasoning_key] = mark(message.reasoning)
        if message.name:
            shown["name"] = message.name
        if message.tool_call_id:
            shown["tool_call_id"] = message.tool_call_id
        return shown

    @cached_property
    def reasoning_key(self) -> str | None:
        """The key under which the template renders the reasoning of the last answer; None if it has no place."""
        for key in REASONING_KEYS:
            if PROBE in self._try([USER, {"role": "assistant", "content": "answer", key: PROBE}], ()):
                return key
        return None

    @cached_property
    def tool_call_style(self) -> tuple[str, bool]:
        """How an answer that only calls a tool is written: its content ("", none, absent), arguments as text."""
        for tools in ((), (PROBE_TOOL,)):  # a template of its own may be for conversations with tools
            for as_text, content in product((False, True), ("", "none", "absent")):
                answer: dict[str, Any] = {"role": "assistant", "content": "" if content == "" else None}
                if content == "absent":
                    del answer["content"]
                answer["tool_calls"] = [_call(PROBE, {PROBE: PROBE}, PROBE_ID, as_text, enclosed)]
                if clean(self._try([USER, answer], tools)).count(PROBE) >= 3:
                    return content, as_text
        raise TemplateError(_("The chat template has no place for tool calls."), place=self.source)

    @cached_property
    def lost_roles(self) -> frozenset[str]:
        """Roles whose messages the template leaves out without a word."""
        tool = {"role": "tool", "content": PROBE, "name": "name", "tool_call_id": PROBE_ID}
        called = [USER, {"role": "assistant", "content": "answer"}, tool]
        system = self._try([{"role": "system", "content": PROBE}, USER], ())
        result = self._try(called, ()) + self._try(called, (PROBE_TOOL,))
        return frozenset(r for r, text in (("system", system), ("tool", result)) if text and PROBE not in text)


def _call(name: str, arguments: Any, call_id: str | None, as_text: bool, mark: Callable[[str], str]) -> dict[str, Any]:
    marked = every_text(arguments, mark)
    if as_text and not isinstance(marked, str):
        marked = tojson(marked)
    call = {"type": "function", "function": {"name": mark(name), "arguments": marked}}
    return call | ({"id": call_id} if call_id else {})
