"""The look of the pages: what they share, from the frame to a bar with its interval.

A page needs nothing but itself: it may load nothing and send nothing (its Content-Security-Policy tells the browser),
and runs one script of ours, which sorts tables and chooses rows; without it the page shows all. Knows texts and shares,
and nothing of what is shown.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from tunesmith.evaluate.results import percent
from tunesmith.i18n import _, language
from tunesmith.log import escape as visible

STYLE = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, "Noto Sans SC", sans-serif; color: #1f2933; max-width: 60rem; margin: 2.5rem auto;
  padding: 0 1rem; overflow-wrap: break-word }
h1 { font-size: 1.6rem; line-height: 1.3; margin: 0 0 .8rem } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem }
.quiet { color: #66727f } .scroll { overflow-x: auto } .said { white-space: nowrap; padding-left: .3rem }
table { border-collapse: collapse } td, th { padding: .25rem .9rem .25rem 0; text-align: left; font-weight: normal }
th { color: #66727f } .number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.chart td:first-child { min-width: 6.5rem; overflow-wrap: anywhere }
.chart th { cursor: pointer; white-space: nowrap } th[aria-sort=ascending]::after { content: " ▲" }
th[aria-sort=descending]::after { content: " ▼" }
tr[data-group] { cursor: pointer } tr[data-group]:hover, tr.chosen { background: #eef4fb }
.bar { width: 18rem; min-width: 6rem }
.bar div { position: relative; height: 1rem; background: #eef1f4; margin: .15rem 0 }
.bar i { position: absolute; inset: 0 auto 0 0; background: #5a93d6 } .before i { background: #c9dcf2 !important }
.bar b { position: absolute; top: calc(50% - 1px); height: 2px; background: #1f2933 }
.bar u { position: absolute; top: -.2rem; bottom: -.2rem; border-left: 1px dashed #7b8794 }
.two div { height: .7rem }
.right { background: #dbe9f8 } .wrong { background: #fae3cf } .confusion td { text-align: right; padding: .3rem .9rem }
.confusion th { white-space: nowrap }
details { border-top: 1px solid #d9dee4; padding: .5rem 0 } summary { cursor: pointer }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .2rem 0 .8rem; padding: .5rem .7rem; background: #f5f7f9;
  font: 13px/1.5 ui-monospace, "Noto Sans SC", monospace }
input { font: inherit; padding: .2rem .5rem; border: 1px solid #b9c2cc; border-radius: 4px; width: 16rem;
  max-width: 60% }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1rem } mark { background: #ffe08a }
.pair pre { background: none }
@media (max-width: 40rem) { .pair { grid-template-columns: 1fr } .bar { width: 6rem } td, th { padding-right: .6rem }
  body { margin: 1.2rem auto } h1 { font-size: 1.3rem } }
"""

SCRIPT = """
"use strict";
for (const table of document.querySelectorAll(".chart")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") === "descending";
    const value = row => {
      const cell = row.cells[column];
      return cell.dataset.by === undefined ? cell.textContent : Number(cell.dataset.by);
    };
    const order = (a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0) * (up ? 1 : -1);
    body.append(...[...body.rows].sort(order));
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
  }));
}
const rows = [...document.querySelectorAll("details[data-group]")];
const bars = [...document.querySelectorAll("tr[data-group]")];
for (const find of document.querySelectorAll(".find")) {
  find.hidden = false;
  find.querySelector("input").addEventListener("input", show);
}
for (const bar of bars) bar.addEventListener("click", () => {
  const chosen = !bar.classList.contains("chosen");
  for (const other of bars) other.classList.toggle("chosen", other === bar && chosen);
  show();
});
function show() {
  const bar = bars.find(bar => bar.classList.contains("chosen"));
  const words = [...document.querySelectorAll(".find input")].map(input => input.value.toLowerCase());
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    const other = bar && row.dataset[bar.dataset.kind] !== bar.dataset.group;
    row.hidden = other || !words.every(word => text.includes(word));
  }
  const left = rows.filter(row => !row.hidden).length;
  for (const told of document.querySelectorAll(".find output"))
    told.textContent = left < rows.length ? told.dataset.text.replace("#", left).replace("#", rows.length) : "";
}
"""
_ALLOWED = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_ALLOWED}'; form-action 'none'"


def write_page(title: str, body: str, path: Path) -> Path:
    """A page of this look; `body` is HTML in which every text went through `shown`."""
    page = (
        f'<!doctype html>\n<html lang="{language()}">\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{shown(title)}</title>\n<style>{STYLE}</style>\n{body}\n<script>{SCRIPT}</script>\n</html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def shown(text: str) -> str:
    """A text as HTML, whatever it is: markup is told and not followed, and characters that hide or turn others too."""
    return escape(visible(text, keep="\n\t"))


def lines(texts: Iterable[str]) -> str:
    return f'<p class="quiet">{"<br>".join(map(shown, texts))}</p>'


def cells(tag: str, texts: Iterable[str]) -> str:
    return "".join(f"<{tag}>{shown(text)}</{tag}>" for text in texts)


def chart(heads: Iterable[str], rows: Iterable[str]) -> str:
    """A table that is sorted by a click on a heading; `rows` are HTML, numbers in `data-by`."""
    head = f"<thead><tr>{cells('th', heads)}</tr></thead>"
    return (
        f'<div class="scroll"><table class="chart">\n{head}\n<tbody>\n' + "\n".join(rows) + "\n</tbody></table></div>"
    )


def bar(share: dict[str, Any], name: str, whole: float | None = None, look: str = "") -> str:
    """A share of right answers, over it its interval and a mark at the share of all rows; the figures on a touch."""
    low, high = share["interval"]
    drawn = f'<i style="width:{share["accuracy"]:.1%}"></i><b style="left:{low:.1%};width:{high - low:.1%}"></b>'
    mark = f'<u style="left:{whole:.1%}"></u>' if whole is not None else ""
    text = _("{name}: {share} right ({correct} of {n}), 95 % interval {low} to {high}").format(
        name=name, share=percent(share["accuracy"]), correct=share["correct"], n=share["n"], low=percent(low),
        high=percent(high),
    )  # fmt: skip
    return f'<div class="{look}" title="{shown(text)}">{drawn}{mark}</div>'


def chosen_by(kind: str, name: str) -> str:
    """Attributes of a table's row: a click on it leaves the rows below that have this group, or this type."""
    return f'data-kind="{kind}" data-group="{shown(name)}"'


def row_of(row: dict[str, Any], head: str, body: str, *, is_open: bool = False) -> str:
    """A row of the results, to be opened; found by its group, its type and its words."""
    names = f'data-group="{shown(str(row.get("group")))}" data-type="{shown(str(row.get("type")))}"'
    return f"<details {names}{' open' if is_open else ''}><summary>{shown(head)}</summary>{body}</details>"


def finder() -> str:
    """Where words are typed that the rows below must have; a click on a group above chooses too."""
    text = _("{shown} of {n} rows").format(shown="#", n="#")
    return (
        f'<p class="find" hidden><input type="search" placeholder="{shown(_("Find in these rows"))}"> '
        f'<output class="quiet" data-text="{shown(text)}"></output></p>'
    )
