"""A share of the rows held back: every class on both sides, what belongs together on one side.

Knows of each row a number for its prompt and its values of two columns, so that a million of them need little room.
"""

from __future__ import annotations

import json
import math
import random
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tunesmith.conversation import Conversation
from tunesmith.data.intake import fingerprint
from tunesmith.errors import DataError
from tunesmith.i18n import _

Singletons = Literal["test", "train", "error"]
Ints = npt.NDArray[np.int64]


class Split(NamedTuple):
    """Both parts in input order, and what the user should know about them."""

    train: list[Conversation]
    held: list[Conversation]
    notices: list[str]


@dataclass(frozen=True, slots=True)
class Column:
    """A column's values as text: row `i` has `names[codes[i]]`, an empty one where it has none."""

    codes: npt.NDArray[np.int32]
    names: list[str]

    @classmethod
    def of(cls, values: Iterable[str]) -> Column:
        known: dict[str, int] = {}
        codes = np.array([known.setdefault(value, len(known)) for value in values], dtype=np.int32)
        return cls(codes, list(known))

    def of_rows(self, rows: npt.NDArray) -> Column:
        return Column(self.codes[rows], self.names)


@dataclass(frozen=True, slots=True)
class Traits:
    """What a split goes by: a number that is equal for equal prompts, and the values of the columns that it names."""

    prompts: npt.NDArray[np.uint64]
    classes: Column | None = None
    groups: Column | None = None

    def of_rows(self, rows: npt.NDArray) -> Traits:
        columns = (column and column.of_rows(rows) for column in (self.classes, self.groups))
        return Traits(self.prompts[rows], *columns)


class _Units:
    """Rows that stay together; unit `u` comes before all that begin with a later row."""

    def __init__(self, of_row: Ints, codes: npt.NDArray[np.int32]) -> None:
        self.rows, self.codes = np.argsort(of_row, kind="stable"), codes
        self.sizes = np.bincount(of_row)
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)])
        pairs = np.unique(of_row * (int(codes.max()) + 1) + codes)
        self.pieces = np.bincount(pairs % (int(codes.max()) + 1))  # units in which each class is

    def __len__(self) -> int:
        return len(self.sizes)

    def rows_of(self, unit: int) -> Ints:
        return self.rows[self.starts[unit] : self.starts[unit + 1]]

    def classes_of(self, unit: int) -> Sequence[tuple[int, int]]:
        """(class, rows of it) in a unit."""
        if self.sizes[unit] == 1:
            return ((int(self.codes[self.rows[self.starts[unit]]]), 1),)
        return list(Counter(self.codes[self.rows_of(unit)].tolist()).items())


def split(
    conversations: Sequence[Conversation],
    ratio: float,
    *,
    stratify_by: str | None = None,
    split_by: str | None = None,
    split_pattern: str | None = None,
    singletons: Singletons = "test",
    seed: int,
) -> Split:
    """Hold back `ratio` of the conversations, as `hold_back` does. Raises DataError for a column that no row has."""
    columns = []
    for column, setting in ((stratify_by, "data.stratify_by"), (split_by, "data.split_by")):
        if column and not any(column in c.meta for c in conversations):
            raise no_column(column, dict.fromkeys(name for c in conversations for name in c.meta), setting)
        columns.append(Column.of(value_text(c.meta.get(column)) for c in conversations) if column else None)
    traits = Traits(np.array([prompt_number(c) for c in conversations], dtype=np.uint64), *columns)
    held, notices = hold_back(
        traits, ratio, stratify_by=stratify_by, split_pattern=split_pattern, singletons=singletons, seed=seed
    )
    train = [c for c, out in zip(conversations, held, strict=True) if not out]
    return Split(train, [c for c, out in zip(conversations, held, strict=True) if out], notices)


