"""The pages in a browser: an answer stays text, no request leaves the page, a telephone shows it, the chart acts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from test_evaluate import Model, right, row, run
from tunesmith.actions.compare import compare
from tunesmith.evaluate import report

CHROMIUM = "/usr/bin/chromium"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, without a screen."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"there is no {CHROMIUM}")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """`opened(file, width)`: the file as a page of that width; afterwards nothing but these files was asked for."""
    context = browser.new_context(offline=True)
    asked: list[str] = []
    files: list[str] = []

    def show(file: Path, width: int = 1100) -> Any:
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("dialog", lambda dialog: pytest.fail(f"a script of an answer ran: {dialog.message}"))
        page.on("pageerror", lambda error: pytest.fail(f"the page's own script failed: {error}"))
        page.set_viewport_size({"width": width, "height": 800})
        files.append(file.resolve().as_uri())
        page.goto(files[-1])
        return page

    yield show
    assert asked == files
    context.close()


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    '"><svg onload=alert(3)>',
    "</pre></details></script><script>alert(4)</script>",
    "\u202egnp.exe\u2066 \u200f",
    "\x00\x07\x1b[31mred\x9b",
    "<link rel=stylesheet href=http://127.0.0.1:9/x.css>",
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>",
    "a" * 3000,
]


def hostile_pages(folder: Path) -> list[Path]:
    rows = [row(i, "DEFECT", text, text) for i, text in enumerate(HOSTILE)]
    one = run(folder / "one<b>", Model(lambda i: HOSTILE[i]), rows)
    run(folder / "two", Model(lambda i: right(1) if i % 2 else HOSTILE[-i - 1]), rows)
    compared = compare([folder / "one<b>", folder / "two"], out=folder / "compared")
    return [report.write(one, folder / "report.html"), compared.folder / "report.html"]


def test_hostile_answers_are_text_and_no_request_leaves_the_page(opened, tmp_path):
    for file in hostile_pages(tmp_path):
        page = opened(file)
        page.evaluate("for (const row of document.querySelectorAll('details')) row.open = true")
        text = page.inner_text("body")
        for shown in (*HOSTILE[:4], r"\u202egnp.exe\u2066 \u200f", r"\x00\x07\x1b[31mred\x9b"):
            assert shown in text
        assert not set(text) & {"\u202e", "\u2066", "\u200f", "\x00", "\x07", "\x1b", "\x9b"}
        assert page.locator("script").count() == 1
        assert page.locator("img, svg, link, iframe, object").count() == 0


def test_the_pages_fit_a_telephone(opened, tmp_path):
    for file in hostile_pages(tmp_path):
        assert opened(file, width=360).evaluate("document.documentElement.scrollWidth") <= 360


def test_the_chart_in_the_page_sorts_and_chooses(opened, tmp_path):
    rows = [row(i, "DEFECT", "seal" if i < 6 else "door") for i in range(10)]
    report.write(run(tmp_path / "out", Model(lambda i: "no" if i > 2 else right(1)), rows), tmp_path / "report.html")
    page = opened(tmp_path / "report.html")
    names = page.locator("table.chart").first.locator("tbody td:first-child")
    assert names.all_inner_texts() == ["seal", "door"]
    for wanted in (["seal", "door"], ["door", "seal"]):  # first the most, then the least
        page.locator("th", has_text="Accuracy").first.click()
        assert names.all_inner_texts() == wanted
    page.locator("tr[data-group=door]").click()
    assert page.locator("details:visible").count() == 4
    assert page.inner_text(".find output") == "4 of 7 rows"
    page.locator("tr[data-group=door]").click()
    page.fill(".find input", "WHAT IS IT? 7")
    assert page.locator("details:visible").count() == 1
    assert "door: 0 % right (0 of 4), 95 % interval 0 % to 49 %" in page.content()
