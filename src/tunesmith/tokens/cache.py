"""Encoded rows in a folder of plain arrays: written once from front to back, then read row by row from the disk.

A folder is whole or not there: it is written under another name, with each file's size and checksum in `meta.json`
last. Knows nothing of settings: what a folder was made from is a key that others give it and compare.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from tunesmith.conversation import Origin
from tunesmith.data.intake import Rejected
from tunesmith.errors import DataError
from tunesmith.i18n import _
from tunesmith.tokens.answer import Answer, Encoded
from tunesmith.tokens.pack import ANSWER_COLUMNS, NAMED, ROW_COLUMNS, STARTS, USABLE, Chunk

META, NAMES, REJECTED = "meta.json", "names.json", "rejected.jsonl"
PARTIAL = ".partial-"  # how the name of a folder begins that is being written
ABANDONED = 3600.0  # seconds without a change after which whoever wrote a folder is gone
LIMIT = 20 * 2**30  # bytes that all folders in one place may take
BLOCK = 1 << 20
KINDS = {f"row.{name}": kind for name, kind in (ROW_COLUMNS | dict.fromkeys(STARTS, "u8")).items()}
KINDS |= {f"answer.{name}": kind for name, kind in ANSWER_COLUMNS.items()} | {"tokens": "u4", "factors": "f8"}


class Writer:
    """Takes chunks in order and appends them to the files of a folder that nobody else sees until `close`.

    Leaving the block without that leaves nothing behind. Raises DataError where nothing more can be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._files = folder, dict[str, IO[bytes]]()
        self._sums: dict[str, list[int]] = {}  # of each file: bytes, checksum
        self._names: dict[str, dict[str, int]] = {name: {} for name in (*NAMED, "file")}
        self._meta: dict[str, None] = {}
        self._counts = {"rows": 0, "answers": 0, "tokens": 0, "factors": 0}
        self.seen: Counter[str] = Counter()

    def __enter__(self) -> Writer:
        with _writing(self._folder.parent):
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            self._partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=self._folder.parent))
            for name in (*KINDS, REJECTED):
                self._files[name], self._sums[name] = (self._partial / name).open("wb"), [0, 0]
        return self

    def __exit__(self, *_error: object) -> None:
        for file in self._files.values():
            with suppress(OSError):  # what is left to write has no room
                file.close()
        shutil.rmtree(self._partial, ignore_errors=True)

    @property
    def rows(self) -> int:
        return self._counts["rows"]

    def add(self, chunk: Chunk) -> None:
        counts, rows = self._counts, dict(chunk.rows)
        for name, kind in zip(STARTS, ("answers", "tokens", "factors"), strict=True):
            rows[name] = rows[name] + np.uint64(counts[kind])
        for column, names in chunk.names.items():
            known = self._names[column]
            numbers = np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int32)
            rows[column] = numbers[rows[column]]
        arrays = {f"row.{name}": array for name, array in rows.items()}
        arrays |= {f"answer.{name}": array for name, array in chunk.answers.items()}
        with _writing(self._folder.parent):
            for name, array in (arrays | {"tokens": chunk.tokens, "factors": chunk.factors}).items():
                self._append(name, array.astype(KINDS[name]).tobytes())
            for rejected in chunk.rejected:
                self._append(REJECTED, (json.dumps(rejected.as_dict()) + "\n").encode())
        sizes = (len(rows["line"]), len(chunk.answers["turn"]), len(chunk.tokens), len(chunk.factors))
        self._counts = {name: counts[name] + size for name, size in zip(counts, sizes, strict=True)}
        self._meta |= dict.fromkeys(chunk.meta)
        self.seen += chunk.seen

    def _append(self, name: str, data: bytes) -> None:
        self._files[name].write(data)
        sums = self._sums[name]
        sums[0], sums[1] = sums[0] + len(data), zlib.crc32(data, sums[1])

    def close(self, key: dict[str, Any], told: dict[str, Any]) -> Store:
        """Makes the folder appear, unless another process was faster: it holds the same then. `key`: what it was made
        from; `told`: what to keep."""
        with _writing(self._folder.parent):
            names = json.dumps({name: list(known) for name, known in self._names.items()}).encode()
            self._sums[NAMES] = [len(names), zlib.crc32(names)]
            (self._partial / NAMES).write_bytes(names)
            for file in self._files.values():
                file.close()
            meta = {"key": key, "told": told, "meta": list(self._meta), "sums": self._sums}
            (self._partial / META).write_text(json.dumps(meta | {"sum": _sum_of(meta)}), encoding="utf-8")
            while True:
                try:
                    os.replace(self._partial, self._folder)
                except OSError:  # a folder is there already
                    there = opened(self._folder)
                    if there and there.whole():
                        return there
                    shutil.rmtree(self._folder)
                else:
                    return Store(self._folder)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        text = _("Encoded rows can't be written here: {why}. Make room, or name another folder: data.cache=FOLDER.")
        raise DataError(text.format(why=error.strerror or error), str(folder)) from None


