"""Rows into files: a JSON list or JSON Lines, whole or not at all, and never over what is there unless that is asked.

Knows rows as plain values; what they mean is not its business.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tunesmith.data.intake import Rejected
from tunesmith.data.read import data_in
from tunesmith.errors import DataError, Problem, RunError
from tunesmith.i18n import _

SUFFIXES = (".json", ".jsonl")


def claim(paths: Sequence[Path], sources: Sequence[Path], overwrite: bool) -> None:
    """Make sure that these files may be written. All that speaks against it comes at once.

    Raises DataError for a name that is no file of rows or that is one of the `sources`, and RunError for a file that
    is there, unless `overwrite`.
    """
    inputs = {file.resolve() for source in sources for file in data_in(source)}
    wrong = [
        Problem(str(path), _("This is the data itself. Give another name."))
        for path in paths
        if path.resolve() in inputs
    ]
    expected = ", ".join(SUFFIXES)
    wrong += [
        Problem(str(path), _("Rows are written to one of {endings}.").format(endings=expected))
        for path in paths
        if path.suffix.lower() not in SUFFIXES
    ]
    if wrong:
        raise DataError(wrong)
    there = [path for path in paths if path.exists()]
    if there and not overwrite:
        raise RunError([Problem(str(path), _("The file exists. Replace it with --overwrite.")) for path in there])


def rows(path: Path, values: Iterable[dict[str, Any]]) -> None:
    """One object a line, or a list where the file is named .json. Text stays readable: nothing is escaped."""
    if path.suffix.lower() == ".json":
        texts: Iterable[str] = [json.dumps(list(values), ensure_ascii=False, indent=2) + "\n"]
    else:
        texts = (json.dumps(value, ensure_ascii=False) + "\n" for value in values)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as out:
        # Half characters, which UTF-8 can't hold, occur in excerpts of broken rows only.
        out.writelines(text.encode("utf-8", "replace") for text in texts)
    os.replace(partial, path)


def ledger_of(path: Path) -> Path:
    """Where the rows that did not get into `path` are listed."""
    return path.with_name(f"{path.stem}.removed.jsonl")


def removed(path: Path, rejected: Sequence[Rejected]) -> Path | None:
    """List the rows that are not in `path`, in input order, with place, code and reason; None if there are none."""
    ledger = ledger_of(path)
    if not rejected:
        ledger.unlink(missing_ok=True)  # of an earlier result, which this one replaces
        return None
    rows(ledger, (each.as_dict() for each in sorted(rejected, key=lambda each: each.index)))
    return ledger
