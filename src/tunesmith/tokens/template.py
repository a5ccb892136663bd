"""Conversations to text, by one chat template: content stands between marks in what comes out.

Knows nothing of ids, and of messages only what the template's manner makes of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jinja2 import TemplateError as JinjaError

from tunesmith.conversation import Message
from tunesmith.errors import TemplateError
from tunesmith.i18n import _
from tunesmith.tokens.jinja import Compiled, makes_unnoticed
from tunesmith.tokens.limits import Overrun
from tunesmith.tokens.manner import Manner
from tunesmith.tokens.marks import anchored as with_anchor
from tunesmith.tokens.marks import clean, enclosed
from tunesmith.tokens.watched import Watched

LONGEST = 1_000_000  # characters of a template; those of families have some ten thousand
EXCERPT = 500  # characters of what it says itself


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
    def manner(self) -> Manner:
        return Manner(self._try, self.source)

    @cached_property
    def _compiled(self) -> Compiled:
        try:
            if len(self.text) > LONGEST:
                raise JinjaError(_("it has more than {n:,} characters").format(n=LONGEST))
            return Compiled(self.text, self.date)
        except Overrun as error:
            raise Overrun(_("The chat template can't be used. {why}").format(why=error), place=self.source) from None
        except (
            JinjaError,
            RecursionError,
            SyntaxError,
            ValueError,
        ) as error:  # Python compiles it
            text = _("The chat template is not valid: {why}.")
            raise TemplateError(text.format(why=str(error)[:EXCERPT]), place=self.source) from None

    @cached_property
    def _unnoticed(self) -> bool:
        return makes_unnoticed(self.text)

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
        for role in self.manner.lost_roles.intersection(m.role for m in messages if not m.empty):
            raise TemplateError(_("The chat template leaves out messages of the role {role}.").format(role=role))
        write, looked = self.manner.written, list[str]()

        def watched(text: str) -> str:
            return Watched.of(enclosed(text), looked) if text.strip() else text

        shown = [write(m, with_anchor if i == anchored else watched) for i, m in enumerate(messages)]
        marked = self._render(shown, tools, prompt=prompt)
        if looked or self._unnoticed or anchored is not None:
            plain = self._render([write(m, lambda text: text) for m in messages], tools, prompt=prompt)
            if clean(marked) != clean(plain):
                return plain
        systems = [m.content for m in messages if m.role == "system"]
        if len(systems) > 1 and not all(enclosed(content) in marked for content in systems):
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
        except Overrun as error:
            raise Overrun(_("The chat template can't be used. {why}").format(why=error), place=self.source) from None
        except Exception as error:  # a template is foreign code: whatever it raises is an answer about this row
            why = str(error)[:EXCERPT]
            raise TemplateError(_("The chat template refuses this: {why}.").format(why=why)) from None

    def _try(self, messages: list[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> str:
        try:
            return self._render(messages, tools, prompt=False)
        except Overrun:
            raise
        except TemplateError:
            return ""
