"""report.html of a comparison: the verdict, the shares, the groups, and the rows that were fixed or broke.

Knows a comparison, and what of it to show.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.evaluate.compare import Comparison, Difference, Row, points
from tunesmith.evaluate.page import bar, chart, chosen_by, finder, lines, row_of, shown, write_page
from tunesmith.evaluate.results import percent
from tunesmith.evaluate.statistics import DRAWS
from tunesmith.i18n import _

MOST_ROWS = 100  # of each kind
MOST_WORDS = 2000  # of an answer whose differences are marked


def write(comparisons: Sequence[Comparison], path: Path) -> Path:
    """The page at `path`, a part for each comparison."""
    title = comparisons[0].sentence()
    parts = []
    if len(comparisons) > 1:
        names = ", ".join(found.second.name for found in comparisons)
        title = _("{first} against {others}").format(first=comparisons[0].first.name, others=names)
        parts.append(_overview(comparisons))
    for found in comparisons:
        if len(comparisons) > 1:
            parts.append(f"<h2>{shown(found.sentence())}</h2>")
        parts += [lines(found.by_group()), _shares(found) if len(comparisons) == 1 else ""]
        parts += [_table(_("By group"), "group", found.groups, found), _table(_("By type"), "type", found.types, found)]
        parts.append(_scores(found))
    parts.append(finder())
    for found in comparisons:
        parts.append(f"<h2>{shown(found.second.name)}</h2>" if len(comparisons) > 1 else "")
        parts += [_rows(_("Rows that broke: {n}"), found, found.broken)]
        parts += [_rows(_("Rows that were fixed: {n}"), found, found.fixed)]
    parts.append(_method(comparisons))
    return write_page(title, "\n".join([f"<h1>{shown(title)}</h1>", *filter(None, parts)]), path)


def _shares(found: Comparison) -> str:
    """Both sides, the first in the lighter colour as everywhere below."""
    sides = zip((found.first.name, found.second.name), found.whole.shares, ("before", ""), strict=True)
    rows = [f"<tr>{_share(name, share, look)}</tr>" for name, share, look in sides]
    return chart(_share_heads(), rows)


def _share_heads() -> list[str]:
    return [_("Name"), "", _("Accuracy"), _("Rows"), _("95 % interval")]


def _share(name: str, share: dict[str, Any], look: str) -> str:
    low, high = share["interval"]
    return (
        f'<td>{shown(name)}</td><td class="bar" data-by="{share["accuracy"]}">{bar(share, name, look=look)}</td>'
        f'<td class="number" data-by="{share["accuracy"]}">{100 * share["accuracy"]:.1f} %</td>'
        f'<td class="number quiet" data-by="{share["n"]}">{share["correct"]} / {share["n"]}</td>'
        f'<td class="number quiet" data-by="{low}">{percent(low)} – {percent(high)}</td>'
    )


def _overview(comparisons: Sequence[Comparison]) -> str:
    """Several results in one table, each beside its difference to the first."""
    first = comparisons[0]
    rows = [f"<tr>{_share(first.first.name, first.whole.shares[0], 'before')}<td></td><td></td></tr>"]
    for found in comparisons:
        share = _share(found.second.name, found.whole.shares[1], "")
        rows.append(f"<tr>{share}{_points(found.whole)}{_verdict(found.whole)}</tr>")
    return chart([*_share_heads(), _("Points"), _("Verdict")], rows)


def _points(found: Difference) -> str:
    return f'<td class="number" data-by="{found.gain}">{points(found.gain)}</td>'


def _verdict(found: Difference) -> str:
    text = {"better": _("better"), "worse": _("worse"), "open": _("could be chance")}[found.verdict]
    tone = {"better": "right", "worse": "wrong"}.get(found.verdict, "quiet")
    return f'<td class="said {tone}" title="p = {found.p:.2g}">{shown(text)}</td>'


def _table(heading: str, kind: str, parts: Mapping[str, Difference], whole: Comparison) -> str:
    """A line for each group, the largest loss on top."""
    if not parts:
        return ""
    heads = [_("Name"), "", _("Verdict"), _("Points"), _("95 % interval"), _("Accuracy"), _("Rows")]
    rows = []
    for name, found in sorted(parts.items(), key=lambda item: (item[1].gain, item[0])):
        before, after = found.shares
        low, high = found.interval
        bars = bar(before, f"{name}, {whole.first.name}", look="before") + bar(after, f"{name}, {whole.second.name}")
        rows.append(
            f"<tr {chosen_by(kind, name)}><td>{shown(name or _('(none)'))}</td>"
            f'<td class="bar two" data-by="{after["accuracy"]}">{bars}</td>{_verdict(found)}{_points(found)}'
            f'<td class="number quiet" data-by="{low}">{points(low)} – {points(high)}</td>'
            f'<td class="number" data-by="{after["accuracy"]}">{percent(before["accuracy"])} → '
            f'{percent(after["accuracy"])}</td><td class="number quiet" data-by="{found.n}">{found.n}</td></tr>'
        )
    note = lines([_("Verdicts allow for the number of lines; an interval speaks of one line alone.")])
    return f"<h2>{shown(heading)}</h2>\n{chart(heads, rows)}{note if len(rows) > 1 else ''}"


def _scores(found: Comparison) -> str:
    """The figures that are no shares, with how far chance moves their difference."""
    if not found.scores:
        return ""
    verdicts = {"higher": _("higher"), "lower": _("lower"), "open": _("could be chance")}
    heads = [_("Figure"), found.first.name, found.second.name, _("Difference"), _("95 % interval"), ""]
    rows = []
    for score in found.scores:
        low, high = score.interval
        numbers = "".join(f'<td class="number" data-by="{v}">{v:.4g}</td>' for v in (*score.values, score.gain))
        rows.append(
            f'<tr><td>{shown(score.name)}</td>{numbers}<td class="number quiet" data-by="{low}">{low:.4g} – {high:.4g}'
            f"</td><td>{shown(verdicts[score.verdict])}</td></tr>"
        )
    return f"<h2>{shown(_('By metric'))}</h2>\n{chart(heads, rows)}"


def _rows(heading: str, found: Comparison, pairs: Sequence[tuple[Row, Row]]) -> str:
    names = (found.first.name, found.second.name)
    text = heading.format(n=len(pairs))
    rows = "\n".join(_row(names, *pair) for pair in pairs[:MOST_ROWS])
    rest = lines([_("The others stand in comparison.json.")]) if len(pairs) > MOST_ROWS else ""
    return f"<h2>{shown(text)}</h2>\n{rows}{rest}"


def _row(names: tuple[str, str], a: Row, b: Row) -> str:
    head = " · ".join(str(text) for text in (b.get("group"), b.get("id"), b.get("origin")) if text)
    prompt = "\n\n".join(f"{message['role']}: {message['content']}" for message in b["prompt"])
    answers = "".join(
        f'<div class="{"right" if row["correct"] else "wrong"}"><span class="quiet">{shown(name)}</span>'
        f"<pre>{marked}</pre></div>"
        for name, row, marked in zip(names, (a, b), _marked(a["answer"], b["answer"]), strict=True)
    )
    parts = "".join(
        f'<span class="quiet">{shown(name)}</span><pre>{shown(text)}</pre>'
        for name, text in ((_("Expected"), b["gold"]), (_("Prompt"), prompt))
    )
    return row_of(b, head, f'<div class="pair">{answers}</div>{parts}')


def _marked(one: str, other: str) -> tuple[str, str]:
    """Both answers as HTML, with what the other lacks marked."""
    words = [re.findall(r"[a-zA-Z0-9]+|\s+|.", text) for text in (one, other)]
    if max(map(len, words)) > MOST_WORDS:
        return shown(one), shown(other)
    pieces: tuple[list[str], list[str]] = ([], [])
    blocks = difflib.SequenceMatcher(None, words[0], words[1], autojunk=False).get_opcodes()
    for kind, start_one, stop_one, start_other, stop_other in blocks:
        spans = (words[0][start_one:stop_one], words[1][start_other:stop_other])
        for piece, span in zip(pieces, spans, strict=True):
            text = shown("".join(span))
            piece.append(text if kind == "equal" or not text else f"<mark>{text}</mark>")
    return "".join(pieces[0]), "".join(pieces[1])


def _method(comparisons: Sequence[Comparison]) -> str:
    said = [
        _("Interval of an accuracy: Wilson. Interval of a difference: Newcombe's for pairs (1998, method 10)."),
        _("Chance: the exact two-sided test of McNemar over the rows that changed; beyond chance is below 0.05."),
        _("Over groups, types and several results: corrected by Holm."),
        _(
            "Figures that are no shares: paired bootstrap, {n} draws; beyond chance where the interval leaves out 0."
        ).format(n=DRAWS),
    ]
    for found in comparisons:
        low, high = map(points, found.whole.redrawn)
        text = _("{name}: p = {p:.2g}; by paired bootstrap the difference lies between {low} and {high} points.")
        said.append(text.format(name=found.second.name, p=found.whole.p, low=low, high=high))
    return f"<details><summary>{shown(_('How this was computed'))}</summary>{lines(said)}</details>"
