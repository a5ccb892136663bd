"""Files to rows: JSON, JSON Lines, CSV, TSV, Parquet, or a folder of them; every row with its place.

Decides encodings and says so. Knows nothing of formats: what a row's columns mean is not its business.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.conversation import Origin
from tunesmith.data.jsontext import LONGEST_ROW, holds_lines, read_json, read_lines
from tunesmith.data.row import EXCERPT, BadRow, Row, is_dialogue
from tunesmith.errors import DataError, Problem
from tunesmith.i18n import _

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
_BOMS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


@dataclass(slots=True)
class Reading:
    """Rows in input order, what the user should know about them, and each file's encoding."""

    rows: list[Row | BadRow] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    encodings: dict[str, str] = field(default_factory=dict)


def read(paths: Path | Sequence[Path]) -> Reading:
    """Every row of the files, in the order given; a folder's files in the order of their names.

    Raises DataError for files that can't be read at all, all of them at once.
    """
    reading = Reading()
    problems: list[Problem] = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        try:
            for file in _files(Path(path), reading.notices):
                _read_file(file, reading)
        except DataError as error:
            problems += error.problems
        except OSError as error:
            problems.append(Problem(str(path), _("The file can't be read: {why}.").format(why=error.strerror)))
    if problems:
        raise DataError(problems)
    return reading


def data_in(path: Path) -> list[Path]:
    """The file itself, or the data files of a folder in the order of their names."""
    if not path.is_dir():
        return [path]
    inside = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    return [file for file in inside if file.suffix.lower() in SUFFIXES]


def _files(path: Path, notices: list[str]) -> list[Path]:
    expected = ", ".join(SUFFIXES)
    if not path.exists():
        raise DataError(_("There is no such file or folder."), str(path))
    if not path.is_dir():
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(
                _("This is not a data file; expected one of {endings}.").format(endings=expected), str(path)
            )
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


def _read_file(path: Path, reading: Reading) -> None:
    file, suffix = str(path), path.suffix.lower()
    if suffix == ".parquet":
        reading.rows += _read_parquet(path)
        return
    text, encoding = _decode(path.read_bytes(), file)
    reading.encodings[file] = encoding
    if encoding != "utf-8":
        reading.notices.append(_("{file} was read as {encoding}.").format(file=file, encoding=encoding))
    if suffix in (".csv", ".tsv"):
        reading.rows += _read_table(text, file)
        return
    named_lines = suffix != ".json"
    lines = holds_lines(text, named_lines)
    rows, notices = (read_lines if lines else read_json)(text, file)
    if lines and not named_lines:
        reading.notices.append(_("{file} holds one object a line and was read so.").format(file=file))
    reading.rows += rows
    reading.notices += notices


def _decode(data: bytes, file: str) -> tuple[str, str]:
    """Text and encoding. Bytes that no encoding explains become lone surrogates; their rows are refused later."""
    encoding = next((name for bom, name in _BOMS if data.startswith(bom)), "")
    # Data begin with an ASCII character: a zero beside it is UTF-16 that came without its mark.
    if not encoding and len(data) > 1 and 0 in data[:2]:
        encoding = "utf-16-le" if data[1] == 0 else "utf-16-be"
    if encoding:
        try:
            return data.decode(encoding), encoding
        except UnicodeDecodeError as error:
            text = _("The file begins like {encoding} but is not: byte {n} is wrong.")
            raise DataError(text.format(encoding=encoding, n=error.start), file) from error
    data = data.removeprefix(b"\xef\xbb\xbf")
    text = data.decode("utf-8", "surrogateescape")
    wrong = len(_ESCAPED_BYTE.findall(text))
    # GB18030 also takes damaged UTF-8 and makes nonsense of it: where nearly all is UTF-8, it stays UTF-8.
    if wrong and wrong * 10 > len(_NOT_ASCII.findall(text)):
        try:
            return data.decode("gb18030"), "gb18030"
        except UnicodeDecodeError:
            pass
    return text, "utf-8"


def _read_table(text: str, file: str) -> Iterator[Row | BadRow]:
    """Rows of a table with a header. The separator is whichever of tab, semicolon and comma the header has most."""
    csv.field_size_limit(LONGEST_ROW)
    delimiter = max("\t;,", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
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
        elif _ESCAPED_BYTE.search("".join(cells)):
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


def _read_parquet(path: Path) -> Iterator[Row]:
    """Rows by the file's own types; a row's number stands for its line."""
    import pyarrow
    import pyarrow.parquet

    try:
        number = 0
        with pyarrow.parquet.ParquetFile(path) as source:
            for batch in source.iter_batches():
                for value in batch.to_pylist():
                    number += 1
                    yield Row(_plain(value), Origin(str(path), number))
    except pyarrow.ArrowException as error:
        raise DataError(_("This is not a Parquet file: {why}").format(why=error), str(path)) from error


def _plain(value: Any) -> Any:
    """The value in JSON's types: dates, decimals and the like become text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)
