"""Files to conversations, and where every row went: accepted, a duplicate, or rejected with a reason.

Knows nothing of templates and tokens: whether a conversation is too long is decided later.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.conversation import Conversation, Origin
from tunesmith.data import fields, formats, weights
from tunesmith.data.detect import SYSTEMS, Parse, choose
from tunesmith.data.formats import with_system
from tunesmith.data.read import Reading, read
from tunesmith.data.row import EXCERPT, BadRow, Row, RowError
from tunesmith.errors import DataError
from tunesmith.i18n import _

if TYPE_CHECKING:
    from tunesmith.config.schema import DataSection

TOOLS = ("tools", "functions")
ALL = "{column}_all"  # beside a column that has several values in a row: all of them


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that is not trained. `index` is the 0-based input row; `code` is for programs, `reason` for people."""

    origin: Origin
    index: int
    code: str
    reason: str
    excerpt: str

    def as_dict(self) -> dict[str, Any]:
        """In JSON's types, as the list of rejected rows has it."""
        return {
            "file": self.origin.file,
            "line": self.origin.line,
            "row": self.index,
            "code": self.code,
            "reason": self.reason,
            "excerpt": self.excerpt,
        }


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A conversation that was left out because the row `first` says the same."""

    conversation: Conversation
    first: Origin | None


@dataclass(slots=True)
class Dataset:
    """All rows of the input, each in exactly one of the three lists."""

    conversations: list[Conversation] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    duplicates: list[Duplicate] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    encodings: dict[str, str] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)
    format: str = ""
    rows: int = 0

    def ledger(self) -> dict[str, int]:
        """Totals; accepted, duplicates and rejected add up to rows."""
        return {
            "rows": self.rows,
            "accepted": len(self.conversations),
            "duplicates": len(self.duplicates),
            "rejected": len(self.rejected),
        }

    def write_rejected(self, path: Path) -> None:
        """One JSON object a line: file, line, code, reason and how the row begins."""
        with path.open("w", encoding="utf-8") as out:
            for rejected in self.rejected:
                # Half characters, which UTF-8 can't hold, may be the reason for which the row is here.
                text = json.dumps(rejected.as_dict(), ensure_ascii=False)
                out.write(text.encode("utf-8", "replace").decode() + "\n")


def load(paths: Path | Sequence[Path], section: DataSection) -> Dataset:
    """Every row of the files. Raises DataError for unreadable files, unknown formats and files without rows."""
    return recognise(read(paths), section, str(paths) if isinstance(paths, str | Path) else ", ".join(map(str, paths)))


def recognise(reading: Reading, section: DataSection, place: str) -> Dataset:
    """The same for rows that have been read; row `index` of the data set is `reading.rows[index]`."""
    if not reading.rows:
        raise DataError(_("There are no rows."), place)
    good = [row.value for row in reading.rows if isinstance(row, Row)]
    columns = list(dict.fromkeys(column for row in good for column in row))
    dataset = Dataset(notices=reading.notices, encodings=reading.encodings, columns=columns, rows=len(reading.rows))
    # Where no row could be read there is nothing to recognise, but still a list of what is wrong.
    dataset.format, parse = choose(good, section, place) if good else ("", formats.get("messages").parse)
    _sort(reading.rows, parse, dataset, section)
    dataset.conversations, weighed = weights.apply(section.weights, dataset.conversations)
    dataset.notices += weighed
    _remark(dataset)
    _remark_several(dataset, section)
    return dataset


def inspect(path: Path | Sequence[Path], section: DataSection) -> dict[str, Any]:
    """What is in the data, in JSON's types. Duplicates count as accepted here, and are given beside."""
    return summary(load(path, section))


def summary(dataset: Dataset) -> dict[str, Any]:
    """The same of a data set that is there."""
    conversations = dataset.conversations + [duplicate.conversation for duplicate in dataset.duplicates]
    roles = Counter(message.role for conversation in conversations for message in conversation.messages)
    turns = [len(conversation.messages) for conversation in conversations]
    answers = [message for c in conversations for message in c.messages if message.role == "assistant"]
    return {
        "rows": dataset.rows,
        "accepted": len(conversations),
        "rejected": len(dataset.rejected),
        "duplicates": len(dataset.duplicates),
        "format": dataset.format,
        "columns": dataset.columns,
        "roles": dict(roles),
        "turns": {"min": min(turns), "mean": round(sum(turns) / len(turns), 2), "max": max(turns)} if turns else {},
        "thinking": sum(message.reasoning is not None for message in answers),
        "tools": sum(bool(conversation.tools) for conversation in conversations),
        "tool_calls": sum(len(message.tool_calls) for message in answers),
        "weighted": sum(message.weight is not None for message in answers),
        "encoding": ", ".join(sorted(set(dataset.encodings.values()))),
        "notices": dataset.notices,
        "rejected_rows": [rejected.as_dict() for rejected in dataset.rejected[:20]],
    }


