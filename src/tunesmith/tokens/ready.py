"""A conversation made ready for a template: its system prompt, what becomes of its reasoning, no text that controls.

Knows settings and text; nothing of ids, and of templates only whether they have a place for reasoning.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal

from tunesmith.conversation import Conversation, Message, ToolCall
from tunesmith.data.fields import fill, pieces
from tunesmith.data.row import RowError
from tunesmith.errors import TemplateError
from tunesmith.i18n import _
from tunesmith.tokens.marks import every_text, protect
from tunesmith.tokens.template import ChatTemplate
from tunesmith.tokens.weigh import moved


class Preparation:
    """What settings say of every conversation. `control` finds control tokens in text; in `system`, the setting
    template.system, `{column}` stands for what a row has there."""

    def __init__(
        self,
        template: ChatTemplate,
        control: re.Pattern[str],
        *,
        thinking: Literal["keep", "strip"] | None = None,
        system: str | None = None,
        enable_thinking: bool | None = None,
    ) -> None:
        self.template, self.control, self.thinking = template, control, thinking
        self.system, self.enable_thinking = system, enable_thinking
        parts = pieces(system, "template.system") if system else ()
        self.by_columns = any(field is not None for _text, field in parts)
        if system and not self.by_columns:
            self.system = "".join(text for text, _field in parts)

    def under(self, template: ChatTemplate, enable_thinking: bool | None) -> Preparation:
        """The same for a template with other variables."""
        other = Preparation(template, self.control, thinking=self.thinking, enable_thinking=enable_thinking)
        other.system, other.by_columns = self.system, self.by_columns
        return other

    @property
    def silent(self) -> bool:
        """Whether answers may not reason."""
        return self.enable_thinking is False

    def of(self, conversation: Conversation) -> Conversation:
        """With the system prompt and the choice about reasoning applied, and every text unable to act as control.
        Raises TemplateError for a column that the system prompt needs and the row does not have."""
        if self.system is not None and not (conversation.messages and conversation.messages[0].role == "system"):
            conversation = conversation.with_system(self.system_of(conversation))
        return replace(
            conversation,
            messages=tuple(map(self._message, conversation.messages)),
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

    def check_reasoning(self, conversation: Conversation) -> None:
        """Raises TemplateError where a row holds reasoning and nothing says what becomes of it: all rows stop there."""
        if self.thinking or (self.template.manner.reasoning_key and not self.silent):
            return
        if not any(m.reasoning for m in conversation.messages):
            return
        text = _(
            "Rows hold reasoning, this one first, and the chat template has no place for it. Set template.thinking:"
            " keep (train it before the answer, leave it out of the history) or strip (train the answers alone)."
        )
        if self.silent:
            text = _(
                "Rows hold reasoning, this one first, and template.enable_thinking: false allows none. Set"
                " template.thinking: strip (train the answers alone), or leave enable_thinking out."
            )
        raise TemplateError(text, place=str(conversation.origin or self.template.source))

    def _safe(self, text: str) -> str:
        return protect(text, self.control)

    def _message(self, message: Message) -> Message:
        name, call_id = (text and self._safe(text) for text in (message.name, message.tool_call_id))
        return Message(
            self._safe(message.role),
            self._safe(message.content),
            reasoning=self._safe(message.reasoning) if message.reasoning and self.thinking != "strip" else None,
            tool_calls=tuple(
                ToolCall(self._safe(c.name), every_text(c.arguments, self._safe, self._safe), c.id and self._safe(c.id))
                for c in message.tool_calls
            ),
            name=name,
            tool_call_id=call_id,
            weight=message.weight,
            spans=moved(message.spans, message.content),
        )
