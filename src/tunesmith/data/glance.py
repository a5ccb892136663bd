"""A first look over all rows of some files: how many there are, which columns they have, in which format they are.

Keeps a few thousand of them, taken evenly, however many there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunesmith.data.detect import SAMPLE, choose
from tunesmith.data.row import BadRow, Row
from tunesmith.errors import DataError
from tunesmith.i18n import _

if TYPE_CHECKING:
    from tunesmith.config.schema import DataSection


@dataclass(frozen=True, slots=True)
class Glance:
    """`format` is empty where no row could be read: there is nothing to recognise, but a list of what is wrong."""

    rows: int
    columns: list[str]
    format: str


def glance(rows: Iterable[Row | BadRow], section: DataSection, place: str) -> Glance:
    """Raises DataError, at `place`, where there are no rows or none of the formats fits."""
    columns: dict[str, None] = {}
    sample: list[dict[str, Any]] = []
    total = good = 0
    every = 1
    for row in rows:
        total += 1
        if isinstance(row, BadRow):
            continue
        columns.update(dict.fromkeys(row.value))
        if good % every == 0:
            sample.append(row.value)
        if len(sample) == 2 * SAMPLE:
            sample, every = sample[::2], every * 2
        good += 1
    if not total:
        raise DataError(_("There are no rows."), place)
    return Glance(total, list(columns), choose(sample, section, place)[0] if sample else "")