def _sort(rows: Sequence[Row | BadRow], parse: Parse, dataset: Dataset, section: DataSection) -> None:
    """Put every row into one of the data set's lists."""
    first: dict[bytes, Origin] = {}
    for index, row in enumerate(rows):
        if isinstance(row, BadRow):
            dataset.rejected.append(Rejected(row.origin, index, row.code, row.reason, row.excerpt))
            continue
        try:
            conversation = conversation_of(row, index, parse, (section.stratify_by, section.split_by))
        except RowError as error:
            excerpt = json.dumps(row.value, ensure_ascii=False, default=str)[:EXCERPT]
            reason = _("{reason} (format: {format})").format(reason=error.reason, format=dataset.format)
            dataset.rejected.append(Rejected(row.origin, index, error.code, reason, excerpt))
            continue
        content = repr((conversation.messages, conversation.tools)).encode()
        seen = first.setdefault(blake2b(content, digest_size=16).digest(), row.origin)
        if seen is not row.origin and section.drop_duplicates:
            dataset.duplicates.append(Duplicate(conversation, seen))
        else:
            dataset.conversations.append(conversation)


def conversation_of(row: Row, index: int, parse: Parse, named: Sequence[str | None] = ()) -> Conversation:
    """What the row says; the columns `named` are in its `meta`, wherever in the row they stand.

    Raises RowError for a row that can't be read or has nothing to train.
    """
    parsed = parse(row.value)
    claimed = set(parsed.claimed)
    messages = with_system(parsed.messages, system_of(row.value, claimed))
    tools = tuple(parsed.tools) or tools_of(row.value, claimed)
    weight = parsed.weight * weights.of_row(row.value, claimed)
    meta = {column: value for column, value in row.value.items() if column not in claimed} | parsed.meta
    for column in filter(None, named):
        meta |= _named(row.value, column)
    conversation = Conversation(tuple(messages), tools, meta, row.origin, index, weight)
    _check(conversation)
    return conversation


def _named(row: dict[str, Any], column: str) -> dict[str, Any]:
    """The value that groups the row, and where there are several, all of them beside it."""
    values = fields.column(row, column)
    several = {ALL.format(column=column): values} if len(values) > 1 else {}
    return {column: values[0], **several} if values else {}


def system_of(row: dict[str, Any], claimed: set[str]) -> str:
    """The system prompt of a column beside the messages; claims the column."""
    columns = [name for name in SYSTEMS if name not in claimed and isinstance(row.get(name), str)]
    claimed.update(columns)
    found = {row[name] for name in columns if row[name].strip()}
    if len(found) > 1:
        raise RowError("two_systems", _("The row has two system prompts that differ."))
    return found.pop() if found else ""


def tools_of(row: dict[str, Any], claimed: set[str]) -> tuple[dict[str, Any], ...]:
    """The tools of a column, a list or its JSON text, each as an API declares a function; claims the column."""
    for name in TOOLS:
        value = None if name in claimed else row.get(name)
        if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise RowError("tools", _("{place} is not JSON: {why}.").format(place=name, why=error)) from error
        if isinstance(value, dict):
            value = [value]
        if isinstance(value, list) and all(isinstance(tool, dict) for tool in value):
            claimed.add(name)
            if value:
                return tuple(map(_declared, value))
    return ()


def _declared(tool: dict[str, Any]) -> dict[str, Any]:
    bare = "name" in tool and "function" not in tool
    return {"type": "function", "function": tool} if bare else tool


def _check(conversation: Conversation) -> None:
    """Raise RowError for a conversation that has nothing to train."""
    answers = [message for message in conversation.messages if message.role == "assistant"]
    if not answers:
        raise RowError("no_answer", _("The row has no message of the assistant."))
    started = False
    for i, message in enumerate(conversation.messages):
        started = started or message.role in ("user", "tool")
        if started and message.loss_weight > 0 and message.empty:
            raise RowError("empty_answer", _("The answer in message {i} is empty.").format(i=i))
    if not conversation.trained_turns():
        raise RowError("nothing_trained", _("No answer follows a question and has a weight above 0."))


def _remark(dataset: Dataset) -> None:
    """Notices on the conversations as a whole."""
    messages = [message for conversation in dataset.conversations for message in conversation.messages]
    weighted = sum(message.role != "assistant" and (message.weight or 0) > 0 for message in messages)
    if weighted:
        text = _("Messages that are not answers and carry a weight: {n}. Only answers are trained.")
        dataset.notices.append(text.format(n=weighted))
    numbers = sum(isinstance(c.meta.get("weight"), int | float) for c in dataset.conversations)
    if numbers * 2 > len(dataset.conversations):
        dataset.notices.append(_("A column weight changes no loss; call it loss_weight if it is meant to."))
    opening = sum(
        next((message.role for message in c.messages if message.role != "system"), "") == "assistant"
        for c in dataset.conversations
    )
    if opening:
        text = _("Conversations that open with the assistant: {n}. That message is context and is not trained.")
        dataset.notices.append(text.format(n=opening))
    if dataset.duplicates:
        text = _("Rows that repeat an earlier one and were left out: {n} (data.drop_duplicates).")
        dataset.notices.append(text.format(n=len(dataset.duplicates)))


def _remark_several(dataset: Dataset, section: DataSection) -> None:
    """Say which rows have several values of a column that groups them."""
    for column in filter(None, dict.fromkeys((section.stratify_by, section.split_by))):
        beside = ALL.format(column=column)
        several = sum(isinstance(c.meta.get(beside), list) for c in dataset.conversations)
        if several:
            text = _("Rows with several values of {column}: {n}. The first groups a row; all are kept in {beside}.")
            dataset.notices.append(text.format(column=column, n=several, beside=beside))
