"""Rows that ask for an answer: every shape of training rows, and bare prompts, one conversation each, in order.

Nothing is left out here: a row that can't be read keeps its place, with the reason.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.conversation import Conversation, Message, Origin
from tunesmith.data import fields, formats
from tunesmith.data.detect import choose
from tunesmith.data.formats import Parsed, alpaca_response, with_system
from tunesmith.data.formats.messages import has_turns, turns
from tunesmith.data.intake import system_of, tools_of
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
    reference: Message | None = None
    error: str | None = None


def read_prompts(path: Path, section: DataSection) -> tuple[list[Prompt], list[str]]:
    """(rows, notices). Raises DataError for files that can't be read or hold no rows."""
    reading = read(path)
    if not reading.rows:
        raise DataError(_("There are no rows."), str(path))
    texts = _texts(path) if all(getattr(row, "code", "") == "not_object" for row in reading.rows) else []
    if len(texts) == len(reading.rows):
        rows = [Row({"prompt": text}, row.origin) for text, row in zip(texts, reading.rows, strict=True)]
        return [_prompt(row, index, section) for index, row in enumerate(rows)], reading.notices
    prompts = [
        _prompt(row, index, section)
        if isinstance(row, Row)
        else Prompt({"excerpt": row.excerpt}, None, error=_at(row.origin, row.reason))
        for index, row in enumerate(reading.rows)
    ]
    return prompts, reading.notices


def _texts(path: Path) -> list[str]:
    """The prompts of a file that holds nothing but texts: a JSON list of them, or one a line. Empty if it does not."""
    content = path.read_bytes()
    try:
        found = json.loads(content)
    except ValueError:
        try:
            found = [json.loads(line) for line in content.splitlines() if line.strip()]
        except ValueError:
            return []
    found = found if isinstance(found, list) else [found]
    return found if all(isinstance(text, str) for text in found) else []


def _prompt(row: Row, index: int, section: DataSection) -> Prompt:
    try:
        parsed = _parse(row.value, section, str(row.origin))
        claimed = set(parsed.claimed)
        messages = list(with_system(parsed.messages, system_of(row.value, claimed)))
        tools = tuple(parsed.tools) or tools_of(row.value, claimed)
    except (RowError, DataError) as error:
        return Prompt(row.value, None, error=_at(row.origin, str(error)))
    last = messages.pop() if messages and messages[-1].role == "assistant" else None
    reference = None if last is None or last.empty else last
    if not any(message.role == "user" and not message.empty for message in messages):
        return Prompt(row.value, None, reference, _at(row.origin, _("There is no question in it.")))
    meta = {column: value for column, value in row.value.items() if column not in claimed} | parsed.meta
    return Prompt(row.value, Conversation(tuple(messages), tools, meta, row.origin, index), reference)


def _at(origin: Origin, reason: str) -> str:
    return f"{origin}  {reason}"


def _parse(row: dict[str, Any], section: DataSection, place: str) -> Parsed:
    """By the settings if they fit the row, else by the format that recognises it, else as a bare prompt."""
    refused = None
    if section.format or section.mapping or section.prompt_template:
        try:
            return _by_settings(row, section, place)
        except RowError as error:
            refused = error
    known = next((name for name in formats.names() if formats.get(name).detect(row)), None)
    if known:
        return formats.get(known).parse(row)
    if has_turns(row.get("prompt")):
        return Parsed(turns(row["prompt"], "prompt"), claimed={"prompt"})
    texts = {name: row[name] for name in BARE if isinstance(row.get(name), str) and row[name].strip()}
    if not texts:
        raise refused or RowError(
            "no_prompt", _("No column of it is a question: {names}.").format(names=", ".join(BARE))
        )
    if "instruction" in texts:  # joined as training joins them
        used = [name for name in ("instruction", *alpaca_response.INPUTS) if str(row.get(name) or "").strip()]
        return Parsed((Message("user", "\n".join(str(row[name]) for name in used)),), claimed=set(used))
    column, text = next(iter(texts.items()))
    return Parsed((Message("user", text),), claimed={column})


def _by_settings(row: dict[str, Any], section: DataSection, place: str) -> Parsed:
    """As for training; with templates, a row needs no fields for the answer."""
    try:
        return choose([row], section, place)[1](row)
    except RowError:
        if not section.prompt_template:
            raise
        return Parsed((Message("user", fields.fill(section.prompt_template, row)[0]),))
