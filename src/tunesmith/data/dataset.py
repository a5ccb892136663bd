"""Files to conversations, and where every row went: accepted, a duplicate, or rejected with a reason.

Knows nothing of templates and tokens: whether a conversation is too long is decided later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.conversation import Conversation, Origin
from tunesmith.data import formats
from tunesmith.data.detect import choose
from tunesmith.data.intake import Intake, Rejected, fingerprint
from tunesmith.data.read import Reading, read
from tunesmith.data.row import Row
from tunesmith.errors import DataError
from tunesmith.i18n import _

if TYPE_CHECKING:
    from tunesmith.config.schema import DataSection


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


def load(paths: Path | Sequence[Path], section: DataSection) -> Dataset:
    """Every row of the files. Raises DataError for unreadable files, unknown formats and files without rows."""
    return recognise(read(paths), section, str(paths) if isinstance(paths, str | Path) else ", ".join(map(str, paths)))


def recognise(reading: Reading, section: DataSection, place: str) -> Dataset:
    """The same for rows that have been read; row `index` of the data set is `reading.rows[index]`."""
    if not reading.rows:
        raise DataError(_("There are no rows."), place)
    good = [row.value for row in reading.rows if isinstance(row, Row)]
    columns = list(dict.fromkeys(column for row in good for column in row))
    # Where no row could be read there is nothing to recognise, but still a list of what is wrong.
    name, parse = choose(good, section, place) if good else ("", formats.get("messages").parse)
    dataset = Dataset(encodings=reading.encodings, columns=columns, format=name, rows=len(reading.rows))
    intake = Intake(name, parse, section)
    first: dict[bytes, Origin] = {}
    for index, row in enumerate(reading.rows):
        taken = intake.take(row, index)
        if isinstance(taken, Rejected):
            dataset.rejected.append(taken)
            continue
        seen = first.setdefault(fingerprint(taken.messages, taken.tools), row.origin)
        if seen is not row.origin and section.drop_duplicates:
            dataset.duplicates.append(Duplicate(taken, seen))
        else:
            dataset.conversations.append(taken)
    dataset.notices = [*reading.notices, *intake.notices(), *repeated(len(dataset.duplicates))]
    return dataset


def repeated(rows: int) -> list[str]:
    """What is said of rows that were left out as duplicates."""
    text = _("Rows that repeat an earlier one and were left out: {n} (data.drop_duplicates).")
    return [text.format(n=rows)] if rows else []


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
