"""report.html of a comparison: the verdict, the shares, the groups, and the rows that were fixed or broke.

One page that needs nothing but itself and runs no script; every text of a row is escaped.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from tunesmith.evaluate.compare import Comparison, Difference, Row, place, points
from tunesmith.evaluate.report import bar, cells, write_page
from tunesmith.evaluate.results import percent
from tunesmith.i18n import _

MOST_ROWS = 100  # of each kind
MOST_WORDS = 2000  # of an answer whose differences are marked

STYLE = """<style>
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1rem } mark { background: #ffe08a }
.scroll { overflow-x: auto } .bar { min-width: 9rem; width: 14rem } .bar div { height: .7rem; margin: .15rem 0 }
.bar:not(:last-child) { padding-right: .9rem } .bar div:first-child:not(:last-child) i { background: #c9dcf2 }
@media (max-width: 40rem) { .pair { grid-template-columns: 1fr } }
</style>"""


def write(comparisons: Sequence[Comparison], path: Path) -> Path:
    """The page at `path`, a part for each comparison."""
    title = comparisons[0].sentence()
    if len(comparisons) > 1:
        names = ", ".join(found.second.name for found in comparisons)
        title = _("{first} against {others}").format(first=comparisons[0].first.name, others=names)
    parts = [STYLE, f"<h1>{escape(title)}</h1>"]
    for found in comparisons:
        if len(comparisons) > 1:
            parts.append(f"<h2>{escape(found.sentence())}</h2>")
        parts += [_lines(found.by_group()), _shares(found)]
        parts += [_table(_("By group"), found.groups), _table(_("By type"), found.types)]
        parts += [_rows(_("Rows that broke: {n}"), found, found.broken)]
        parts += [_rows(_("Rows that were fixed: {n}"), found, found.fixed)]
    parts.append(_method())
    return write_page(title, "\n".join(filter(None, parts)), path)


def _lines(texts: Iterable[str]) -> str:
    return f'<p class="quiet">{"<br>".join(map(escape, texts))}</p>'


def _shares(found: Comparison) -> str:
    head = cells("th", ["", _("Accuracy"), "", _("95 % interval"), _("Rows")])
    body = []
    for name, share in zip((found.first.name, found.second.name), found.whole.shares, strict=True):
        low, high = share["interval"]
        body.append(
            f'<tr><td>{escape(name)}</td><td class="number">{share["accuracy"]:.1%}</td><td class="bar">{bar(share)}'
            f'</td><td class="quiet">{_range(percent(low), percent(high))}</td>'
            f'<td class="number quiet">{share["correct"]} / {share["n"]}</td></tr>'
        )
    return f"<table>\n<tr>{head}</tr>\n" + "\n".join(body) + "\n</table>"


def _table(heading: str, parts: Mapping[str, Difference]) -> str:
    """A line for each group, the largest loss on top."""
    if not parts:
        return ""
    verdicts = {"better": _("better"), "worse": _("worse"), "open": _("could be chance")}
    head = cells("th", ["", "", _("Accuracy"), _("Rows"), _("Points"), _("95 % interval"), _("Verdict")])
    body = []
    for name, found in sorted(parts.items(), key=lambda item: (item[1].gain, item[0])):
        before, after = found.shares
        low, high = found.interval
        tone = {"better": "right", "worse": "wrong"}.get(found.verdict, "quiet")
        body.append(
            f'<tr><td>{escape(name or _("(none)"))}</td><td class="bar">{bar(before)}{bar(after)}</td>'
            f"<td>{percent(before['accuracy'])} → {percent(after['accuracy'])}</td>"
            f'<td class="number quiet">{found.n}</td><td class="number">{points(found.gain)}</td>'
            f'<td class="quiet">{_range(points(low), points(high))}</td>'
            f'<td class="{tone}" title="p = {found.p:.2g}">{escape(verdicts[found.verdict])}</td></tr>'
        )
    table = f"<table>\n<tr>{head}</tr>\n" + "\n".join(body) + "\n</table>"
    return f'<h2>{escape(heading)}</h2>\n<div class="scroll">{table}</div>'


def _range(low: str, high: str) -> str:
    return escape(_("{low} to {high}").format(low=low, high=high))


def _rows(heading: str, found: Comparison, pairs: Sequence[tuple[Row, Row]]) -> str:
    names = (found.first.name, found.second.name)
    shown = "\n".join(_row(names, *pair) for pair in pairs[:MOST_ROWS])
    text = heading.format(n=len(pairs))
    if len(pairs) > MOST_ROWS:
        shown += _lines([_("The others stand in comparison.json.")])
    return f"<h2>{escape(text)}</h2>\n{shown}"


def _row(names: tuple[str, str], a: Row, b: Row) -> str:
    head = " · ".join(str(text) for text in (b.get("group"), b.get("id"), place(b)) if text)
    prompt = "\n\n".join(f"{message['role']}: {message['content']}" for message in b["prompt"])
    answers = "".join(
        f'<div class="{"right" if row["correct"] else "wrong"}"><span class="quiet">{escape(name)}</span>'
        f"<pre>{marked}</pre></div>"
        for name, row, marked in zip(names, (a, b), _marked(a["answer"], b["answer"]), strict=True)
    )
    parts = "".join(
        f'<span class="quiet">{escape(name)}</span><pre>{escape(text)}</pre>'
        for name, text in ((_("Expected"), b["gold"]), (_("Prompt"), prompt))
    )
    return f'<details><summary>{escape(head)}</summary><div class="pair">{answers}</div>{parts}</details>'


def _marked(one: str, other: str) -> tuple[str, str]:
    """Both answers as HTML, with what the other lacks marked."""
    words = [re.findall(r"[a-zA-Z0-9]+|\s+|.", text) for text in (one, other)]
    if max(map(len, words)) > MOST_WORDS:
        return escape(one), escape(other)
    pieces: tuple[list[str], list[str]] = ([], [])
    blocks = difflib.SequenceMatcher(None, words[0], words[1], autojunk=False).get_opcodes()
    for kind, start_one, stop_one, start_other, stop_other in blocks:
        spans = (words[0][start_one:stop_one], words[1][start_other:stop_other])
        for piece, span in zip(pieces, spans, strict=True):
            text = escape("".join(span))
            piece.append(text if kind == "equal" or not text else f"<mark>{text}</mark>")
    return "".join(pieces[0]), "".join(pieces[1])


def _method() -> str:
    lines = [
        _("Interval of an accuracy: Wilson. Interval of a difference: Newcombe's for pairs (1998, method 10)."),
        _("Chance: the exact two-sided test of McNemar over the rows that changed; beyond chance is below 0.05."),
        _("Over groups, types and several results: corrected by Holm."),
    ]
    return f"<details><summary>{escape(_('How this was computed'))}</summary>{_lines(lines)}</details>"