def hold_back(
    traits: Traits,
    ratio: float,
    *,
    stratify_by: str | None = None,
    split_pattern: str | None = None,
    singletons: Singletons = "test",
    seed: int,
) -> tuple[npt.NDArray[np.bool_], list[str]]:
    """Which rows are held back, the same ones for the same seed, and what the user should know about them.

    Every class (value of the column `stratify_by`) that can be on both sides is; each gets its share by largest
    remainder, so that the total is exact. A class that can't be divided (one row, or rows that stay together) is held
    back whole (`test`), not at all (`train`), or refused (`error`). Rows with equal prompts, or of equal groups, are
    never divided; of the groups' names `split_pattern` takes what its first parentheses match.
    Raises DataError for what `error` refuses.
    """
    n = len(traits.prompts)
    held = np.zeros(n, dtype=bool)
    if ratio <= 0 or not n:
        return held, []
    classes = traits.classes or Column(np.zeros(n, dtype=np.int32), [""])
    groups = traits.groups
    notices: list[str] = []
    if groups and split_pattern:
        groups, notices = _cut(groups, split_pattern)
    units = _Units(_together(traits.prompts, groups), classes.codes)
    whole = {c for c, n in enumerate(units.pieces) if n == 1} if traits.classes else set()
    notices += _say_whole(sorted(classes.names[c] for c in whole), stratify_by, singletons)
    order = array("q", range(len(units)))
    random.Random(seed).shuffle(order)  # type: ignore[arg-type]  # it wants a list and takes any sequence
    wanted, target = _quotas(units, classes, ratio, whole if singletons == "test" else set())
    _take(units, order, wanted, target, held)
    notices += _notices(classes, held, target, whole)
    return held, notices


