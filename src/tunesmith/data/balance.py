"""As many rows of each value of a column as wanted: some rows left out, or some repeated, by chance and told.

Knows values and numbers; knows no rows and no files.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Hashable, Sequence
from statistics import median
from typing import NamedTuple

from tunesmith.errors import ConfigError
from tunesmith.i18n import _

SIZES = ("smallest", "median", "largest")


class Balanced(NamedTuple):
    """Positions of the rows in input order, a repeated one several times, and of those that are left out."""

    kept: list[int]
    left_out: list[int]
    sizes: dict[Hashable, tuple[int, int]]  # value -> rows before and after


def balance(values: Sequence[Hashable], to: str, seed: int) -> Balanced:
    """Positions such that each value occurs as often as `to` says: one of SIZES, or a number. ConfigError.

    Values that have more rows lose some; those that have fewer repeat all of theirs, and some once more.
    """
    rows: dict[Hashable, list[int]] = defaultdict(list)
    for i, value in enumerate(values):
        rows[value].append(i)
    goal = _goal([len(found) for found in rows.values()], to)
    draw = random.Random(seed)
    kept: list[int] = []
    for found in rows.values():
        whole, rest = divmod(goal, len(found))
        kept += found * whole + draw.sample(found, rest)
    sizes = {value: (len(found), goal) for value, found in rows.items()}
    return Balanced(sorted(kept), sorted(set(range(len(values))) - set(kept)), sizes)


def _goal(sizes: Sequence[int], to: str) -> int:
    if to.isdecimal() and int(to) > 0:
        return int(to)
    if to not in SIZES:
        text = _("{value} is neither a number of rows nor one of {names}.")
        raise ConfigError(text.format(value=to, names=", ".join(SIZES)), place="--to")
    return {"smallest": min(sizes), "median": int(median(sizes)), "largest": max(sizes)}[to]
