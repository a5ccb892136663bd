"""What people read is true: commands run, tests and files that are named exist, pages made from the code are fresh."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.cli import main

ROOT = Path(__file__).parents[1]
READMES = ("README.md", "README.zh-CN.md")
PAGES = [
    *(*READMES, "CHANGELOG.md", "CONTRIBUTING.md"),
    *(
        page.relative_to(ROOT).as_posix()
        for folder in ("docs", "examples")
        for page in sorted((ROOT / folder).rglob("*.md"))
    ),
]

# What stands behind the names in the pages: models are the tiny one, files are these rows.
MODELS = (
    "Qwen/Qwen3-4B-Instruct-2507",
    "Qwen/Qwen2.5-7B-Instruct",
    "Qwen/Qwen3-8B",
    "cache/SmolLM2-135M-Instruct",
)
FILES = {
    "data.jsonl": [{"instruction": f"What is {i} and one?", "output": f"It is {i + 1}."} for i in range(10)],
    "questions.jsonl": [{"question": "Does the valve leak?"}, {"question": "Is the pump faulty?"}],
}
# Each command that a page may show, with the words that make it short. One that is not here fails.
SHORT = ("training.max_steps=2", "data.max_length=2048", "generation.max_new_tokens=4")
COMMANDS = {
    "init": (),
    "check": (),
    "preview": (),
    "train": SHORT,
    "chat": (),
    "batch": (),
    "eval": (),
    "compare": (),
    "all": (*SHORT, "data.test_ratio=0.2", "evaluation.limit=2"),
    "merge": (),
    "runs": (),
    "data inspect": (),
    "data split": (),
    "model check": (),
    "demo": (*SHORT, "evaluation.limit=2"),
}


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def commands(page: str) -> list[list[str]]:
    """The words of every command of a page, in blocks of code and in the running text, in order."""
    found: list[str] = []
    fenced = False
    for line in text(page).replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            fenced = not fenced
        else:
            found += re.findall(r"^tunesmith (.+?)(?:\s+#.*)?$" if fenced else r"`tunesmith ([^`]+)`", line)
    return [shlex.split(words) for words in found]


def quick(words: list[str]) -> list[str]:
    name = " ".join(words[:2]) if words[0] in ("data", "model") else words[0]
    assert name in COMMANDS, f"tunesmith {' '.join(words)}: a page shows a command that this test doesn't know"
    return [*words, *COMMANDS[name]]


@pytest.fixture
def desk(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the names of the pages mean something."""
    for model in MODELS:
        (tmp_path / model).parent.mkdir(exist_ok=True)
        (tmp_path / model).symlink_to(tiny_folder)
    for name, rows in FILES.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_every_command_of_a_page_runs(desk, monkeypatch, capsys):
    """In the order of the page; the examples have pages of their own (test_examples.py)."""
    found = commands(READMES[0])
    assert len(found) > 10
    for words in found:
        monkeypatch.setattr(sys, "stdin", io.StringIO("Does the valve leak?\nq\n"))
        assert main(quick(words)) == 0, f"tunesmith {' '.join(words)}\n{capsys.readouterr().err}"


def test_both_readmes_are_short_and_have_the_same_commands():
    assert commands(READMES[0]) == commands(READMES[1])
    assert [len(text(page).splitlines()) < 150 for page in READMES] == [True, True]


def test_a_command_that_nobody_knows_fails():
    with pytest.raises(AssertionError, match="doesn't know"):
        quick(["trian", "data.jsonl"])


@pytest.mark.parametrize("page", ["settings", "commands"])
def test_pages_made_from_the_code_are_fresh(page):
    module = {"settings": "config", "commands": "cli"}[page]
    words = [sys.executable, "-m", f"tunesmith.{module}.reference"]
    env = os.environ | {"TUNESMITH_LANG": "en", "COLUMNS": "40", "PYTHONIOENCODING": "utf-8"}
    made = subprocess.run(words, env=env, capture_output=True, check=True).stdout.decode("utf-8")
    assert text(f"docs/reference/{page}.md") == made, "run `make docs`"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)", text(page)):
        if not link.startswith(("https://", "http://")):
            assert (ROOT / page).parent.joinpath(link).exists(), link


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/design/")])
def test_files_and_tests_that_a_page_names_exist(page):
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", text(page)):
        assert f"def {name}(" in tests, name
    for path in re.findall(r"`((?:src|tests|docs)/[\w./-]+)`", text(page)):
        assert (ROOT / path).exists(), path


def test_the_reading_path_is_the_houses():
    from test_house import READING_PATH

    named = re.findall(r"`src/tunesmith/([\w/]+\.py)`", text("docs/design/reading-path.md"))
    assert tuple(named) == READING_PATH


def test_the_ways_to_install_are_one():
    """Each way of the README leads to the same dependencies: pyproject.toml, with the versions of constraints.txt."""
    import tomllib

    wanted = [line for line in text("requirements.txt").splitlines() if not line.startswith("#")]
    assert wanted == ["-c constraints.txt", "-e ."]
    assert "-r requirements.txt" in text("environment.yml")
    project = tomllib.loads(text("pyproject.toml"))["project"]
    extras = [each for group in project.get("optional-dependencies", {}).values() for each in group]
    name = re.compile(r"[a-z0-9]+", re.IGNORECASE)
    pinned = {"".join(name.findall(line.partition("==")[0])).lower() for line in text("constraints.txt").splitlines()}
    for each in project["dependencies"]:
        assert "".join(name.findall(re.split(r"[<>=\[]", each)[0])).lower() in pinned, each
    assert extras
    for page in READMES:
        for way in ("uv sync", "pip install -r requirements.txt", "conda env create -f environment.yml", "Windows"):
            assert way in text(page)


def test_the_license_is_mit():
    assert text("LICENSE").startswith("MIT License")
    assert "LICENSE" in text("CONTRIBUTING.md")
