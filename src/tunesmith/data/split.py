"""A share of the conversations held back: every class on both sides, what belongs together on one side.

Knows columns and messages, and nothing of files.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from tunesmith.conversation import Conversation
from tunesmith.errors import DataError
from tunesmith.i18n import _

Singletons = Literal["test", "train", "error"]


class Split(NamedTuple):
    """Both parts in input order, and what the user should know about them."""

    train: list[Conversation]
    held: list[Conversation]
    notices: list[str]


@dataclass(slots=True)
class _Unit:
    """Rows that stay together, and how many of them each class has."""

    rows: list[int]
    classes: Counter[str]


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
    """Hold back `ratio` of the rows, the same ones for the same seed.

    Every value of `stratify_by` that can be on both sides is; each gets its share by largest remainder, so that the
    total is exact. A value that can't be divided (one row, or rows that stay together) is held back whole (`test`),
    not at all (`train`), or refused (`error`). Rows with equal prompts, or with equal values of `split_by`, are never
    divided; of these values `split_pattern` takes what its first parentheses match.
    Raises DataError for a column that no row has, and for what `error` refuses.
    """
    classes = _column(conversations, stratify_by, "data.stratify_by") if stratify_by else [""] * len(conversations)
    if ratio <= 0 or not conversations:
        return Split(list(conversations), [], [])
    groups = _column(conversations, split_by, "data.split_by") if split_by else None
    notices: list[str] = []
    if groups and split_pattern:
        groups, notices = _cut(groups, split_pattern)
    units = _units(conversations, classes, groups)
    whole = _whole(units) if stratify_by else []
    notices += _say_whole(whole, stratify_by, singletons)
    random.Random(seed).shuffle(units)
    wanted, target = _quotas(units, len(conversations), ratio, set(whole) if singletons == "test" else set())
    held, total = _take(units, wanted, Counter(classes), target)
    train = [c for i, c in enumerate(conversations) if i not in held]
    notices += _notices(classes, held, target, total, set(whole))
    return Split(train, [conversations[i] for i in sorted(held)], notices)


def _column(conversations: Sequence[Conversation], column: str, setting: str) -> list[str]:
    """The column's values as text; empty for rows that have none, which belong to nobody's group."""
    if not any(column in conversation.meta for conversation in conversations):
        there = ", ".join(dict.fromkeys(name for conversation in conversations for name in conversation.meta))
        text = _("No row has a column {column}. The columns are: {there}.")
        raise DataError(text.format(column=column, there=there or _("none")), setting)
    values = [conversation.meta.get(column) for conversation in conversations]
    return [
        "" if v is None else v if isinstance(v, str) else json.dumps(v, sort_keys=True, default=str) for v in values
    ]


def _cut(groups: list[str], pattern: str) -> tuple[list[str], list[str]]:
    """The part of each value that its group is; a value that the pattern does not match is its own."""
    found = [re.fullmatch(pattern, group) if group else None for group in groups]
    odd = [group for group, match in zip(groups, found, strict=True) if group and not match]
    cut = [match[1] or "" if match else group for group, match in zip(groups, found, strict=True)]
    if not odd:
        return cut, []
    text = _("Values that {pattern} does not match and that group alone: {n} ({names}).")
    return cut, [text.format(pattern=pattern, n=len(odd), names=_some(list(dict.fromkeys(odd))))]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _whole(units: Iterable[_Unit]) -> list[str]:
    """Classes that can't be divided, since all their rows stay together."""
    pieces = Counter(name for unit in units for name in unit.classes)
    return sorted(name for name, n in pieces.items() if n == 1)


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


def _units(conversations: Sequence[Conversation], classes: list[str], groups: list[str] | None) -> list[_Unit]:
    """The finest division that keeps equal prompts and equal groups together."""
    parent = list(range(len(conversations)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    seen: dict[Hashable, int] = {}
    for i, conversation in enumerate(conversations):
        keys: list[Hashable] = [("prompt", _prompt(conversation))]
        if groups and groups[i]:
            keys.append(("group", groups[i]))
        for key in keys:
            parent[root(i)] = root(seen.setdefault(key, i))
    members: dict[int, list[int]] = defaultdict(list)
    for i in range(len(conversations)):
        members[root(i)].append(i)
    return [_Unit(rows, Counter(classes[i] for i in rows)) for rows in members.values()]


def _prompt(conversation: Conversation) -> str:
    """All that comes before the last trained answer."""
    turns = conversation.trained_turns()
    return repr(conversation.messages[: turns[-1] if turns else None])


def _quotas(units: Iterable[_Unit], rows: int, ratio: float, taken: set[str]) -> tuple[Counter[str], int]:
    """Rows to hold back of each class, and in all. A class in one piece stays, unless it is to be `taken`."""
    size: Counter[str] = Counter()
    pieces: Counter[str] = Counter()
    for unit in units:
        size.update(unit.classes)
        pieces.update(unit.classes.keys())
    low = {name: size[name] if name in taken else int(pieces[name] > 1) for name in size}
    high = {name: size[name] - 1 if pieces[name] > 1 else low[name] for name in size}
    target = min(max(int(rows * ratio + 0.5), sum(low.values())), sum(high.values()))
    wanted = Counter({name: min(max(int(n * ratio), low[name]), high[name]) for name, n in size.items()})
    names = sorted(name for name in size if low[name] < high[name])
    while (short := target - sum(wanted.values())) != 0:
        step = 1 if short > 0 else -1
        free = [name for name in names if low[name] <= wanted[name] + step <= high[name]]
        wanted[max(free, key=lambda name: step * (size[name] * ratio - wanted[name]))] += step
    return wanted, target


def _take(units: list[_Unit], wanted: Counter[str], size: Counter[str], target: int) -> tuple[set[int], int]:
    """Rows held back: by quota first, then whole units for classes still without a row, then up to the total."""
    held: Counter[str] = Counter()
    rows: set[int] = set()

    def take(units: Iterable[_Unit], limit: Counter[str], most: float, missing: bool = False) -> None:
        for unit in units:
            fits = all(held[name] + n <= limit[name] for name, n in unit.classes.items())
            asked = not missing or any(wanted[name] and not held[name] for name in unit.classes)
            if fits and asked and len(rows) + len(unit.rows) <= most and unit.rows[0] not in rows:
                rows.update(unit.rows)
                held.update(unit.classes)

    leave_one = Counter({name: n if wanted[name] == n else n - 1 for name, n in size.items()})
    take(units, wanted, target)
    take(sorted(units, key=lambda unit: len(unit.rows)), leave_one, math.inf, missing=True)
    take(units, leave_one, target)
    return rows, len(rows)


def _notices(classes: list[str], held: set[int], target: int, total: int, whole: set[str]) -> list[str]:
    notices = []
    reached = {classes[i] for i in held} | whole
    missing = [name for name in dict.fromkeys(classes) if name not in reached]
    if len(reached | set(missing)) > 1 and missing:
        text = _("Values that have no held-out row, since too much belongs together: {n} ({names}).")
        notices.append(text.format(n=len(missing), names=_some(missing)))
    if total != target:
        text = _("Rows that belong together made the held-out part {total} rows instead of {target}.")
        notices.append(text.format(total=total, target=target))
    if not total:
        notices.append(_("Nothing was held out: the rows can't be divided."))
    return notices
