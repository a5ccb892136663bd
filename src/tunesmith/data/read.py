"""Files to rows: JSON, JSON Lines, CSV, TSV, Parquet, or a folder of them; every row with its place.

Decides encodings and says so. Knows nothing of formats: what a row's columns mean is not its business.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from tunesmith.conversation import Origin
from tunesmith.data.decode import BROKEN, MARK, encoding_of
from tunesmith.data.jsontext import LONGEST_ROW, holds_lines, read_json, read_lines
from tunesmith.data.row import EXCERPT, BadRow, Row, is_dialogue
from tunesmith.errors import DataError, Problem
from tunesmith.i18n import _

UNPACKED = 16  # rows of a Parquet file at once
MOST_UNPACKED = 500_000_000  # bytes of a Parquet file that are always read, however small it is packed
SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


@dataclass(slots=True)
class Reading:
    """Rows in input order, what the user should know about them, and each file's encoding."""

    rows: list[Row | BadRow] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    encodings: dict[str, str] = field(default_factory=dict)


class Files:
    """The data files of some paths, and their encodings. Going through them reads every row anew.

    Nothing is kept of the rows, so that any number of them can be read; only JSON that is no row a line is read whole.
    Raises DataError for paths that can't be read at all, all of them at once.
    """

    def __init__(self, paths: Path | Sequence[Path]) -> None:
        self.encodings: dict[str, str] = {}
        self.notices: list[str] = []
        self.found: list[Path] = []
        problems: list[Problem] = []
        for path in [paths] if isinstance(paths, str | Path) else paths:
            with _collecting(path, problems):
                self.found += _files(Path(path), self.notices)
        for path in self.found:
            if path.suffix.lower() != ".parquet":
                with _collecting(path, problems):
                    self.encodings[str(path)] = encoding_of(path)
        if problems:
            raise DataError(problems)
        self._first = [*self.notices]

    def __iter__(self) -> Iterator[Row | BadRow]:
        """Every row, in the order given; a folder's files in the order of their names. Raises DataError at the end."""
        self.notices = [*self._first]
        problems: list[Problem] = []
        for path in self.found:
            with _collecting(path, problems):
                yield from self._rows(path)
        if problems:
            raise DataError(problems)

    def _rows(self, path: Path) -> Iterator[Row | BadRow]:
        file, suffix = str(path), path.suffix.lower()
        if suffix == ".parquet":
            yield from _read_parquet(path)
            return
        encoding = self.encodings[file]
        if encoding != "utf-8":
            self.notices.append(_("{file} was read as {encoding}.").format(file=file, encoding=encoding))
        table, named_lines = suffix in (".csv", ".tsv"), suffix != ".json"
        known = MARK if encoding == "utf-8" else encoding
        with path.open(encoding=known, errors="surrogateescape", newline="" if table else "\n") as text:
            if table:
                yield from _read_table(text, file)
                return
            lines = holds_lines("".join(islice(text, 50)), named_lines)
            text.seek(0)
            if lines and not named_lines:
                self.notices.append(_("{file} holds one object a line and was read so.").format(file=file))
            yield from read_lines(text, file, self.notices) if lines else read_json(text.read(), file, self.notices)


def read(paths: Path | Sequence[Path]) -> Reading:
    """Every row of the files at once. Raises DataError as Files does."""
    files = Files(paths)
    rows = list(files)
    return Reading(rows, files.notices, files.encodings)


@contextmanager
def _collecting(path: Path, problems: list[Problem]) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        problems += error.problems
    except OSError as error:
        problems.append(Problem(str(path), _("The file can't be read: {why}.").format(why=error.strerror)))


def data_in(path: Path) -> list[Path]:
    """The file itself, or the data files of a folder in the order of their names."""
    if not path.is_dir():
        return [path]
    inside = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    return [file for file in inside if file.suffix.lower() in SUFFIXES]


