"""The rows of a configuration: its data files encoded, repeated rows left out, split by purpose.

Knows no model. What is said about the rows, and whether they are good enough to train, is decided in prepare.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
import numpy.typing as npt

from tunesmith.actions.encoding import Source, file_sha256
from tunesmith.actions.findings import Findings
from tunesmith.actions.voice import Voice
from tunesmith.conversation import Conversation
from tunesmith.data.dataset import repeated
from tunesmith.data.intake import Rejected
from tunesmith.data.read import data_in
from tunesmith.data.split import Column, Traits, hold_back, no_column
from tunesmith.errors import ConfigError
from tunesmith.i18n import _
from tunesmith.tokens.answer import Encoded
from tunesmith.tokens.cache import Store
from tunesmith.tokens.encode import Encoder
from tunesmith.tokens.pack import REFUSED, UNREADABLE, USABLE

if TYPE_CHECKING:
    from tunesmith.config.schema import Config, DataSection

Ints = npt.NDArray[np.int64]
BLOCK = 1 << 16  # rows
T = TypeVar("T")


class Lazy(Sequence[T]):
    """Values that are made when they are asked for."""

    def __init__(self, make: Callable[[int], T], keys: Ints) -> None:
        self._make, self._keys = make, keys

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, i: int) -> T: ...
    @overload
    def __getitem__(self, i: slice) -> Lazy[T]: ...
    def __getitem__(self, i: int | slice) -> T | Lazy[T]:
        return Lazy(self._make, self._keys[i]) if isinstance(i, slice) else self._make(int(self._keys[i]))


@dataclass(frozen=True, eq=False)
class Part:
    """The rows of one purpose (train, validation, test) by their numbers in a source; `refused` did not fit."""

    source: Source
    rows: Ints
    refused: Ints

    @classmethod
    def of(cls, source: Source, rows: Ints) -> Part:
        state = source.store.column("state")[rows]
        return cls(source, rows[state == USABLE], rows[state == REFUSED])

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def store(self) -> Store:
        return self.source.store

    @property
    def encoded(self) -> Sequence[Encoded]:
        """The answers of each row, read when they are asked for."""
        return Lazy(self.store.encoded, self.rows)

    def conversations(self) -> Iterator[Conversation]:
        """The rows as they were read, from the files."""
        return self.source.conversations(self.rows)

    @property
    def sizes(self) -> Ints:
        """Tokens of each row: of all its answers with their contexts."""
        return self.store.column("tokens")[self.rows].astype(np.int64)

    def _sum(self, column: str) -> int:
        return int(self.store.column(column)[self.rows].sum(dtype=np.int64))

    @property
    def answers(self) -> int:
        return self._sum("answers")

    @property
    def dropped(self) -> int:
        return self._sum("dropped")

    @property
    def tokens(self) -> int:
        """Tokens of all answers with their contexts, as if each were computed on its own."""
        return self._sum("tokens")

    @property
    def trained_tokens(self) -> int:
        return self._sum("trained")

    @property
    def longest(self) -> int:
        return int(self.store.column("longest")[self.rows].max(initial=0))

    def longer_than(self, limit: int) -> int:
        """Answers that have more tokens, context included."""
        return int((self.store.lengths(self.rows) > limit).sum())

    def systems(self, most: int) -> list[str]:
        """The system prompts under which the rows are trained, the most frequent first; an empty one is none."""
        counts = np.bincount(self.store.column("system")[self.rows])
        order = np.argsort(-counts, kind="stable")[:most]
        return [self.store.names["system"][i] for i in order if counts[i]]

    def ledger(self) -> dict[str, int]:
        return {
            "rows": len(self),
            "answers": self.answers,
            "trimmed_answers": self._sum("trimmed"),
            "dropped_answers": self.dropped,
            "tokens": self.tokens,
            "trained_tokens": self.trained_tokens,
            "longest": self.longest,
        }


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of all data files by purpose. `source` is what the training files hold, `files` what the others do.

    `repeats` are each source's rows that repeat an earlier one and are left out."""

    source: Source
    parts: dict[str, Part]
    files: dict[str, Source]
    repeats: dict[Source, Ints]
    notices: list[str]

    def rejected(self, only: Source | None = None) -> Iterator[Rejected]:
        """Every row that can't be trained, source by source."""
        for source, repeats in sorted(self.repeats.items(), key=lambda each: str(each[0].files.found[0])):
            if only not in (None, source):
                continue
            left_out = np.zeros(len(source.store), dtype=bool)
            left_out[repeats] = True
            yield from (row for row in source.store.rejected() if not left_out[row.index])

    def counts(self, source: Source) -> dict[str, int]:
        """Where the rows of a source went; accepted, duplicates and rejected add up to rows."""
        repeats, rows = len(self.repeats[source]), len(source.store)
        accepted = sum(len(part) for part in self.parts.values() if part.source is source)
        return {"rows": rows, "accepted": accepted, "duplicates": repeats, "rejected": rows - accepted - repeats}