class Store:
    """The rows of a folder, by their numbers in the input. Columns are read whole, tokens where they are asked for."""

    def __init__(self, folder: Path) -> None:
        """Raises whatever reading JSON and looking into it can raise where the folder holds nothing to be believed."""
        self.folder = folder
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        if meta.pop("sum") != _sum_of(meta):
            raise ValueError(META)
        self.key: dict[str, Any] = meta["key"]
        self.told: dict[str, Any] = meta["told"]
        self.meta: list[str] = meta["meta"]
        self._sums: dict[str, list[int]] = meta["sums"]
        self.files: dict[str, str] = {}  # what a file is called now, where it was called otherwise

    @cached_property
    def names(self) -> dict[str, list[str]]:
        """What the numbers of a column of names stand for."""
        return json.loads((self.folder / NAMES).read_text(encoding="utf-8"))

    def __len__(self) -> int:
        return self._sums["row.state"][0]

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return sum(size for size, _crc in self._sums.values())

    def whole(self) -> bool:
        """Whether every file is what was written."""
        return all(_sums(self.folder / name) == sums for name, sums in self._sums.items())

    def column(self, name: str) -> npt.NDArray:
        """A number for each row."""
        return np.fromfile(self.folder / f"row.{name}", dtype=KINDS[f"row.{name}"])

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
        file = self.names["file"][self._mapped["row.file"][row]]
        return Origin(self.files.get(file, file), int(self._mapped["row.line"][row]))

    def rejected(self) -> Iterator[Rejected]:
        """Rows that can't be trained, in order, with their reasons."""
        with (self.folder / REJECTED).open(encoding="utf-8") as lines:
            for found in map(json.loads, lines):
                file = found.pop("file")
                origin = Origin(self.files.get(file, file), found.pop("line"))
                yield Rejected(origin, found.pop("row"), **found)

    @cached_property
    def _mapped(self) -> dict[str, npt.NDArray]:
        return {name: self._map(name) for name in KINDS}

    def _map(self, name: str) -> npt.NDArray:
        if not self._sums[name][0]:  # nothing can't be mapped
            return np.empty(0, KINDS[name])
        # The plain view: numpy's own class for mapped files takes a microsecond for each number.
        return np.asarray(np.memmap(self.folder / name, dtype=KINDS[name], mode="r"))


def _sum_of(meta: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(meta).encode())


def _sums(path: Path) -> list[int] | None:
    size = crc = 0
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                size, crc = size + len(block), zlib.crc32(block, crc)
    except OSError:
        return None
    return [size, crc]


def opened(folder: Path) -> Store | None:
    """The rows in a folder; None where there are none, or none that can be read."""
    try:
        return Store(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def stores(root: Path) -> list[Store]:
    """What lies in a place, the last used first; what can't be read is left out."""
    found = [store for meta in root.glob(f"*/{META}") if (store := opened(meta.parent))]
    return sorted(found, key=lambda store: -_changed(store.folder / META))


def used(store: Store) -> None:
    """Notes that a folder is in use."""
    with suppress(OSError):  # of somebody else, to whom it is enough that it can be read
        os.utime(store.folder / META)


def make_room(root: Path, limit: int = LIMIT) -> None:
    """Removes what was not used for longest, until all of it takes no more than `limit` bytes; the newest stays. What
    a writer left that was ended from outside goes too."""
    total = 0
    for i, store in enumerate(stores(root)):
        total += store.size
        if i and total > limit:
            shutil.rmtree(store.folder, ignore_errors=True)
    for partial in root.glob(f"{PARTIAL}*"):
        if max(map(_changed, (partial, *partial.glob("*")))) < time.time() - ABANDONED:
            shutil.rmtree(partial, ignore_errors=True)


def _changed(path: Path) -> float:
    """When a file was written last; long ago for one that is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
