"""`data split`: raw rows to three files by the real command, with every promise of the split looked up in the files."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tunesmith.actions.prepare import prepare
from tunesmith.actions.voice import Voice
from tunesmith.cli import main
from tunesmith.config.load import load
from tunesmith.data import dataset

DEFECTS = Path(__file__).parents[2] / "shared" / "assets" / "data" / "ruff-defects"
real = pytest.mark.skipif(not DEFECTS.exists(), reason="the real data sets are not here")
PAIRS = ("--group-by", "id", "--group-pattern", "(.*)-(bad|good)")


def raw_row(number: int, subtype: str, kind: str = "bad") -> dict[str, Any]:
    return {
        "id": f"{subtype}{number}-{kind}",
        "instruction": [{"subtype": subtype}],
        "input": {"task": f"检查 {number}", "event": f"event {subtype} {number} {kind}", "output_format": "判断和原因"},
        "output": {"judgement": "有缺陷" if kind == "bad" else "无缺陷", "reason": f"because {number}"},
    }


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A folder of raw files, one for each subtype: `once` has one row, the others pairs."""
    folder = tmp_path / "raw"
    folder.mkdir()
    rows = {"once": [raw_row(0, "once")]}
    for subtype in ("leak", "crash", "noise"):
        rows[subtype] = [raw_row(i, subtype, kind) for i in range(6) for kind in ("bad", "good")]
    for subtype, found in rows.items():
        (folder / f"{subtype}.json").write_text(json.dumps(found, ensure_ascii=False, indent=1), encoding="utf-8")
    return folder


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def split(raw: Path, out: Path, *words: str) -> tuple[list[dict[str, Any]], ...]:
    assert main(["data", "split", str(raw), "--stratify-by", "subtype", "-o", str(out), *words]) == 0
    return tuple(rows(out / f"{name}.jsonl") for name in ("converted_data", "train", "test"))


def texts(found: list[dict[str, Any]]) -> set[str]:
    return {row["text"][0]["content"] for row in found}


def test_raw_rows_are_converted_and_split_in_one_command(raw, tmp_path, capsys):
    whole, train, test = split(raw, tmp_path / "out", "--test-ratio", "0.2")
    said = capsys.readouterr().err
    assert "preset defect-triage" in said
    assert len(whole) == 37
    assert len(test) == round(0.2 * 37)
    first = next(row for row in whole if row["subtype"] == "once")
    assert first == {
        "subtype": "once",
        "text": [
            {"role": "user", "content": "任务：检查 0\n\n事件：\nevent once 0 bad\n\n输出格式：\n判断和原因"},
            {"role": "assistant", "content": "判断:有缺陷\n\n原因：because 0"},
        ],
    }
    assert sorted(map(str, train + test)) == sorted(map(str, whole))
    assert not texts(train) & texts(test)
    assert {row["subtype"] for row in test} == {"once", "leak", "crash", "noise"}
    assert "1 (once)" in said


def test_templates_of_ones_own_and_columns_to_keep(raw, tmp_path):
    words = ("data.prompt_template={event}", "data.answer_template={judgement}", "--keep", "id")
    whole, _train, _test = split(raw, tmp_path / "out", *words)
    assert whole[0]["text"][0]["content"].startswith("event ")
    assert set(whole[0]) == {"subtype", "id", "text"}


@pytest.mark.parametrize("column", ["subtype", "instruction[0].subtype", "instruction.subtype"])
def test_a_nested_column_is_found_by_name_and_by_path(raw, tmp_path, column):
    out = tmp_path / "out"
    assert main(["data", "split", str(raw), "--stratify-by", column, "-o", str(out)]) == 0
    assert Counter(row["subtype"] for row in rows(out / "converted_data.jsonl"))["leak"] == 12


def test_of_several_subtypes_the_first_groups_and_all_are_kept(raw, tmp_path, capsys):
    several = raw_row(99, "leak") | {"instruction": [{"subtype": "leak"}, {"subtype": "crash"}]}
    (raw / "several.json").write_text(json.dumps([several]), encoding="utf-8")
    whole, _train, _test = split(raw, tmp_path / "out")
    found = [row for row in whole if "subtype_all" in row]
    assert [(row["subtype"], row["subtype_all"]) for row in found] == [("leak", ["leak", "crash"])]
    assert "several values of subtype: 1" in capsys.readouterr().err


def test_a_name_that_stands_in_two_places_is_asked_about(tmp_path, capsys):
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    row |= {"first": {"kind": "x"}, "second": {"kind": "y"}}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert main(["data", "split", str(path), "--stratify-by", "kind", "-o", str(tmp_path / "out")]) == 2
    assert "first.kind, second.kind" in capsys.readouterr().err


@pytest.mark.parametrize("choice", ["test", "train"])
def test_pairs_stay_together_and_a_single_row_goes_where_it_was_sent(raw, tmp_path, capsys, choice):
    _whole, train, test = split(raw, tmp_path / "out", *PAIRS, "--keep", "id", "--singletons", choice)
    codes = [{re.sub("-(bad|good)", "", row["id"]) for row in part} for part in (train, test)]
    assert not codes[0] & codes[1]
    assert ("once" in {row["subtype"] for row in test}) == (choice == "test")
    assert f"only {choice}ed: 1 (once)" in capsys.readouterr().err


