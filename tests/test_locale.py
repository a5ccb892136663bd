"""The Chinese catalogue says all that the code says. Run as a program (`make locale`) this file brings it up to date:
new sentences come in untranslated, those that nobody says any more go, and the compiled file is written."""

from __future__ import annotations

import ast
import ctypes
import gettext
import os
import re
import string
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from babel.messages import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

from tunesmith import __version__, i18n
from tunesmith.cli import main
from tunesmith.config.settings import settings

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "tunesmith"
SCHEMA = "src/tunesmith/config/schema.py"
PO = SOURCE / "locale" / "zh" / "LC_MESSAGES" / "tunesmith.po"
STEADY = datetime(2026, 1, 1, tzinfo=UTC)  # a date of today would change the file where no sentence has
HEADER = "# Chinese for tunesmith. `make locale` brings it up to the sentences in the code."


BY_VARIABLE = {"src/tunesmith/config/reference.py", "src/tunesmith/config/write.py"}  # they say the descriptions


def arguments() -> Iterator[tuple[str, ast.expr]]:
    """(file, argument) of every call of `_`."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_":
                yield path.relative_to(ROOT).as_posix(), node.args[0]


def sentences() -> dict[str, list[str]]:
    """Every sentence that is said through `_`, and the settings' descriptions: sentence -> files that say it."""
    found: dict[str, list[str]] = {}
    for file, argument in arguments():
        if isinstance(argument, ast.Constant):
            found.setdefault(argument.value, []).append(file)
    for prop in settings().values():
        found.setdefault(prop["description"], []).append(SCHEMA)
    return found


def catalogue() -> Catalog:
    with PO.open("rb") as file:
        return read_po(file, locale="zh")


def parts(sentence: str) -> set[tuple[str | None, str | None, str | None]]:
    """The named parts of a sentence, each with its form: ("share", ".0%", None)."""
    return {part[1:] for part in string.Formatter().parse(sentence) if part[1] is not None}


TRANSLATED = {message.id: message for message in catalogue() if message.id} if PO.exists() else {}


def test_every_sentence_is_translated_and_nothing_else():
    assert set(TRANSLATED) == set(sentences()), "run `make locale`, then translate what is new"
    assert [m.id for m in TRANSLATED.values() if m.fuzzy or not m.string] == []
    assert catalogue().obsolete == {}


def test_sentences_are_written_where_they_are_said():
    assert {file for file, argument in arguments() if not isinstance(argument, ast.Constant)} == BY_VARIABLE


def test_both_languages_name_the_same_parts():
    assert {m.id: parts(m.string) for m in TRANSLATED.values()} == {m.id: parts(m.id) for m in TRANSLATED.values()}


def test_edges_are_kept_since_sentences_are_joined():
    for message in TRANSLATED.values():
        assert message.string.startswith("\n") == message.id.startswith("\n"), message.id
        assert message.string.endswith("\n") == message.id.endswith("\n"), message.id


def test_chinese_has_chinese_punctuation():
    wrong = [m.string for m in TRANSLATED.values() if re.search(r"[\u4e00-\u9fff][,;:?!]|[\u4e00-\u9fff]\.$", m.string)]
    assert wrong == []


