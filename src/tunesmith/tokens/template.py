"""Conversations to text, by one chat template: how messages are put before it, and what comes out.

Content is told from template text by its place: it goes through the template between two noncharacters, and a
control token that is spelled inside content is broken by a third, which stands before each of its characters. Knows
nothing of ids.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

from jinja2 import TemplateError as JinjaError

from tunesmith.conversation import Message
from tunesmith.errors import TemplateError
from tunesmith.i18n import _
from tunesmith.tokens.jinja import compiled, tojson

OPEN, CLOSE, BREAK, ANCHOR = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3"
MARKS = re.compile(f"[{OPEN}{CLOSE}{BREAK}{ANCHOR}]")
REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
PROBE, PROBE_ID = "probe", "call00000"  # Mistral's template refuses ids of another length
PROBE_TOOL = {"type": "function", "function": {"name": "tool", "description": "text", "parameters": {}}}


class Marked(str):
    """Text with marks, which stay what they are where a template writes a value as Python does (`{{ tools }}`)."""

    def __repr__(self) -> str:
        written = r"\\(\\|ufdd[0123])"  # an escaped backslash is a user's own
        return re.sub(written, lambda m: m[0] if m[1] == "\\" else chr(int(m[1][1:], 16)), super().__repr__())


def clean(text: str) -> str:
    return MARKS.sub("", text)


def _enclosed(text: str) -> str:
    """Marks around what is left when white space is trimmed, so that a template's trimming does what it always does."""
    core = text.strip()
    if not core:
        return text
    start = text.index(core)
    return Marked(f"{text[:start]}{OPEN}{core}{CLOSE}{text[start + len(core) :]}")


def _anchored(text: str) -> str:
    """The same with ANCHOR as its last character; empty text has no place for one."""
    return Marked(_enclosed(text).replace(CLOSE, ANCHOR + CLOSE))


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja chat template with the variables that it is rendered with. `source` says where it came from."""

    text: str
    source: str
    variables: dict[str, Any] = field(default_factory=dict)
    date: str | None = None

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @cached_property
    def _compiled(self) -> Any:
        try:
            return compiled(self.text, self.date)
        except JinjaError as error:
            raise TemplateError(
                _("The chat template is not valid: {why}.").format(why=error), place=self.source
            ) from None

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] = (),
        *,
        prompt: bool,
        anchored: int | None = None,
    ) -> str:
        """Text with marks around content; without, where a template looks into content and marks would change what it
        does. `prompt` adds what stands before an answer; the content of message `anchored` ends with ANCHOR. Raises
        TemplateError, also for messages that would be lost."""
        for role in self.lost_roles.intersection(m.role for m in messages if not m.empty):
            raise TemplateError(_("The chat template leaves out messages of the role {role}.").format(role=role))
        shown = [self._message(m, _anchored if i == anchored else _enclosed) for i, m in enumerate(messages)]
        marked = self._render(shown, tools, prompt=prompt)
        plain = self._render([self._message(m, lambda text: text) for m in messages], tools, prompt=prompt)
        if clean(marked) != clean(plain):
            return plain
        systems = [m.content for m in messages if m.role == "system"]
        if len(systems) > 1 and not all(_enclosed(content) in marked for content in systems):
            raise TemplateError(_("The chat template leaves out one of the row's system messages."))
        return marked

    def _render(self, messages: list[dict[str, Any]], tools: Sequence[dict[str, Any]], *, prompt: bool) -> str:
        try:
            return self._compiled.render(
                messages=messages,
                tools=list(tools) or None,
                documents=None,
                add_generation_prompt=prompt,
                **self.variables,
            )
        except Exception as error:  # a template is foreign code: whatever it raises is an answer about this row
            raise TemplateError(_("The chat template refuses this: {why}.").format(why=error)) from None

    def _message(self, message: Message, mark: Callable[[str], str] = _enclosed) -> dict[str, Any]:
        """The message as this template reads it."""
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
            answer = {"role": "assistant", "content": "answer", key: PROBE}
            if PROBE in self._try([{"role": "user", "content": "question"}, answer]):
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
                answer["tool_calls"] = [_call(PROBE, {PROBE: PROBE}, PROBE_ID, as_text, _enclosed)]
                if clean(self._try([{"role": "user", "content": "question"}, answer], tools)).count(PROBE) >= 3:
                    return content, as_text
        raise TemplateError(_("The chat template has no place for tool calls."), place=self.source)

    @cached_property
    def lost_roles(self) -> frozenset[str]:
        """Roles whose messages the template leaves out without a word."""
        user, tool = {"role": "user", "content": "question"}, {"role": "tool", "content": PROBE, "name": "name"}
        system = self._try([{"role": "system", "content": PROBE}, user])
        called = [user, {"role": "assistant", "content": "answer"}, tool | {"tool_call_id": PROBE_ID}]
        result = self._try(called) + self._try(called, (PROBE_TOOL,))
        return frozenset(r for r, text in (("system", system), ("tool", result)) if text and PROBE not in text)

    def _try(self, messages: list[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()) -> str:
        try:
            return self._render(messages, tools, prompt=False)
        except TemplateError:
            return ""


def protect(text: str, pattern: re.Pattern[str]) -> str:
    """The text with every control token in it broken, so that it can't act as one; noncharacters are taken out."""
    return Marked(pattern.sub(_broken, clean(text)))


def _broken(token: re.Match[str]) -> str:
    """White space that a token swallows stays free, so that a template may trim it."""
    return re.sub(r"(?=\S)", BREAK, token[0]) if token[0].strip() else BREAK + BREAK.join(token[0])


def every_text(value: Any, change: Callable[[str], str], keys: Callable[[str], str] | None = None) -> Any:
    """The JSON value with each text in it changed, its keys too where `keys` is given."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {keys(k) if keys else k: every_text(v, change, keys) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [every_text(item, change, keys) for item in value]
    return value


def _call(name: str, arguments: Any, call_id: str | None, as_text: bool, mark: Callable[[str], str]) -> dict[str, Any]:
    marked = every_text(arguments, mark)
    if as_text and not isinstance(marked, str):
        marked = tojson(marked)
    call = {"type": "function", "function": {"name": mark(name), "arguments": marked}}
    return call | ({"id": call_id} if call_id else {})


def spans(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of each marked content in a rendered text, marks included."""
    for match in re.finditer(f"{OPEN}[^{OPEN}{CLOSE}]*{CLOSE}", text):
        yield match.span()