def test_a_single_row_can_be_refused_and_nothing_is_written(raw, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["data", "split", str(raw), "--stratify-by", "subtype", "--singletons", "error", "-o", str(out)]
    assert main(words) == 2
    assert "once" in capsys.readouterr().err
    assert not out.exists()


def test_results_are_never_replaced_unasked(raw, tmp_path, capsys):
    out = tmp_path / "out"
    split(raw, out)
    before = (out / "test.jsonl").read_bytes()
    words = ["data", "split", str(raw), "--stratify-by", "subtype", "--seed", "7", "-o", str(out)]
    assert main(words) == 2
    assert capsys.readouterr().err.count("--overwrite") == 3
    assert (out / "test.jsonl").read_bytes() == before
    assert main([*words, "--overwrite"]) == 0
    assert (out / "test.jsonl").read_bytes() != before


def test_a_pattern_without_parentheses_is_refused(raw, tmp_path, capsys):
    words = ["data", "split", str(raw), "--group-by", "id", "--group-pattern", ".*", "-o", str(tmp_path / "out")]
    assert main(words) == 2
    assert "parentheses" in capsys.readouterr().err


def test_a_training_splits_by_the_same_settings(raw, tiny_folder):
    words = [f"data.train={raw}", "preset=defect-triage", "data.split_by=id", "data.split_pattern=(.*)-(bad|good)"]
    words += [f"model.name_or_path={tiny_folder}", "template.path=null"]
    for choice, there in (("test", True), ("train", False)):
        found = prepare(load(overrides=[*words, f"data.singletons={choice}"]).config, Voice()).rows
        parts = {name: list(found.parts[name].conversations()) for name in ("train", "test")}
        codes = [{c.meta["id"].split("-")[0] for c in part} for part in parts.values()]
        assert not codes[0] & codes[1]
        assert ("once" in {c.meta["subtype"] for c in parts["test"]}) == there
        assert any("once" in notice for notice in found.notices)


def test_what_is_left_of_a_class_is_trained_and_never_only_validated(raw, tiny_folder):
    twice = [raw_row(i, "twice") for i in range(2)]
    (raw / "twice.json").write_text(json.dumps(twice), encoding="utf-8")
    words = [f"data.train={raw}", "preset=defect-triage", "data.validation_ratio=0.2", "data.test_ratio=0.4"]
    words.append(f"model.name_or_path={tiny_folder}")
    found = prepare(load(overrides=words).config, Voice()).rows
    kinds = {name: {c.meta["subtype"] for c in part.conversations()} for name, part in found.parts.items()}
    assert kinds["validation"] <= kinds["train"]
    assert "twice" in kinds["train"] & kinds["test"]


@real
@pytest.mark.parametrize("choice", ["test", "train", "error"])
def test_real_defects_with_each_choice_for_single_rows(tmp_path, capsys, choice):
    """57 subtypes: two have one row, five more have nothing but one pair."""
    words = ["data", "split", str(DEFECTS / "output"), "--stratify-by", "subtype", "--test-ratio", "0.2", *PAIRS]
    code = main([*words, "--singletons", choice, "--keep", "id", "-o", str(tmp_path / "out")])
    said = capsys.readouterr().err
    alone = ["eradicate", "flake8-debugger"]
    if choice == "error":
        assert code == 2
        assert all(name in said for name in alone)
        return
    assert code == 0
    whole, train, test = (rows(tmp_path / "out" / f"{name}.jsonl") for name in ("converted_data", "train", "test"))
    kinds = [{row["subtype"] for row in part} for part in (whole, train, test)]
    codes = [{re.sub("-(bad|good)$", "", row["id"]) for row in part} for part in (train, test)]
    assert not codes[0] & codes[1]
    assert not texts(train) & texts(test)
    assert (len(whole), len(train) + len(test), len(test)) == (1823, 1823, 365)
    assert f"only {choice}ed: 7 (eradicate" in said
    full, short = (kinds[2], kinds[1]) if choice == "test" else (kinds[1], kinds[2])
    assert (len(full), len(short)) == (57, 50)
    assert not set(alone) & short


@real
def test_real_defects_without_pairs_have_two_single_rows(tmp_path, capsys):
    _whole, _train, test = split(DEFECTS / "output", tmp_path / "out")
    assert "only tested: 2 (eradicate, flake8-debugger)" in capsys.readouterr().err
    assert len({row["subtype"] for row in test}) == 57


def test_the_three_files_train_as_they_are(raw, tmp_path):
    split(raw, tmp_path / "out")
    section = load(overrides=[]).config.data
    found = dataset.load(tmp_path / "out" / "train.jsonl", section)
    assert (found.format, found.rejected) == ("text", [])
    assert all(c.meta.keys() == {"subtype"} for c in found.conversations)


@pytest.mark.parametrize("page", ["data.md", "data.zh-CN.md"])
def test_every_command_of_the_page_on_data_runs(raw, monkeypatch, capsys, page):
    monkeypatch.chdir(raw.parent)
    text = (Path(__file__).parents[1] / "docs" / page).read_text(encoding="utf-8")
    found = [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("tunesmith ")]
    assert {words[1] for words in found} == {"inspect", "split", "clean", "balance", "augment", "convert", "example"}
    for words in found:
        assert main(words) == 0, f"{words}\n{capsys.readouterr().err}"
