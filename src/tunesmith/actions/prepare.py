"""From settings to rows that are ready: tokenizer and template, data read and split, every answer encoded.

What `check`, `preview`, `train` and `eval` have in common. Loads no torch, unless the model is a GGUF file.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.actions.voice import Voice
from tunesmith.conversation import Conversation
from tunesmith.data import dataset
from tunesmith.data.dataset import Dataset, Rejected
from tunesmith.data.split import split
from tunesmith.errors import ConfigError, DataError, ModelError, Problem
from tunesmith.i18n import _
from tunesmith.tokens.answer import Encoded
from tunesmith.tokens.encode import Encoder

if TYPE_CHECKING:
    from tunesmith.config.schema import Config, DataSection, ModelSection, TemplateSection

TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "chat_template*", "config.json", "generation_config.json")
SHOWN = 5  # rejected rows that an error names


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
        return sum(len(a.answer_ids) for e in self.encoded for a in e.answers)

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
class Prepared:
    """All that training and evaluation need of the data. `ledger` adds up to the rows of the files."""

    encoder: Encoder
    source: Dataset
    train: Part
    validation: Part
    test: Part
    ledger: dict[str, Any]
    notices: list[str]
    data_sha256: str


def prepare(config: Config, voice: Voice) -> Prepared:
    """Everything about data, template and labels, or all that is wrong with them. Raises ConfigError, DataError, ..."""
    encoder = make_encoder(config.model, config.template)
    section = config.data
    if section.train is None:
        raise ConfigError(_("There is no training data. Name a file: tunesmith train DATA, or data.train in YAML."))
    paths = section.train if isinstance(section.train, list) else [section.train]
    source = dataset.load(paths, section)
    train, validation, test, notices = _split(source.conversations, section, config.training.seed)
    parts = {"train": Part(train), "validation": Part(validation), "test": Part(test)}
    others = {name: getattr(section, name) for name in ("validation", "test")}
    loaded = {name: dataset.load(path, section) for name, path in others.items() if path}
    for name, found in loaded.items():
        parts[name] = Part(found.conversations, rejected=list(found.rejected))
        notices += found.notices
    total = sum(len(part.conversations) for part in parts.values())
    with voice.progress(_("Encoding")) as advance:
        done = 0
        for part in parts.values():
            for _row in _encode(part, encoder, section):
                done += 1
                advance(done, total, "")
    _refuse_losses(source, parts, section)
    ledger = _ledger(source, parts, loaded)
    if not parts["train"].answers:
        raise DataError(_("Not one answer is left to train."), place=str(paths[0]))
    files = [*paths, *(p for p in others.values() if p)]
    return Prepared(
        encoder, source, **parts, ledger=ledger, notices=source.notices + notices, data_sha256=digest(files)
    )


def make_encoder(model: ModelSection, template: TemplateSection, text: str | None = None) -> Encoder:
    name = model.tokenizer or model.name_or_path
    if not name:
        raise ConfigError(_("There is no model. Name one: --model NAME, or model.name_or_path in YAML."))
    return Encoder.load(tokenizer_folder(name), template, text)


def tokenizer_folder(name: str) -> Path:
    """The folder with the tokenizer of a model: itself, a converted GGUF file, or what the hub sends."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        from tunesmith.model.load import gguf_folder

        return gguf_folder(path)
    from huggingface_hub import snapshot_download

    for offline in (True, False):
        try:
            found = Path(snapshot_download(name, allow_patterns=list(TOKENIZER_FILES), local_files_only=offline))
        except (OSError, ValueError):
            continue
        if (found / "tokenizer.json").is_file():
            return found
    raise ModelError(_("is neither a folder or file here nor a model that the hub sends."), place=name)


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
            part = split(rows, ratio / left, stratify_by=section.stratify_by, split_by=section.split_by, seed=seed)
            rows, held[name] = part.train, part.held
            notices += part.notices
            left -= ratio
    return rows, held["validation"], held["test"], notices


def _encode(part: Part, encoder: Encoder, section: DataSection) -> Iterator[None]:
    """Fills in the answers, row by row; rows that can't be used leave the part for its rejected ones."""
    kept = []
    for conversation in part.conversations:
        encoded = encoder.encode(conversation, section.max_length, section.overflow)
        code, reason = encoded.error or ("", "")
        if not code and not encoded.answers:
            code, reason = _nothing_left(encoded, section)
        if code:
            part.rejected.append(_rejected(conversation, code, reason))
        else:
            kept.append(conversation)
            part.encoded.append(encoded)
        yield
    part.conversations = kept


def _nothing_left(encoded: Encoded, section: DataSection) -> tuple[str, str]:
    if encoded.dropped:
        reason = _("The answer and its question are longer than data.max_length ({n} tokens).")
        return "too_long", reason.format(n=section.max_length)
    return "no_trained_answer", _("No answer in it has a weight above 0.")


def _rejected(conversation: Conversation, code: str, reason: str) -> Rejected:
    assert conversation.origin is not None
    first = conversation.messages[0].content if conversation.messages else ""
    return Rejected(conversation.origin, conversation.index, code, reason, first[:80])


def _refuse_losses(source: Dataset, parts: dict[str, Part], section: DataSection) -> None:
    """Stops where more rows are lost than the settings allow, naming the first of them."""
    lost = source.rejected + [r for part in parts.values() for r in part.rejected]
    share = len(lost) / max(1, source.rows)
    cut = [r for r in lost if r.code == "too_long"]
    if section.overflow == "error" and cut:
        raise DataError([Problem(str(r.origin), r.reason) for r in cut])
    if not lost or share <= section.max_dropped:
        return
    kinds = Counter(r.code for r in lost)
    said = [Problem(str(r.origin), r.reason) for r in lost[:SHOWN]]
    summary = _(
        "{n} of {rows} rows ({share:.0%}) can't be trained: {kinds}. Mend them, or allow it with"
        " data.max_dropped={share:.2f}."
    )
    allowed = summary.format(
        n=len(lost),
        rows=source.rows,
        share=share + 0.005,
        kinds=", ".join(f"{code} {count}" for code, count in kinds.most_common()),
    )
    raise DataError([*said, Problem("", allowed)])


def _ledger(source: Dataset, parts: dict[str, Part], loaded: dict[str, Dataset]) -> dict[str, Any]:
    """Where every row of the training files went; files of their own for validation and test stand beside."""
    own = {name: part for name, part in parts.items() if name not in loaded}
    totals = {
        "rows": source.rows,
        **{name: len(part.conversations) for name, part in own.items()},
        "duplicates": len(source.duplicates),
        "rejected": len(source.rejected) + sum(len(part.rejected) for part in own.values()),
    }
    assert totals["rows"] == sum(n for name, n in totals.items() if name != "rows"), totals
    kinds = Counter(r.code for r in source.rejected) + Counter(r.code for p in own.values() for r in p.rejected)
    return {
        "totals": totals,
        "rejected": dict(kinds),
        "parts": {name: part.ledger() for name, part in parts.items() if part.conversations},
        "files": {name: found.ledger() for name, found in loaded.items()},
    }


def rejected_rows(prepared: Prepared) -> list[Rejected]:
    parts = (prepared.train, prepared.validation, prepared.test)
    return sorted(
        prepared.source.rejected + [r for part in parts for r in part.rejected],
        key=lambda r: (r.origin.file, r.origin.line),
    )


def digest(paths: Sequence[Path]) -> str:
    """sha256 over the bytes of the data files, in order; folders by their files."""
    total = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                with file.open("rb") as stream:
                    total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()
