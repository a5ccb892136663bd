"""The rows of a configuration: its data files read, split by purpose, every answer encoded, and which file they are.

Knows no model. What is said about the rows, and whether they are good enough to train, is decided in prepare.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.actions.findings import Findings
from tunesmith.conversation import Conversation
from tunesmith.data import dataset
from tunesmith.data.dataset import Dataset, Rejected
from tunesmith.data.read import SUFFIXES
from tunesmith.data.split import split
from tunesmith.errors import ConfigError
from tunesmith.i18n import _
from tunesmith.tokens.answer import Encoded
from tunesmith.tokens.encode import Encoder

if TYPE_CHECKING:
    from tunesmith.config.schema import Config, DataSection


@dataclass
class Part:
    """The rows of one purpose (train, validation, test) with their answers, and how many answers had to give way."""

    conversations: list[Conversation] = field(default_factory=list)
    encoded: list[Encoded] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    @property
    def answers(self) -> int:
        return sum(len(e.answers) for e in self.encoded)

    @property
    def tokens(self) -> int:
        """Tokens of all answers with their contexts, as if each were computed on its own."""
        return sum(len(a) for e in self.encoded for a in e.answers)

    @property
    def trained_tokens(self) -> int:
        return sum(weight > 0 for e in self.encoded for a in e.answers for weight in a.weights)

    @property
    def longest(self) -> int:
        return max((len(a) for e in self.encoded for a in e.answers), default=0)

    def ledger(self) -> dict[str, int]:
        return {
            "rows": len(self.conversations),
            "answers": self.answers,
            "trimmed_answers": sum(e.trimmed for e in self.encoded),
            "dropped_answers": sum(e.dropped for e in self.encoded),
            "tokens": self.tokens,
            "trained_tokens": self.trained_tokens,
            "longest": self.longest,
        }


@dataclass
class Rows:
    """The rows of all data files by purpose. `source` is what the training files hold, `files` what the others do."""

    source: Dataset
    parts: dict[str, Part]
    files: dict[str, Dataset]
    notices: list[str]


def read_rows(config: Config) -> Rows:
    """The rows of every data file that the settings name, split as they say. Raises DataError, ConfigError."""
    section = config.data
    if section.train is None:
        raise ConfigError(_("There is no training data. Name a file: tunesmith train DATA, or data.train in YAML."))
    findings = Findings()
    with findings:
        source = dataset.load(section.train, section)
    files = {}
    for name in ("validation", "test"):
        if getattr(section, name):
            with findings:
                files[name] = dataset.load(getattr(section, name), section)
    findings.raise_all()
    train, validation, test, notices = _split(source.conversations, section, config.training.seed)
    parts = {"train": Part(train), "validation": Part(validation), "test": Part(test)}
    for name, found in files.items():
        parts[name] = Part(found.conversations, rejected=list(found.rejected))
    return Rows(source, parts, files, [*source.notices, *(n for f in files.values() for n in f.notices), *notices])


def _split(
    rows: list[Conversation], section: DataSection, seed: int
) -> tuple[list[Conversation], list[Conversation], list[Conversation], list[str]]:
    """(train, validation, test, notices)."""
    notices: list[str] = []
    held: dict[str, list[Conversation]] = {"test": [], "validation": []}
    left = 1.0
    for name in held:
        ratio = getattr(section, f"{name}_ratio")
        if ratio:
            part = split(
                rows,
                ratio / left,
                stratify_by=section.stratify_by,
                split_by=section.split_by,
                split_pattern=section.split_pattern,
                # What a class has left after the test rows is trained, never only validated.
                singletons=section.singletons if name == "test" else "train",
                seed=seed,
            )
            rows, held[name] = part.train, part.held
            notices += part.notices
            left -= ratio
    return rows, held["validation"], held["test"], notices


def encode(part: Part, encoder: Encoder, section: DataSection) -> Iterator[None]:
    """Fills in the answers, row by row; rows that can't be used leave the part for its rejected ones."""
    kept = []
    for conversation in part.conversations:
        encoded = encoder.encode(conversation, section.max_length, section.overflow)
        code, reason = refusal(encoded, section)
        if code:
            part.rejected.append(_rejected(conversation, code, reason))
        else:
            kept.append(conversation)
            part.encoded.append(encoded)
        yield
    part.conversations = kept


def refusal(encoded: Encoded, section: DataSection) -> tuple[str, str]:
    """Code and reason why an encoded row can't be trained; empty if it can."""
    if encoded.error:
        return encoded.error
    if encoded.dropped and (section.overflow != "trim_history" or not encoded.answers):
        reason = _("The answer and its question are longer than data.max_length ({n} tokens).")
        return "too_long", reason.format(n=section.max_length)
    if encoded.answers:
        return "", ""
    return "no_trained_answer", _("No answer in it has a weight above 0.")


def _rejected(conversation: Conversation, code: str, reason: str) -> Rejected:
    assert conversation.origin is not None
    first = conversation.messages[0].content if conversation.messages else ""
    return Rejected(conversation.origin, conversation.index, code, reason, first[:80])


def data_files(section: DataSection) -> list[Path]:
    """Every data file or folder that the settings name; the training files first."""
    train = section.train if isinstance(section.train, list) else [section.train]
    return [path for path in (*train, section.validation, section.test) if path]


def digest(paths: Sequence[Path]) -> str:
    """sha256 over the bytes of the data files, in order; folders by the data files in them."""
    total = hashlib.sha256()
    for path in paths:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            if file.is_file() and file.suffix.lower() in SUFFIXES and not file.name.startswith("."):
                with file.open("rb") as stream:
                    total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()
