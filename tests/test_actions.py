"""Actions as every door calls them: what they find before training, what they say, and where rows go."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tunesmith.actions.findings import Findings
from tunesmith.actions.prepare import prepare
from tunesmith.actions.record import whole_paths
from tunesmith.actions.rows import digest
from tunesmith.actions.voice import Advance, Journal, Voice
from tunesmith.config.load import load
from tunesmith.config.schema import Config, DataSection
from tunesmith.data.prompts import read_prompts
from tunesmith.errors import ConfigError, DataError, ModelError, Problem, TemplateError
from tunesmith.model.folder import locate


class Heard(Voice):
    """A voice that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[tuple[int, int]] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    @contextmanager
    def progress(self, title: str) -> Iterator[Advance]:
        yield lambda done, total, text: self.steps.append((done, total))


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_LANG", "en")


def write_rows(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def rows(first: int, last: int) -> list[object]:
    return [{"question": f"Is pump {i} faulty?", "answer": "Yes."} for i in range(first, last)]


def config(data: Path, model: Path, *overrides: str) -> Config:
    return load(None, overrides, {"data.train": data, "model.name_or_path": model}).config


# --- what is found before training ------------------------------------------------------------------------------------


def test_findings_come_together_each_once() -> None:
    findings = Findings()
    findings.raise_all()
    for error in (ConfigError("no model"), DataError("no data"), ConfigError("no model")):
        with findings:
            raise error
    with pytest.raises(ConfigError) as raised:
        findings.raise_all()
    assert raised.value.problems == [Problem("", "no model"), Problem("", "no data")]
    with pytest.raises(ZeroDivisionError), Findings():
        _ = 1 / 0


def test_rows_of_every_file_add_up(tiny_folder: Path, tmp_path: Path) -> None:
    long = {"question": "Why?", "answer": "It leaks. " * 60}
    train = write_rows(tmp_path / "train.jsonl", [*rows(0, 20), *rows(0, 2), long, {"question": "And?"}])
    test = write_rows(tmp_path / "test.jsonl", [*rows(30, 34), long, {"answer": "No."}])
    voice = Heard()
    settings = ("data.max_length=60", "data.max_dropped=0.2", f"data.test={test}", "data.validation_ratio=0.25")
    prepared = prepare(config(train, tiny_folder, *settings), voice)
    totals = prepared.ledger["totals"]
    assert totals == {"rows": 24, "train": 15, "validation": 5, "duplicates": 2, "rejected": 2}
    assert prepared.ledger["files"]["test"] == {"rows": 6, "accepted": 4, "duplicates": 0, "rejected": 2}
    assert prepared.ledger["rejected"] == {"too_long": 1, "missing_column": 1}
    assert [(Path(r.origin.file).name, r.origin.line) for r in prepared.rows.rejected()] == [
        ("test.jsonl", 5),
        ("test.jsonl", 6),
        ("train.jsonl", 23),
        ("train.jsonl", 24),
    ]
    assert prepared.chooser == "validation"
    assert voice.steps[-2:] == [(24, 24), (6, 6)]


def test_a_share_too_small_for_one_row_is_said(tiny_folder: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "d.jsonl", rows(0, 1))
    prepared = prepare(config(data, tiny_folder, "data.test_ratio=0.2"), Voice())
    assert prepared.ledger["totals"]["train"] == 1
    assert "No row is left for testing" in prepared.notices[-1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "There are no rows."),
        ([{"question": "And?"}] * 3, "3 of 3 rows (100%) can't be trained"),
        ([{"messages": [{"role": "user", "content": "Hi"}]}] * 3, "no_answer 3"),
    ],
)
def test_data_without_an_answer_are_refused(
    content: list[object], said: str, tiny_folder: Path, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "d.jsonl", [*content])
    with pytest.raises(DataError) as raised:
        prepare(config(data, tiny_folder), Voice())
    assert said in str(raised.value) or "not recognised" in str(raised.value)


def test_with_every_loss_allowed_something_must_still_be_left(tiny_folder: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "d.jsonl", [{"question": "Why?", "answer": "It leaks. " * 60}])
    with pytest.raises(DataError, match="Not one answer is left to train"):
        prepare(config(data, tiny_folder, "data.max_dropped=1", "data.max_length=32"), Voice())
    with pytest.raises(DataError, match="longer than data.max_length"):
        prepare(config(data, tiny_folder, "data.max_dropped=1", "data.max_length=32", "data.overflow=error"), Voice())


