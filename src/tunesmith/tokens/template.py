"""Conversations to text, by one chat template: which template that is, and how a message is put before it.

Content is told from template text by its place: it goes through the template between two noncharacters, and a
control token that is spelled inside content is broken by a third. Knows nothing of ids.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import TemplateError as JinjaError
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tunesmith.conversation import Message
from tunesmith.errors import TemplateError
from tunesmith.i18n import _
from tunesmith.tokens.tokenizer import Tokenizer, made_for

OPEN, CLOSE, BREAK = "\ufdd0", "\ufdd1", "\ufdd2"
MARKS = re.compile(f"[{OPEN}{CLOSE}{BREAK}]")
SHIPPED = Path(__file__).parent / "templates"
REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
PROBE = "probe"


def clean(text: str) -> str:
    return MARKS.sub("", text)


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
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: _today(self.date).strftime(form)
        try:
            return environment.from_string(self.text)
        except JinjaError as error:
            raise TemplateError(
                _("The chat template is not valid: {why}.").format(why=error), place=self.source
            ) from None

    def render(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = (), *, prompt: bool) -> str:
        """Text with marks around content. `prompt` adds what stands before an answer. Raises TemplateError."""
        return self._render([self._message(m) for m in messages], tools, prompt=prompt)

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

    def _message(self, message: Message) -> dict[str, Any]:
        """The message as this template reads it."""
        content_key, as_text = self.tool_call_style if message.tool_calls else ("", False)
        shown: dict[str, Any] = {"role": message.role, "content": _enclosed(message.content)}
        if message.tool_calls:
            if not message.content and content_key == "none":
                shown["content"] = None
            elif not message.content and content_key == "absent":
                del shown["content"]
            shown["tool_calls"] = [_call(c.name, c.arguments, c.id, as_text) for c in message.tool_calls]
        if message.reasoning and self.reasoning_key:
            shown[self.reasoning_key] = _enclosed(message.reasoning)
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
        for as_text in (False, True):
            for content in ("", "none", "absent"):
                answer: dict[str, Any] = {"role": "assistant", "content": "" if content == "" else None}
                if content == "absent":
                    del answer["content"]
                answer["tool_calls"] = [_call(PROBE, {PROBE: PROBE}, None, as_text)]
                if clean(self._try([{"role": "user", "content": "question"}, answer])).count(PROBE) >= 3:
                    return content, as_text
        raise TemplateError(_("The chat template has no place for tool calls."), place=self.source)

    def _try(self, messages: list[dict[str, Any]]) -> str:
        try:
            return self._render(messages, (), prompt=False)
        except TemplateError:
            return ""


def choose(
    *,
    path: Path | None,
    own: str | None,
    folder: Path,
    fallback: str | None,
) -> tuple[str, str]:
    """(text, source): `path`, else the tokenizer's `own`, else the shipped one that is made for the special tokens of
    the tokenizer in `folder`, else `fallback`, else TemplateError. Never a guess."""
    if path is not None:
        return _read(path), str(path)
    if own:
        return own, str(folder)
    shipped = {p.stem: _read(p) for p in sorted(SHIPPED.glob("*.jinja"))}
    fitting = [name for name, text in shipped.items() if made_for(text) and Tokenizer(folder, text).has(made_for(text))]
    if len(fitting) == 1:
        return shipped[fitting[0]], f"{fitting[0]}.jinja"
    if fallback in shipped:
        return shipped[fallback], f"{fallback}.jinja"
    if fallback:
        return _read(Path(fallback)), fallback
    raise TemplateError(
        _(
            "The tokenizer has no chat template. Set template.path to a Jinja file, or template.fallback to one of {names}."
        ).format(names=", ".join(shipped)),
        place=str(folder),
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(_("The chat template can't be read: {why}.").format(why=error), place=str(path)) from None


def protect(text: str, pattern: re.Pattern[str]) -> str:
    """The text with every control token in it broken, so that it can't act as one; noncharacters are taken out."""
    return pattern.sub(lambda m: _break(m.group()), clean(text))


def _break(token: str) -> str:
    start = len(token) - len(token.lstrip())
    return token[: start + 1] + BREAK + token[start + 1 :]


def _enclosed(text: str) -> str:
    """Marks around what is left when white space is trimmed, so that a template's trimming does what it always does."""
    core = text.strip()
    if not core:
        return text
    start = text.index(core)
    return f"{text[:start]}{OPEN}{core}{CLOSE}{text[start + len(core) :]}"


def every_text(value: Any, change: Callable[[str], str], keys: Callable[[str], str] | None = None) -> Any:
    """The JSON value with each text in it changed, its keys too where `keys` is given."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {keys(k) if keys else k: every_text(v, change, keys) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [every_text(item, change, keys) for item in value]
    return value


def _call(name: str, arguments: Any, call_id: str | None, as_text: bool) -> dict[str, Any]:
    marked = every_text(arguments, _enclosed)
    if as_text and not isinstance(marked, str):
        marked = _tojson(marked)
    call = {"type": "function", "function": {"name": _enclosed(name), "arguments": marked}}
    return call | ({"id": call_id} if call_id else {})


def _tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False):
    # ensure_ascii stays off: escaped marks could not be taken out again
    return json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise JinjaError(message)


def _today(date: str | None) -> datetime:
    """The given day; else SOURCE_DATE_EPOCH's (reproducible-builds.org); else today."""
    if date:
        return datetime.fromisoformat(date)
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    return datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now()


class _Generation(Extension):
    """`{% generation %}` marks answers for other tools; here its body is rendered and nothing more."""

    tags = frozenset({"generation"})

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def spans(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of each marked content in a rendered text, marks included."""
    for match in re.finditer(f"{OPEN}[^{OPEN}{CLOSE}]*{CLOSE}", text):
        yield match.span()
