"""Encoded rows in a folder of plain arrays: written once from front to back, then read row by row from the disk.

A folder is whole or not there: it is written under another name, with each file's size and checksum in `meta.json`
last. Knows nothing of settings: what a folder was made from is a key that others give it and compare.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from tunesmith.conversation import Origin
from tunesmith.data.intake import Rejected
from tunesmith.tokens.answer import Answer, Encoded
from tunesmith.tokens.pack import ANSWER_COLUMNS, NAMED, ROW_COLUMNS, STARTS, USABLE, Chunk

META, REJECTED = "meta.json", "rejected.jsonl"
LIMIT = 20 * 2**30  # bytes that all folders in one place may take
BLOCK = 1 << 20
KINDS = {f"row.{name}": kind for name, kind in (ROW_COLUMNS | dict.fromkeys(STARTS, "u8")).items()}
KINDS |= {f"answer.{name}": kind for name, kind in ANSWER_COLUMNS.items()} | {"tokens": "u4", "factors": "f8"}


class Writer:
    """Takes chunks in order and appends them to the files of a folder that nobody else sees until `close`."""

    def __init__(self, folder: Path) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._folder, self._partial = folder, Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
        self._files: dict[str, IO[bytes]] = {}
        self._sums: dict[str, list[int]] = {}  # of each file: bytes, checksum
        for name in [*KINDS, REJECTED]:
            self._files[name], self._sums[name] = (self._partial / name).open("wb"), [0, 0]
        self._names: dict[str, dict[str, int]] = {name: {} for name in (*NAMED, "file")}
        self._meta: dict[str, None] = {}
        self._counts = {"rows": 0, "answers": 0, "tokens": 0, "factors": 0}
        self.seen: Counter[str] = Counter()

    @property
    def rows(self) -> int:
        return self._counts["rows"]

    def add(self, chunk: Chunk) -> None:
        counts, rows = self._counts, dict(chunk.rows)
        for name, kind in zip(STARTS, ("answers", "tokens", "factors"), strict=True):
            rows[name] = rows[name] + np.uint64(counts[kind])
        for column, names in (chunk.names | {"file": chunk.files}).items():
            known = self._names[column]
            numbers = np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int32)
            rows[column] = numbers[rows[column]]
        for name, array in rows.items():
            self._append(f"row.{name}", array)
        for name, array in chunk.answers.items():
            self._append(f"answer.{name}", array)
        self._append("tokens", chunk.tokens)
        self._append("factors", chunk.factors)
        for rejected in chunk.rejected:
            self._write(REJECTED, (json.dumps(rejected.as_dict()) + "\n").encode())
        sizes = (len(rows["line"]), len(chunk.answers["turn"]), len(chunk.tokens), len(chunk.factors))
        self._counts = {name: counts[name] + size for name, size in zip(counts, sizes, strict=True)}
        self._meta |= dict.fromkeys(chunk.meta)
        self.seen += chunk.seen

    def _append(self, name: str, array: npt.NDArray) -> None:
        self._write(name, array.astype(np.dtype(KINDS[name].removeprefix("2"))).tobytes())

    def _write(self, name: str, data: bytes) -> None:
        self._files[name].write(data)
        sums = self._sums[name]
        sums[0], sums[1] = sums[0] + len(data), zlib.crc32(data, sums[1])

    def close(self, key: dict[str, Any], told: dict[str, Any]) -> Store:
        """Makes the folder appear, in place of an older one. `key`: what it was made from; `told`: what to keep."""
        for file in self._files.values():
            file.close()
        names = {name: list(known) for name, known in self._names.items()}
        meta = {"key": key, "told": told, "names": names, "meta": list(self._meta), "sums": self._sums}
        (self._partial / META).write_text(json.dumps(meta), encoding="utf-8")
        shutil.rmtree(self._folder, ignore_errors=True)
        os.replace(self._partial, self._folder)
        return Store(self._folder)

    def abandon(self) -> None:
        """Leaves nothing behind."""
        for file in self._files.values():
            file.close()
        shutil.rmtree(self._partial, ignore_errors=True)


class Store:
    """The rows of a folder, by their numbers in the input. Columns are read whole, tokens where they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        self.key: dict[str, Any] = meta["key"]
        self.told: dict[str, Any] = meta["told"]
        self.names: dict[str, list[str]] = meta["names"]
        self.meta: list[str] = meta["meta"]
        self._sums: dict[str, list[int]] = meta["sums"]

    def __len__(self) -> int:
        return self._sums["row.state"][0]

    def whole(self) -> bool:
        """Whether every file is what was written."""
        return all(_sums(self.folder / name) == sums for name, sums in self._sums.items())

    def column(self, name: str) -> npt.NDArray:
        """A number for each row; for `print` two."""
        kind = KINDS[f"row.{name}"]
        found = np.fromfile(self.folder / f"row.{name}", dtype=kind.removeprefix("2"))
        return found.reshape(-1, 2) if kind.startswith("2") else found

    def lengths(self, rows: npt.NDArray) -> npt.NDArray[np.int64]:
        """Tokens of each answer of these rows, context included."""
        first, count = (self._mapped[f"row.{name}"][rows].astype(np.int64) for name in ("first_answer", "answers"))
        places = np.repeat(first - np.cumsum(count) + count, count) + np.arange(count.sum())
        return self._mapped["answer.context"][places].astype(np.int64) + self._mapped["answer.answer"][places]

    def encoded(self, row: int) -> Encoded:
        """The row's answers, as they were encoded; none where it can't be trained."""
        columns = self._mapped
        if columns["row.state"][row] != USABLE:
            return Encoded()
        first, token, factor = (int(columns[f"row.{name}"][row]) for name in STARTS)
        answers: list[Answer] = []
        before: list[int] = []
        for i in range(first, first + int(columns["row.answers"][row])):
            turn, left_out, shared, context, length = (
                int(columns[f"answer.{name}"][i]) for name in ("turn", "left_out", "shared", "context", "answer")
            )
            new = context + length - shared
            ids = before[:shared] + columns["tokens"][token : token + new].tolist()
            token += new
            weights = [float(columns["answer.weight"][i])] * length
            if not columns["answer.even"][i]:
                weights = columns["factors"][factor : factor + length].tolist()
                factor += length
            answers.append(Answer(turn, ids[:context], ids[context:], weights, left_out))
            before = ids
        return Encoded(tuple(answers), int(columns["row.dropped"][row]))

    def place(self, row: int) -> Origin:
        """Where the row stands in the files."""
        return Origin(self.names["file"][self._mapped["row.file"][row]], int(self._mapped["row.line"][row]))

    def rejected(self) -> Iterator[Rejected]:
        """Rows that can't be trained, in order, with their reasons."""
        with (self.folder / REJECTED).open(encoding="utf-8") as file:
            for line in file:
                found = json.loads(line)
                origin = Origin(found.pop("file"), found.pop("line"))
                yield Rejected(origin, found.pop("row"), **found)

    @cached_property
    def _mapped(self) -> dict[str, npt.NDArray]:
        return {name: self._map(name, kind) for name, kind in KINDS.items()}

    def _map(self, name: str, kind: str) -> npt.NDArray:
        dtype = np.dtype(kind.removeprefix("2"))
        empty = not self._sums[name][0]  # nothing can't be mapped
        return np.empty(0, dtype) if empty else np.memmap(self.folder / name, dtype=dtype, mode="r")


def _sums(path: Path) -> list[int] | None:
    size = crc = 0
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                size, crc = size + len(block), zlib.crc32(block, crc)
    except OSError:
        return None
    return [size, crc]


def stores(root: Path) -> list[Store]:
    """What lies in a place, the last used first; what can't be read is left out."""
    found = []
    for meta in root.glob(f"*/{META}"):
        try:
            found.append((meta.stat().st_mtime, Store(meta.parent)))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return [store for _used, store in sorted(found, key=lambda each: -each[0])]


def used(store: Store) -> None:
    """Notes that a folder is in use."""
    os.utime(store.folder / META)


def make_room(root: Path, limit: int = LIMIT) -> None:
    """Removes what was not used for longest, until all of it takes no more than `limit` bytes; the newest stays."""
    total = 0
    for i, store in enumerate(stores(root)):
        total += sum(file.stat().st_size for file in store.folder.iterdir())
        if i and total > limit:
            shutil.rmtree(store.folder, ignore_errors=True)