def value_text(value: Any) -> str:
    """A column's value as text; empty for none, which belongs to nobody's group."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def prompt_number(conversation: Conversation) -> int:
    """Equal for conversations in which all that comes before the last trained answer is equal."""
    turns = conversation.trained_turns()
    return int.from_bytes(fingerprint(conversation.messages[: turns[-1] if turns else None])[:8], "little")


def no_column(column: str, there: Iterable[str], setting: str) -> DataError:
    text = _("No row has a column {column}. The columns are: {there}.")
    return DataError(text.format(column=column, there=", ".join(there) or _("none")), setting)


def _cut(groups: Column, pattern: str) -> tuple[Column, list[str]]:
    """The part of each value that its group is; a value that the pattern does not match is its own."""
    found = [re.fullmatch(pattern, name) if name else None for name in groups.names]
    odd = [bool(name) and not match for name, match in zip(groups.names, found, strict=True)]
    parts = Column.of(match[1] or "" if match else name for name, match in zip(groups.names, found, strict=True))
    cut = Column(parts.codes[groups.codes], parts.names)
    alone = np.array(odd, dtype=bool)[groups.codes]
    if not alone.any():
        return cut, []
    names = [groups.names[code] for code in _in_order(groups.codes[alone])]
    text = _("Values that {pattern} does not match and that group alone: {n} ({names}).")
    return cut, [text.format(pattern=pattern, n=int(alone.sum()), names=_some(names))]


def _in_order(codes: npt.NDArray) -> list[int]:
    """Each code once, by its first row."""
    found, first = np.unique(codes, return_index=True)
    return found[np.argsort(first)].tolist()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _say_whole(whole: list[str], column: str | None, singletons: Singletons) -> list[str]:
    if not whole:
        return []
    texts = {
        "test": _(
            "Values of {column} with one row, or with rows that stay together, which are only tested: {n} ({names}). "
            "To train them instead, set data.singletons to train."
        ),
        "train": _(
            "Values of {column} with one row, or with rows that stay together, which are only trained: {n} ({names})."
        ),
        "error": _(
            "Values of {column} with one row, or with rows that stay together: {n} ({names}). "
            "Set data.singletons to test or train, or add rows."
        ),
    }
    shown = ", ".join(whole) if singletons == "error" else _some(whole)
    text = texts[singletons].format(column=column, n=len(whole), names=shown)
    if singletons == "error":
        raise DataError(text, "data.singletons")
    return [text]


def _together(prompts: npt.NDArray[np.uint64], groups: Column | None) -> Ints:
    """For each row the number of its unit: the finest division that keeps equal prompts and equal groups together."""
    unit = _firsts(prompts)
    if groups is not None:
        parent = unit.tolist()

        def root(i: int) -> int:
            while parent[i] != i:
                parent[i] = i = parent[parent[i]]
            return i

        empty = groups.names.index("") if "" in groups.names else -1
        for i, first in enumerate(_firsts(groups.codes)):
            if groups.codes[i] != empty:
                a, b = sorted((root(i), root(int(first))))
                parent[b] = a
        unit = np.array([root(i) for i in range(len(parent))], dtype=np.int64)
    return np.unique(unit, return_inverse=True)[1]


def _firsts(keys: npt.NDArray) -> Ints:
    """For each row the first one with the same key."""
    _keys, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return first[inverse]


def _quotas(units: _Units, classes: Column, ratio: float, taken: set[int]) -> tuple[list[int], int]:
    """Rows to hold back of each class, and in all. A class in one piece stays, unless it is to be `taken`."""
    size, pieces = np.bincount(classes.codes).tolist(), units.pieces
    every = range(len(size))
    low = [size[c] if c in taken else int(pieces[c] > 1) for c in every]
    high = [size[c] - 1 if pieces[c] > 1 else low[c] for c in every]
    target = min(max(int(len(classes.codes) * ratio + 0.5), sum(low)), sum(high))
    wanted = [min(max(int(size[c] * ratio), low[c]), high[c]) for c in every]
    names = sorted((c for c in every if low[c] < high[c]), key=lambda c: classes.names[c])
    while (short := target - sum(wanted)) != 0:
        step = 1 if short > 0 else -1
        free = [c for c in names if low[c] <= wanted[c] + step <= high[c]]
        wanted[max(free, key=lambda c: step * (size[c] * ratio - wanted[c]))] += step
    return wanted, target


def _take(units: _Units, order: Sequence[int], wanted: list[int], target: int, held: npt.NDArray[np.bool_]) -> None:
    """Holds rows back: by quota first, then whole units for classes still without a row, then up to the total."""
    size = np.bincount(units.codes).tolist()
    counted, total = [0] * len(size), 0

    def take(some: Iterable[int], limit: list[int], most: float, missing: bool = False) -> None:
        nonlocal total
        for unit in some:
            classes = units.classes_of(unit)
            fits = all(counted[c] + n <= limit[c] for c, n in classes)
            asked = not missing or any(wanted[c] and not counted[c] for c, _n in classes)
            rows = int(units.sizes[unit])
            if fits and asked and total + rows <= most and not held[units.rows[units.starts[unit]]]:
                held[units.rows_of(unit)] = True
                total += rows
                for c, n in classes:
                    counted[c] += n

    def smallest_first() -> Iterator[int]:
        by_size = np.argsort(units.sizes[np.asarray(order)], kind="stable")
        return (order[i] for i in by_size)

    leave_one = [n if wanted[c] == n else n - 1 for c, n in enumerate(size)]
    take(order, wanted, target)
    if any(wanted[c] and not counted[c] for c in range(len(size))):
        take(smallest_first(), leave_one, math.inf, missing=True)
    if total < target:
        take(order, leave_one, target)


def _notices(classes: Column, held: npt.NDArray[np.bool_], target: int, whole: set[int]) -> list[str]:
    notices, total = [], int(held.sum())
    reached = {*np.unique(classes.codes[held]).tolist(), *whole}
    missing = [code for code in _in_order(classes.codes) if code not in reached]
    if len(reached) + len(missing) > 1 and missing:
        text = _("Values that have no held-out row, since too much belongs together: {n} ({names}).")
        notices.append(text.format(n=len(missing), names=_some([classes.names[c] for c in missing])))
    if total != target:
        text = _("Rows that belong together made the held-out part {total} rows instead of {target}.")
        notices.append(text.format(total=total, target=target))
    if not total:
        notices.append(_("Nothing was held out: the rows can't be divided."))
    return notices