def test_the_compiled_catalogue_is_fresh():
    with PO.with_suffix(".mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    assert {id: compiled.gettext(id) for id in TRANSLATED} == {id: m.string for id, m in TRANSLATED.items()}


@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize(
    ("words", "chinese", "english"),
    [
        (["--help"], "微调", "fine-tuned"),
        (["check", "lora.rnak=8"], "没有 lora.rnak 这个设置", "lora.rnak is not a setting"),
    ],
)
def test_help_and_errors_are_in_the_readers_language(language, words, chinese, english, tmp_path):
    env = os.environ | {"TUNESMITH_LANG": language, "PYTHONIOENCODING": "utf-8"}
    call = [sys.executable, "-m", "tunesmith", *words]
    done = subprocess.run(call, env=env, cwd=tmp_path, capture_output=True, check=False)
    said = (done.stdout + done.stderr).decode("utf-8")
    assert (chinese in said, english in said) == (language == "zh", language == "en")


GLOSSARY = ROOT / "docs" / "glossary.md"
INNER = re.compile(r"\b(?:forest|trie|floor|origin)s?\b|森林|字典树|前缀树|楼层", re.IGNORECASE)


def glossary() -> dict[str, str]:
    """The first table: English word -> its one Chinese word."""
    table = GLOSSARY.read_text(encoding="utf-8").partition("\n\n|")[2].partition("\n\n")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return dict(cells)


@pytest.mark.parametrize(("english", "chinese"), glossary().items())
def test_one_chinese_word_for_one_thing(english, chinese):
    said = re.compile(rf"(?<![-\w.{{]){english}s?(?![-\w.}}]\w)", re.IGNORECASE)
    used = [message for message in TRANSLATED.values() if message.string and said.search(message.id)]
    assert used, "no message says it any more"
    assert {message.id: message.string for message in used if chinese not in message.string} == {}


def test_inner_words_stay_inside():
    """What we call our own structures is nothing to a user; the names of a sentence's parts are not said."""
    said = [*sentences(), *(message.string for message in TRANSLATED.values())]
    assert [text for text in said if INNER.search(re.sub(r"\{.*?\}", "", text))] == []


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_TW"}, "zh"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "en_US.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_CN.GBK"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "TUNESMITH_LANG": "en"}, "en"),
        ({"TUNESMITH_LANG": "zh"}, "zh"),
    ],
)
def test_the_locale_chooses_the_language(environment, expected, monkeypatch):
    for name in ("TUNESMITH_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert i18n.language() == expected


@pytest.mark.parametrize(("number", "expected"), [(0x804, "zh"), (0x404, "zh"), (0x409, "en"), (0, "en")])
def test_windows_names_its_language_by_number(number, expected, monkeypatch):
    for name in ("TUNESMITH_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "win32")
    kernel = SimpleNamespace(GetUserDefaultUILanguage=lambda: number)
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    assert i18n.language() == expected


def test_five_mistakes_are_five_lines_of_chinese(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNESMITH_LANG", "zh")
    Path("pumps.jsonl").write_text("", encoding="utf-8")
    Path("run.yaml").write_text(
        "lora:\n  rnak: 8\ntraining:\n  learning_rate: fast\n  bf16: true\n  fp16: true\n"
        "data:\n  train: pmups.jsonl\nmethod: qlora\n",
        encoding="utf-8",
    )
    assert main(["check", "run.yaml"]) == 2
    *lines, last = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == [f"run.yaml:{n}" for n in (2, 4, 5, 8, 9)]
    named = ("lora.rnak", "training.learning_rate", "training.fp16", "pumps.jsonl", "method")
    for line, name in zip(lines, named, strict=True):
        assert name in line
        assert line.endswith(("。", "？")), line
    assert last == "共 5 个问题，尚未训练任何内容。"


def refresh() -> None:
    kept = catalogue() if PO.exists() else Catalog(locale="zh")
    names = dict.fromkeys(("project", "last_translator", "language_team", "msgid_bugs_address"), "tunesmith")
    dates = dict.fromkeys(("creation_date", "revision_date"), STEADY)
    fresh = Catalog("zh", header_comment=HEADER, version=__version__, fuzzy=False, **names, **dates)
    for sentence, files in sorted(sentences().items(), key=lambda item: (item[1], item[0])):
        known = kept.get(sentence)
        fresh.add(sentence, known.string if known else "", locations=[(file, 0) for file in dict.fromkeys(files)])
    PO.parent.mkdir(parents=True, exist_ok=True)
    with PO.open("wb") as file:
        write_po(file, fresh, width=110, include_lineno=False)
    with PO.with_suffix(".mo").open("wb") as file:
        write_mo(file, fresh)
    open_ones = [message.id for message in fresh if message.id and not message.string]
    print(f"{len(fresh)} sentences, {len(open_ones)} of them not translated yet.", *open_ones, sep="\n")


if __name__ == "__main__":
    refresh()