def open_sources(config: Config, encoder: Encoder | None, voice: Voice) -> dict[str, Source]:
    """The data files that the settings name. Raises DataError, ConfigError."""
    section = config.data
    if section.train is None:
        raise ConfigError(_("There is no training data. Name a file: tunesmith train DATA, or data.train in YAML."))
    findings, sources = Findings(), {}
    for name in ("train", "validation", "test"):
        paths = getattr(section, name)
        if paths:
            with findings:
                sources[name] = Source(paths, config, encoder, voice)
    findings.raise_all()
    return sources


def read_rows(config: Config, sources: dict[str, Source], voice: Voice) -> Rows:
    """Their rows, encoded and split as the settings say. Raises DataError, TemplateError."""
    section = config.data
    for source in sources.values():
        source.encode(voice)
    repeats = {source: _repeats(source.store, section) for source in sources.values()}
    every = {name: _alive(source.store, repeats[source]) for name, source in sources.items()}
    source = sources["train"]
    divided, notices = _split(every["train"], source.store, section, config.training.seed)
    parts = {name: Part.of(source, rows) for name, rows in divided.items()}
    files = {name: found for name, found in sources.items() if name != "train"}
    parts |= {name: Part.of(found, every[name]) for name, found in files.items()}
    said = [n for found in sources.values() for n in [*found.store.told["notices"], *repeated(len(repeats[found]))]]
    return Rows(source, parts, files, repeats, [*said, *notices])


def _repeats(store: Store, section: DataSection) -> Ints:
    """Rows that say what an earlier one says. Takes 16 bytes a row, which is why the rest of a print is read late."""
    if not section.drop_duplicates:
        return np.empty(0, dtype=np.int64)
    alive, prints = store.column("state") != UNREADABLE, store.column("print")
    ordered = prints[alive]
    ordered.sort()
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    blocks = [slice(start, start + BLOCK) for start in range(0, len(prints) if len(twice) else 0, BLOCK)]
    found = [block.start + np.flatnonzero(alive[block] & np.isin(prints[block], twice)) for block in blocks]
    some = np.concatenate([np.empty(0, dtype=np.int64), *found])
    whole = np.stack([prints[some], store.column("print_end")[some]], axis=1)
    _kinds, first = np.unique(whole, axis=0, return_index=True)
    return np.delete(some, first)


def _alive(store: Store, repeats: Ints) -> Ints:
    """Rows that were read and repeat none."""
    alive = store.column("state") != UNREADABLE
    alive[repeats] = False
    return np.flatnonzero(alive)


def _split(rows: Ints, store: Store, section: DataSection, seed: int) -> tuple[dict[str, Ints], list[str]]:
    """Rows by purpose, and what the user should know."""
    notices: list[str] = []
    held = {"test": rows[:0], "validation": rows[:0]}
    left = 1.0
    for name in held:
        ratio = getattr(section, f"{name}_ratio")
        if ratio:
            out, said = hold_back(
                _traits(rows, store, section),
                ratio / left,
                stratify_by=section.stratify_by,
                split_pattern=section.split_pattern,
                # What a class has left after the test rows is trained, never only validated.
                singletons=section.singletons if name == "test" else "train",
                seed=seed,
            )
            rows, held[name] = rows[~out], rows[out]
            notices += said
            left -= ratio
    return {"train": rows, **held}, notices


def _traits(rows: Ints, store: Store, section: DataSection) -> Traits:
    columns: dict[str, Any] = {}
    for name, kind in (("stratify_by", "class"), ("split_by", "group")):
        column = getattr(section, name)
        if column and column not in store.meta:
            raise no_column(column, store.meta, f"data.{name}")
        columns[kind] = Column(store.column(kind)[rows], store.names[kind]) if column else None
    return Traits(store.column("prompt")[rows], columns["class"], columns["group"])


def data_files(section: DataSection) -> list[Path]:
    """Every data file or folder that the settings name; the training files first."""
    train = section.train if isinstance(section.train, list) else [section.train]
    return [path for path in (*train, section.validation, section.test) if path]


def digest(paths: Sequence[Path]) -> str:
    """sha256 over the bytes of the data files, in order; folders by the data files in them."""
    total = hashlib.sha256()
    for path in paths:
        for file in data_in(path):
            total.update(bytes.fromhex(file_sha256(file)))
    return total.hexdigest()
