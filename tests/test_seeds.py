"""The page on older scripts is whole: every numbered feature has a row, and every test that a row names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = {"docs/seeds.md": "not yet", "docs/seeds.zh-CN.md": "尚未支持"}

NUMBERS = {
    *(f"0.{n}" for n in (*range(1, 22), "8b", "9b")),
    *(f"1.{n}" for n in range(1, 14)),
    *(f"2.{n}" for n in range(1, 12) if n != 4),  # 2.4 and 3.7 do not exist
    *(f"3.{n}" for n in range(1, 17) if n != 7),
    *(f"4.{n}" for n in range(1, 13)),
}
SCRIPTS = 5


def rows(page: str) -> dict[str, tuple[str, str, str]]:
    """number -> (what it is, what to type, tests)."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"^\| (\d\.\w+) \| (.*?) \| (.*?) \| (.*?) \|$", text, re.MULTILINE)
    assert len({number for number, *_rest in found}) == len(found), "a number has two rows"
    return {number: (what, how, tests) for number, what, how, tests in found}


def named(tests: str) -> list[str]:
    return re.findall(r"`(test_\w+\.py::test_\w+)`", tests)


@pytest.mark.parametrize("page", PAGES)
def test_every_number_has_a_row(page):
    assert set(rows(page)) == NUMBERS


@pytest.mark.parametrize("page", PAGES)
def test_every_row_names_a_test_or_says_not_yet(page):
    for number, (what, how, tests) in rows(page).items():
        assert what, number
        assert how, number
        assert named(tests) or PAGES[page] in tests, number


def test_every_named_test_exists():
    there = {
        f"{path.name}::{function}"
        for path in (ROOT / "tests").glob("test_*.py")
        for function in re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    wanted = [(number, name) for number, (_what, _how, tests) in rows("docs/seeds.md").items() for name in named(tests)]
    assert [f"{number}: {name}" for number, name in wanted if name not in there] == []


def test_both_languages_say_the_same():
    english, chinese = (rows(page) for page in PAGES)
    for number, (_what, how, tests) in english.items():
        _zh, how_there, tests_there = chinese[number]
        assert named(tests) == named(tests_there), number
        assert re.findall(r"`[^`]+`", how) == re.findall(r"`[^`]+`", how_there), number
        assert ("not yet" in tests) == ("尚未支持" in tests_there), number


@pytest.mark.parametrize("page", PAGES)
def test_every_older_script_has_a_table(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    tables = text.split("\n## ")[2:]
    assert len(tables) == SCRIPTS
    for table in tables:
        lines = [line for line in table.splitlines() if line.startswith("| ")][1:]
        assert len(lines) >= 10
        assert all(line.count(" | ") == 1 and not line.endswith("|  |") for line in lines), table


def test_settings_that_the_page_names_exist():
    from tunesmith.config.settings import settings

    groups = {name.partition(".")[0] for name in settings() if "." in name}
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        pattern = r"`(?:-+\w+ )?([a-z]+\.[a-z][a-z0-9_]*)(?=[:=`])"
        found = {name for name in re.findall(pattern, text) if name.partition(".")[0] in groups}
        assert len(found) > 30
        assert sorted(found - set(settings())) == []
