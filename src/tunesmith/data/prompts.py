"""Rows that ask for an answer: every shape of training rows, and bare prompts, one conversation each, in order.

Nothing is left out here: a row that can't be read keeps its place, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.conversation import Conversation, Message
from tunesmith.data import formats
from tunesmith.data.detect import choose
from tunesmith.data.formats import Parsed, with_system
from tunesmith.data.read import read
from tunesmith.data.row import Row, RowError
from tunesmith.errors import DataError
from tunesmith.i18n import _

if TYPE_CHECKING:
    from tunesmith.config.schema import DataSection

BARE = ("prompt", "question", "query", "instruction", "input", "text", "content")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One row as it was (`value`), what to ask, and the answer that stood there; `error` where it can't be asked."""

    value: dict[str, Any]
    conversation: Conversation | None
    reference: str | None = None
    error: str | None = None


def read_prompts(path: Path, section: DataSection) -> tuple[list[Prompt], list[str]]:
    """(rows, notices). Raises DataError for files that can't be read or hold no rows."""
    reading = read(path)
    if not reading.rows:
        raise DataError(_("There are no rows."), str(path))
    prompts = []
    for index, row in enumerate(reading.rows):
        if isinstance(row, Row):
            prompts.append(_prompt(row, index, section))
        else:
            prompts.append(Prompt({"excerpt": row.excerpt}, None, error=f"{row.origin}  {row.reason}"))
    return prompts, reading.notices


def _prompt(row: Row, index: int, section: DataSection) -> Prompt:
    try:
        parsed = _parse(row.value, section, str(row.origin))
    except (RowError, DataError) as error:
        return Prompt(row.value, None, error=f"{row.origin}  {error}")
    messages = list(parsed.messages)
    reference = None
    if messages and messages[-1].role == "assistant":
        reference = messages.pop().content
    if not any(m.role == "user" for m in messages):
        return Prompt(row.value, None, error=f"{row.origin}  " + _("There is no question in it."))
    conversation = Conversation(tuple(messages), tuple(parsed.tools), origin=row.origin, index=index)
    return Prompt(row.value, conversation, reference)


def _parse(row: dict[str, Any], section: DataSection, place: str) -> Parsed:
    """By the settings if they name a format, else by the format that recognises the row, else as a bare prompt."""
    if section.format or section.mapping or section.prompt_template:
        return choose([row], section, place)[1](row)
    known = next((name for name in formats.names() if formats.get(name).detect(row)), None)
    if known:
        return formats.get(known).parse(row)
    texts = [row[column] for column in BARE if isinstance(row.get(column), str) and row[column].strip()]
    if not texts:
        raise RowError("no_prompt", _("No column of it is a question: {names}.").format(names=", ".join(BARE)))
    messages = with_system(
        (Message("user", "\n".join(texts)),), str(row.get("system") or row.get("system_prompt") or "")
    )
    return Parsed(messages)
