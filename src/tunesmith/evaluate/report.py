"""report.html: an evaluation on one page that needs nothing but itself, and runs no script.

Knows a report as it is written, and how to show it; every text of a row is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from tunesmith.evaluate.measures import figures
from tunesmith.evaluate.results import OTHER, UNREAD, Report, percent
from tunesmith.i18n import _, language

MOST_WRONG = 200

STYLE = """
body { font: 15px/1.5 system-ui, "Noto Sans SC", sans-serif; color: #1f2933; max-width: 60rem; margin: 2.5rem auto;
  padding: 0 1rem }
h1 { font-size: 1.7rem; margin: 0 } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem } .quiet { color: #66727f }
table { border-collapse: collapse } td, th { padding: .25rem .9rem .25rem 0; text-align: left; font-weight: normal }
th { color: #66727f } .number { text-align: right; font-variant-numeric: tabular-nums }
.bar { width: 18rem; padding: 0 } .bar div { position: relative; height: 1rem; background: #eef1f4 }
.bar i { position: absolute; inset: 0 auto 0 0; background: #5a93d6 }
.bar b { position: absolute; top: 45%; height: 10%; background: #1f2933 }
.right { background: #dcecdc } .wrong { background: #f8e0d4 } .confusion td { text-align: right; padding: .3rem .9rem }
details { border-top: 1px solid #d9dee4; padding: .5rem 0 } summary { cursor: pointer }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .2rem 0 .8rem; padding: .5rem .7rem; background: #f5f7f9;
  font: 13px/1.5 ui-monospace, "Noto Sans SC", monospace }
"""


def write(report: Report, path: Path) -> Path:
    """The page at `path`: the figure, the groups, what was taken for what, and the wrong rows (the first 200)."""
    title = _("{share} of {n} answers are right").format(share=percent(report.accuracy), n=report.totals["n"])
    body = "\n".join(
        [
            f"<h1>{escape(title)}</h1>",
            _summary(report),
            _shares(_("By group"), report.totals["groups"]),
            _shares(_("By type"), report.totals.get("types", {})),
            _figures(report),
            _confusion(report),
            _wrong(report),
        ]
    )
    return write_page(title, body, path)


def write_page(title: str, body: str, path: Path) -> Path:
    """A page of this look; `body` is HTML in which every text is escaped already."""
    page = (
        f'<!doctype html>\n<html lang="{language()}">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n{body}\n</html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def _summary(report: Report) -> str:
    totals = report.totals
    low, high = totals["interval"]
    lines = [
        _("On {n} rows, chance alone leaves the true share between {low} and {high} (95 % interval).").format(
            n=totals["n"], low=percent(low), high=percent(high)
        )
    ]
    if report.settings.get("best_by") == "test" and report.settings.get("step") is not None:
        lines.append(_("These test rows also chose the best checkpoint, so the result on them flatters."))
    if totals["macro_accuracy"] is not None:
        share = percent(totals["macro_accuracy"])
        lines.append(_("Every group counted the same: {share}.").format(share=share))
    for count, sentence in (
        (totals["empty"], _("{n} answers are empty.")),
        (totals["unparsed"], _("{n} answers can't be read; they count as wrong.")),
        (totals["unfinished"], _("{n} answers reached generation.max_new_tokens before their end.")),
    ):
        if count:
            lines.append(sentence.format(n=count))
    return f'<p class="quiet">{"<br>".join(map(escape, lines))}</p>'


def _shares(heading: str, shares: dict[str, dict[str, Any]]) -> str:
    if not shares:
        return ""
    rows = []
    for name, group in sorted(shares.items(), key=lambda item: (-item[1]["accuracy"], item[0])):
        rows.append(
            f'<tr><td>{escape(name)}</td><td class="bar">{bar(group)}</td>'
            f'<td class="number">{percent(group["accuracy"])}</td>'
            f'<td class="number quiet">{group["correct"]} / {group["n"]}</td></tr>'
        )
    return f"<h2>{escape(heading)}</h2>\n<table>\n" + "\n".join(rows) + "\n</table>"


def _figures(report: Report) -> str:
    """What each metric says; nothing where that is the one share above."""
    found = [*figures(report.totals["scores"])]
    if len(found) < 2:
        return ""
    rows = [f'<tr>{cells("td", line[:2])}<td class="number">{escape(line[2])}</td></tr>' for line in found]
    signatures = [score["signature"] for score in report.totals["scores"].values() if "signature" in score]
    note = f'<p class="quiet">{"<br>".join(map(escape, signatures))}</p>' if signatures else ""
    return f"<h2>{escape(_('By metric'))}</h2>\n<table>\n" + "\n".join(rows) + f"\n</table>{note}"


def _confusion(report: Report) -> str:
    table = report.totals["confusion"]
    if not table:
        return ""
    given = list(table) + [name for name in (OTHER, UNREAD) if any(name in counts for counts in table.values())]
    names = {OTHER: _("something else"), UNREAD: _("not readable")}
    head = cells("th", ["", *(names.get(name, name) for name in given)])
    rows = []
    for expected, counts in table.items():
        counted = [
            f'<td class="{"right" if name == expected else "wrong"}">{counts[name]}</td>'
            if name in counts
            else "<td></td>"
            for name in given
        ]
        rows.append(f"<tr><th>{escape(expected)}</th>{''.join(counted)}</tr>")
    note = _("Rows: what was expected. Columns: what was answered.")
    return (
        f'<h2>{escape(_("What was taken for what"))}</h2>\n<p class="quiet">{escape(note)}</p>\n'
        f'<table class="confusion">\n<tr>{head}</tr>\n' + "\n".join(rows) + "\n</table>"
    )


def _wrong(report: Report) -> str:
    wrong = [row for row in report.rows if not row["correct"]]
    if not wrong:
        return f"<p>{escape(_('No row is wrong.'))}</p>"
    heading = _("{n} rows are wrong").format(n=len(wrong))
    if len(wrong) > MOST_WRONG:
        heading = _("The first {shown} of {n} wrong rows").format(shown=MOST_WRONG, n=len(wrong))
    return f"<h2>{escape(heading)}</h2>\n" + "\n".join(map(_row, wrong[:MOST_WRONG]))


def _row(row: dict[str, Any]) -> str:
    place = " · ".join(str(row[key]) for key in ("group", "id", "origin") if row[key])
    prompt = "\n\n".join(f"{message['role']}: {message['content']}" for message in row["prompt"])
    parts = (
        (_("Expected"), row["gold"]),
        (_("Answered"), row["answer"]),
        (_("Reasoning before the answer"), row["reasoning"]),
        (_("Prompt"), prompt),
    )
    texts = "".join(
        f'<span class="quiet">{escape(name)}</span><pre>{escape(text)}</pre>' for name, text in parts if text
    )
    return f"<details open><summary>{escape(place or str(row['index']))}</summary>{texts}</details>"


def bar(share: dict[str, Any]) -> str:
    """A share of right answers, and over it its interval."""
    low, high = share["interval"]
    drawn = f'<i style="width:{share["accuracy"]:.1%}"></i><b style="left:{low:.1%};width:{high - low:.1%}"></b>'
    return f"<div>{drawn}</div>"


def cells(tag: str, texts: Iterable[str]) -> str:
    return "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)
