"""report.html: an evaluation on one page that needs nothing but itself.

Knows a report as it is written, and what of it to show.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.evaluate.measures import figures
from tunesmith.evaluate.page import bar, cells, chart, chosen_by, finder, lines, row_of, shown, write_page
from tunesmith.evaluate.results import OTHER, UNREAD, Report, percent
from tunesmith.i18n import _

MOST_WRONG = 200


def write(report: Report, path: Path) -> Path:
    """The page at `path`: the figure, the groups, what was taken for what, and the wrong rows (the first 200)."""
    title = _("{share} of {n} answers are right").format(share=percent(report.accuracy), n=report.totals["n"])
    body = "\n".join(
        [
            f"<h1>{shown(title)}</h1>",
            _summary(report),
            _shares(_("By group"), report, "groups"),
            _shares(_("By type"), report, "types"),
            _figures(report),
            _confusion(report),
            _wrong(report),
        ]
    )
    return write_page(title, body, path)


def _summary(report: Report) -> str:
    totals = report.totals
    low, high = totals["interval"]
    said = [
        _("On {n} rows, chance alone leaves the true share between {low} and {high} (95 % interval).").format(
            n=totals["n"], low=percent(low), high=percent(high)
        )
    ]
    if report.settings.get("best_by") == "test" and report.settings.get("step") is not None:
        said.append(_("These test rows also chose the best checkpoint, so the result on them flatters."))
    if totals["macro_accuracy"] is not None:
        share = percent(totals["macro_accuracy"])
        said.append(_("Every group counted the same: {share}.").format(share=share))
    for count, sentence in (
        (totals["empty"], _("{n} answers are empty.")),
        (totals["unparsed"], _("{n} answers can't be read; they count as wrong.")),
        (totals["unfinished"], _("{n} answers reached generation.max_new_tokens before their end.")),
    ):
        if count:
            said.append(sentence.format(n=count))
    return lines(said)


def _shares(heading: str, report: Report, kind: str) -> str:
    """The picture as a table: a bar for each name, the best on top, with its interval; the dashed line is all rows."""
    rows = []
    for name, group in sorted(report.totals[kind].items(), key=lambda item: (-item[1]["accuracy"], item[0])):
        low, high = group["interval"]
        rows.append(
            f"<tr {chosen_by(kind.removesuffix('s'), name)}><td>{shown(name or _('(none)'))}</td>"
            f'<td class="bar" data-by="{group["accuracy"]}">{bar(group, name, report.accuracy)}</td>'
            f'<td class="number" data-by="{group["accuracy"]}">{percent(group["accuracy"])}</td>'
            f'<td class="number quiet" data-by="{group["n"]}">{group["correct"]} / {group["n"]}</td>'
            f'<td class="number quiet" data-by="{low}">{percent(low)} – {percent(high)}</td></tr>'
        )
    if not rows:
        return ""
    heads = [_("Name"), "", _("Accuracy"), _("Rows"), _("95 % interval")]
    return f"<h2>{shown(heading)}</h2>\n{chart(heads, rows)}"


def _figures(report: Report) -> str:
    """What each metric says; nothing where that is the one share above."""
    found = [*figures(report.totals["scores"])]
    if len(found) < 2:
        return ""
    rows = [f'<tr>{cells("td", line[:2])}<td class="number">{shown(line[2])}</td></tr>' for line in found]
    signatures = [score["signature"] for score in report.totals["scores"].values() if "signature" in score]
    note = lines(signatures) if signatures else ""
    return f"<h2>{shown(_('By metric'))}</h2>\n<table>\n" + "\n".join(rows) + f"\n</table>{note}"


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
        rows.append(f"<tr><th>{shown(expected)}</th>{''.join(counted)}</tr>")
    note = _("Rows: what was expected. Columns: what was answered.")
    return (
        f"<h2>{shown(_('What was taken for what'))}</h2>\n{lines([note])}\n"
        f'<div class="scroll"><table class="confusion">\n<tr>{head}</tr>\n' + "\n".join(rows) + "\n</table></div>"
        f"{_classes(report)}"
    )


def _classes(report: Report) -> str:
    heads = [_("Label"), _("Found of its rows"), _("Right of its answers"), "F1", _("Rows")]
    rows = []
    for name, found in report.totals["classes"].items():
        shares = [found[key] for key in ("recall", "precision", "f1")]
        numbers = "".join(f'<td class="number" data-by="{share}">{percent(share)}</td>' for share in shares)
        rows.append(f'<tr><td>{shown(name)}</td>{numbers}<td class="number quiet">{found["n"]}</td></tr>')
    said = _("Every label counted the same, F1 is {share}.").format(share=percent(report.totals["macro_f1"]))
    return chart(heads, rows) + lines([said])


def _wrong(report: Report) -> str:
    wrong = [row for row in report.rows if not row["correct"]]
    if not wrong:
        return f"<p>{shown(_('No row is wrong.'))}</p>"
    heading = _("{n} rows are wrong").format(n=len(wrong))
    if len(wrong) > MOST_WRONG:
        heading = _("The first {shown} of {n} wrong rows").format(shown=MOST_WRONG, n=len(wrong))
    return f"<h2>{shown(heading)}</h2>\n{finder()}\n" + "\n".join(map(_row, wrong[:MOST_WRONG]))


def _row(row: dict[str, Any]) -> str:
    place = " · ".join(str(row[key]) for key in ("group", "id", "origin") if row[key])
    prompt = "\n\n".join(f"{message['role']}: {message['content']}" for message in row["prompt"])
    parts = (
        (_("Expected"), row["gold"]),
        (_("Answered"), row["answer"]),
        (_("Reasoning before the answer"), row["reasoning"]),
        (_("Prompt"), prompt),
    )
    texts = "".join(f'<span class="quiet">{shown(name)}</span><pre>{shown(text)}</pre>' for name, text in parts if text)
    return row_of(row, place, texts, is_open=True)
