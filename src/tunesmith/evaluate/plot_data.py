"""The picture of a data set: how long its rows are, and how many there are of each kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tunesmith.evaluate.plot import BLUE, GREY, LIGHT, ORANGE, figure
from tunesmith.i18n import _

MOST = 40  # groups that get a bar of their own


def overview(lengths: Sequence[int], unit: str, limit: int, groups: Mapping[str, int], path: Path) -> Path:
    """A histogram of the lengths, in `unit`, with data.max_length marked where `limit` is one; a bar for each group.
    Returns `path`."""
    shown = dict(list(groups.items())[:MOST])
    rest = sum(groups.values()) - sum(shown.values())
    if rest:
        shown[_("{n} others").format(n=len(groups) - MOST)] = rest
    title = _("{n} rows by length, in {unit}").format(n=len(lengths), unit=unit)
    below = _("Rows of each kind")
    names = [name or _("(none)") for name in shown]
    height = 3.0 + 0.26 * len(shown)
    with figure(path, 7.5, height, [title, below, *names]) as (whole, unused):
        unused.remove()
        top, bottom = whole.subplots(2, 1, height_ratios=[2.2, max(0.6, 0.26 * len(shown))])
        top.hist(lengths, bins=min(60, max(5, len(set(lengths)))), color=BLUE)
        top.set_title(title, loc="left", pad=10)
        top.grid(axis="y", color=LIGHT, lw=0.6)
        if limit and lengths and max(lengths) * 4 > limit:
            top.axvline(limit, color=ORANGE, lw=1.2)
            top.text(limit, top.get_ylim()[1], " data.max_length", color=ORANGE, va="top", fontsize=8.5)
        bars = bottom.barh(range(len(shown)), list(shown.values()), 0.65, color=BLUE)
        bottom.bar_label(bars, padding=3, fontsize=8.5, color=GREY)
        bottom.set(ylim=(len(shown) - 0.4, -0.6), yticks=range(len(shown)))
        bottom.set_yticklabels(names)
        bottom.set_title(below, loc="left", pad=10)
        bottom.grid(axis="x", color=LIGHT, lw=0.6)
        whole.tight_layout()
    return path