def _files(path: Path, notices: list[str]) -> list[Path]:
    expected = ", ".join(SUFFIXES)
    if not os.path.exists(path):  # unlike Path.exists, it never raises
        raise DataError(_("There is no such file or folder."), str(path))
    if not path.is_dir():
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(
                _("This is not a data file; expected one of {endings}.").format(endings=expected), str(path)
            )
        if not path.is_file():
            raise DataError(_("This is a device or a pipe, which may never end; a file is expected."), str(path))
        return [path]
    files = data_in(path)
    others = ", ".join(
        sorted(f.name for f in path.iterdir() if f.is_file() and not f.name.startswith(".") and f not in files)
    )
    if not files:
        raise DataError(
            _("The folder holds no data file; expected one of {endings}.").format(endings=expected), str(path)
        )
    if others:
        notices.append(_("{folder}: not data, left out: {names}.").format(folder=path, names=others))
    return files


def _read_table(text: TextIO, file: str) -> Iterator[Row | BadRow]:
    """Rows of a table with a header. The separator is whichever of tab, semicolon and comma the header has most."""
    csv.field_size_limit(LONGEST_ROW)
    delimiter = max("\t;,", key=text.readline().count)
    text.seek(0)
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        origin = Origin(file, reader.line_num + 1)
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield BadRow(origin, "not_csv", _("This is not a row of a table: {why}.").format(why=error), "")
            continue
        if cells is None:
            return
        excerpt = delimiter.join(cells)[:EXCERPT]
        if not header:
            header = [cell.strip() for cell in cells]
            twice = next((name for name in header if header.count(name) > 1), None)
            if twice is not None:
                raise DataError(_("The column {name} stands twice in the header.").format(name=twice), str(origin))
        elif BROKEN.search("".join(cells)):
            yield BadRow(origin, "encoding", _("The row holds a broken character."), excerpt)
        elif cells and len(cells) != len(header):
            reason = _("The row has {n} cells; the header has {m}.").format(n=len(cells), m=len(header))
            yield BadRow(origin, "cells", reason, excerpt)
        elif cells:
            yield Row({name: _cell(cell) for name, cell in zip(header, cells, strict=True)}, origin)


def _cell(cell: str) -> Any:
    """A cell's text; where it is a dialogue written as JSON, the dialogue."""
    if cell.startswith("["):
        try:
            value = json.loads(cell)
        except (ValueError, RecursionError):
            return cell
        if is_dialogue(value):
            return value
    return cell


def _read_parquet(path: Path) -> Iterator[Row | BadRow]:
    """Rows by the file's own types; a row's number stands for its line."""
    import pyarrow
    import pyarrow.parquet

    try:
        number = 0
        with pyarrow.parquet.ParquetFile(path) as source:
            _refuse_bomb(path, source.metadata)
            # A value may be stored once and meant in every row: few rows at once, or memory would not hold them.
            for batch in source.iter_batches(batch_size=UNPACKED):
                whole = batch.nbytes <= LONGEST_ROW
                for one in [batch] if whole else [batch.slice(i, 1) for i in range(batch.num_rows)]:
                    if one.nbytes > LONGEST_ROW:
                        number += 1
                        reason = _("The row is longer than {n} characters.").format(n=LONGEST_ROW)
                        yield BadRow(Origin(str(path), number), "too_long", reason, "")
                        continue
                    for value in one.to_pylist():
                        number += 1
                        yield Row(_plain(value), Origin(str(path), number))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        why = str(error).partition("\n")[0]
        raise DataError(_("This is not a Parquet file: {why}").format(why=why), str(path)) from error


def _refuse_bomb(path: Path, metadata: Any) -> None:
    unpacked = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    if unpacked > max(MOST_UNPACKED, 1000 * path.stat().st_size):
        text = _("The file would unpack to {n:.0f} GB, more than a thousand times its size, and is not read.")
        raise DataError(text.format(n=unpacked / 1e9), str(path))


def _plain(value: Any) -> Any:
    """The value in JSON's types: dates, decimals and the like become text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)