def test_reasoning_without_a_place_is_one_decision(tiny_folder: Path, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho", "thinking": "Hm"}]
    data = write_rows(tmp_path / "d.jsonl", [{"messages": turns}])
    with pytest.raises(TemplateError, match="template.thinking"):
        prepare(config(data, tiny_folder), Voice())
    counts = [
        prepare(config(data, tiny_folder, f"template.thinking={choice}"), Voice()).train.trained_tokens
        for choice in ("keep", "strip")
    ]
    assert counts[0] > counts[1]


def test_a_name_that_is_no_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="neither a folder or file here"):
        locate("nobody/nothing", weights=False)


# --- files ------------------------------------------------------------------------------------------------------------


def test_the_hash_is_of_the_data_and_not_of_what_lies_beside(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", rows(0, 2))
    before = digest([tmp_path])
    (tmp_path / "run.yaml").write_text("method: lora\n")
    (tmp_path / "runs").mkdir()
    write_rows(tmp_path / "runs" / "metrics.jsonl", rows(0, 1))
    assert digest([tmp_path]) == before
    write_rows(tmp_path / "b.jsonl", rows(2, 3))
    assert digest([tmp_path]) != before


def test_rows_split_the_same_way_every_time(tiny_folder: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "d.jsonl", rows(0, 40))
    settings = config(data, tiny_folder, "data.test_ratio=0.2", "data.validation_ratio=0.2")
    first, second = ({k: p.rows.tolist() for k, p in prepare(settings, Voice()).rows.parts.items()} for _ in "12")
    assert first == second
    assert sorted(i for part in first.values() for i in part) == list(range(40))
    assert {name: len(part) for name, part in first.items()} == {"train": 24, "validation": 8, "test": 8}


def test_only_what_lies_here_becomes_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "d.jsonl", rows(0, 1))
    (tmp_path / "exact").mkdir()
    values = {"data.train": "d.jsonl", "model.name_or_path": "owner/model", "evaluation.metrics": ["exact"]}
    found = whole_paths(load(values=values).config)
    assert found.data.train == tmp_path / "d.jsonl"
    assert found.model.name_or_path == "owner/model"
    assert found.evaluation.metrics == ["exact"]
    assert found.training.output_dir == tmp_path / "runs" / "d"


def test_nested_rows_are_asked_with_and_without_their_answer(tmp_path: Path) -> None:
    section = DataSection(prompt_template="Task: {task}", answer_template="Judgement: {judgement}")
    asked = {"input": {"task": "Is it faulty?"}}
    data = write_rows(
        tmp_path / "d.jsonl", [asked | {"output": {"judgement": "yes"}}, asked, {"prompt": "Hi"}, {"a": 1}]
    )
    found, _notices = read_prompts(data, section)
    questions = [p.conversation.messages[-1].content if p.conversation else None for p in found]
    assert questions == ["Task: Is it faulty?", "Task: Is it faulty?", "Hi", None]
    assert [p.reference.content if p.reference else None for p in found] == ["Judgement: yes", None, None, None]
    assert "d.jsonl:4" in str(found[3].error)


def test_tools_and_system_of_a_prompt_are_kept(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "Hi"}], "system": "Be short.", "tools": [{"name": "look"}]}
    [prompt], _notices = read_prompts(write_rows(tmp_path / "d.jsonl", [row]), DataSection())
    assert prompt.conversation is not None
    assert [m.role for m in prompt.conversation.messages] == ["system", "user"]
    assert prompt.conversation.tools == ({"type": "function", "function": {"name": "look"}},)


# --- voices -----------------------------------------------------------------------------------------------------------


def test_what_is_said_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    heard = Heard()
    journal = Journal(heard, logging.getLogger("journal"))
    with caplog.at_level(logging.INFO):
        journal.say("100 % of it")
    with journal.progress("Work") as advance:
        advance(1, 2, "")
    assert heard.lines == [record.getMessage() for record in caplog.records] == ["100 % of it"]
    assert heard.steps == [(1, 2)]
