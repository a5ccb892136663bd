"""The three pictures of a comparison: by group, over all rows, by type. A bar for each of the compared.

Knows counts of right answers under names, and nothing of how they came about.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.evaluate.compare import Comparison, Difference
from tunesmith.evaluate.plot import BLUE, ORANGE, PALE_BLUE, bar, by_group, figure, is_wide, labels
from tunesmith.evaluate.results import percent
from tunesmith.i18n import _

MODEL, OVERALL, TYPE = "model_comparison.png", "overall_accuracy_comparison.png", "type_accuracy_comparison.png"
COLOURS = (PALE_BLUE, BLUE, ORANGE, "#332288", "#882255", "#8c6d46")  # told apart also by colour-blind eyes
WIDTH = 76  # letters in a line of a title

Shares = Mapping[str, Sequence[dict[str, Any]]]  # under each name the share of right answers of every compared side


def draw(comparisons: Sequence[Comparison], folder: Path) -> list[Path]:
    """The pictures into `folder`, those by group and by type where the rows have such; returns them."""
    names = labels([comparisons[0].first.name, *(found.second.name for found in comparisons)])
    whole = _shares([found.whole for found in comparisons])
    drawn = [_overall(names, whole, comparisons, folder / OVERALL)]
    under = _("Share of right answers in each group, with its 95 % interval")
    groups = _under_each([found.groups for found in comparisons])
    if groups:
        title = ", ".join(
            _("{name}: {share} right").format(name=name, share=percent(share["accuracy"]))
            for name, share in zip(names, whole, strict=True)
        )
        drawn.append(_bars(names, groups, title, under, folder / MODEL))
    types = _under_each([found.types for found in comparisons])
    if types:
        under = _("Share of right answers in each type of row, with its 95 % interval")
        drawn.append(_bars(names, types, _("Right answers by type"), under, folder / TYPE))
    return drawn


def _overall(names: Sequence[str], whole: Sequence[dict[str, Any]], found: Sequence[Comparison], path: Path) -> Path:
    """A bar for each of the compared, above it the verdict where there is one verdict."""
    text = found[0].sentence() if len(found) == 1 else _("Right answers of {n} rows").format(n=whole[0]["n"])
    title = "\n".join(_folded(text))
    with figure(path, 7.5, 1.8 + 0.5 * len(names), [title, *names]) as (_fig, axes):
        for y, (share, colour) in enumerate(zip(reversed(whole), reversed(COLOURS[: len(names)]), strict=True)):
            bar(axes, y, share, colour, 0.6)
        by_group(axes, list(reversed(names)), title)
        axes.set_xlabel(_("Share of right answers, with its 95 % interval"))
    return path


def _bars(names: Sequence[str], shares: Shares, title: str, under: str, path: Path) -> Path:
    """For each name a bar of every compared side, the first on top; the largest gain of the last side comes first."""
    order = sorted(shares.items(), key=lambda item: (item[1][-1]["accuracy"] - item[1][0]["accuracy"], item[0]))
    under_bars = labels([name for name, _each in order])
    thick = 0.8 / len(names)
    with figure(path, 7.5, 2.0 + (0.1 + 0.21 * len(names)) * len(order), [title, *under_bars, *names]) as (_fig, axes):
        for y, (_name, each) in enumerate(order):
            for i, share in enumerate(each):
                bar(axes, y + 0.4 - thick * (i + 0.5), share, COLOURS[i], thick * 0.9)
        by_group(axes, under_bars, "")
        axes.set_title("\n".join(_folded(title)), loc="left", pad=14 + 15 * len(names))  # the legend stands below it
        axes.set_xlabel(under)
        handles = [axes.barh(0, 0, color=colour) for colour in COLOURS[: len(names)]]
        axes.legend(handles, names, loc="lower left", bbox_to_anchor=(-0.01, 1), frameon=False)
    return path


def _shares(differences: Sequence[Difference]) -> list[dict[str, Any]]:
    return [differences[0].shares[0], *(difference.shares[1] for difference in differences)]


def _under_each(parts: Sequence[Mapping[str, Difference]]) -> dict[str, list[dict[str, Any]]]:
    named = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: _shares([part[name] for part in parts]) for name in named}


def _folded(text: str) -> list[str]:
    """Lines of the width of a picture; a Chinese character is as wide as two letters and may stand at any end."""
    lines, used = [""], 0
    for word in re.findall(r"[\u2e80-\uffff]|[^\s\u2e80-\uffff]+|\s+", text):
        wide = sum(1 + is_wide(character) for character in word)
        if used + wide > WIDTH and not word.isspace():
            lines.append("")
            used = 0
        lines[-1] += word
        used += wide
    return [line.strip() for line in lines]
