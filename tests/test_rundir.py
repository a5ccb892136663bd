"""The questions to a run folder, and what a RUN on a command line means."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tunesmith import durable, rundir
from tunesmith.errors import RunError


def make_run(root: Path, losses: dict[int, float | None], *, full: bool = False, name: str = "triage") -> Path:
    run = root / name
    run.mkdir(parents=True)
    rundir.write_json(run / "run.json", {"base": "owner/base", "tokenizer": "owner/words", "finished": True})
    for step, loss in losses.items():
        add_checkpoint(run, step, loss, full=full)
    return run


def add_checkpoint(run: Path, step: int, loss: float | None, *, full: bool = False) -> Path:
    folder = run / f"checkpoint-{step}"
    (folder / "state").mkdir(parents=True)
    (folder / ("config.json" if full else "adapter_config.json")).write_text("{}")
    (folder / "state" / "optimizer.bin").write_bytes(b"moments")
    files = {str(f.relative_to(folder)): rundir.digest(f) for f in folder.rglob("*") if f.is_file()}
    manifest = {"format": 1, "step": step, "files": files, "eval_loss": loss, "loss": 2.0, "epoch": step / 100}
    rundir.write_json(folder / "manifest.json", manifest)
    return folder


def test_checkpoints_are_sorted_by_number_and_only_complete_ones_count(tmp_path: Path) -> None:
    run = make_run(tmp_path, {20: 1.5, 140: 1.2, 100: None})
    (run / "checkpoint-200").mkdir()  # cut short before its manifest
    add_checkpoint(run, 300, 0.1).rename(run / "checkpoint-300.tmp")
    assert [c.step for c in rundir.checkpoints(run)] == [20, 100, 140]
    assert rundir.latest(run) == rundir.Checkpoint(run / "checkpoint-140", 140, 1.2, 2.0, 1.4, value=1.2)


@pytest.mark.parametrize(
    ("losses", "best"),
    [
        ({20: 1.5, 40: 1.2, 60: 1.3}, 40),
        ({20: None, 40: None}, 40),
        ({20: 1.5, 40: None}, 20),
        ({20: 1.2, 40: 1.2}, 20),
        ({20: 1.5, 40: float("nan")}, 20),
        ({20: 0.0, 40: 1.0}, 20),
    ],
)
def test_best_has_the_lowest_measured_loss_or_is_the_newest(tmp_path: Path, losses: dict, best: int) -> None:
    found = rundir.best(make_run(tmp_path, losses))
    assert found is not None
    assert found.step == best


def test_a_run_without_checkpoints_has_none(tmp_path: Path) -> None:
    run = make_run(tmp_path, {})
    assert (rundir.checkpoints(run), rundir.latest(run), rundir.best(run)) == ([], None, None)
    with pytest.raises(RunError, match="--resume"):
        rundir.find(str(run))


def test_verify_names_every_damaged_file(tmp_path: Path) -> None:
    run = make_run(tmp_path, {20: None})
    checkpoint = rundir.checkpoints(run)[0]
    assert checkpoint.verify() == []
    state = checkpoint.path / "state" / "optimizer.bin"
    state.write_bytes(b"Moments")  # same size, other content
    (checkpoint.path / "adapter_config.json").unlink()
    problems = checkpoint.verify()
    assert len(problems) == 2
    assert any("optimizer.bin has changed" in p for p in problems)
    assert any("adapter_config.json is missing" in p for p in problems)
    state.write_bytes(b"mom")
    assert any("3 bytes; 7 were written" in p for p in checkpoint.verify())


def test_metrics_survive_a_line_cut_short(tmp_path: Path) -> None:
    run = make_run(tmp_path, {})
    assert rundir.metrics(run) == []
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 2.25}\n{"step": 3, "lo')
    assert [record["step"] for record in rundir.metrics(run)] == [1, 2]


def test_runs_are_found_newest_first_and_not_searched_inside(tmp_path: Path) -> None:
    old = make_run(tmp_path / "a" / "b", {})
    new = make_run(tmp_path, {}, name="new")
    make_run(new / "evaluation", {})
    make_run(tmp_path / ".hidden", {})
    os.utime(old / "run.json", (1, 1))
    assert rundir.runs(tmp_path) == [new, old]


def test_write_json_replaces_whole_files_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    rundir.write_json(path, {"言葉": 1})
    with pytest.raises(TypeError):
        rundir.write_json(path, {"bad": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"言葉": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_find_takes_the_best_checkpoint_and_says_why(tmp_path: Path) -> None:
    run = make_run(tmp_path, {140: 1.234, 160: 1.5, 180: 1.6})
    target = rundir.find(str(run))
    assert (target.base, target.adapter, target.tokenizer) == ("owner/base", run / "checkpoint-140", "owner/words")
    assert (target.run, target.step) == (run, 140)
    assert target.why == "checkpoint-140: lowest evaluation loss (1.234) of 3; --checkpoint last takes the newest."


def test_find_takes_the_checkpoint_that_was_asked_for(tmp_path: Path) -> None:
    run = make_run(tmp_path, {140: 1.2, 160: 1.5})
    assert rundir.find(str(run), checkpoint="last").why.startswith("checkpoint-160: newest of 2")
    for name in ("160", "checkpoint-160"):
        assert rundir.find(str(run), checkpoint=name).step == 160
    assert rundir.find(str(run / "checkpoint-160")).adapter == run / "checkpoint-160"
    with pytest.raises(RunError, match="no checkpoint 150.*140, 160"):
        rundir.find(str(run), checkpoint="150")


def test_an_unmeasured_run_gives_its_newest_and_says_so(tmp_path: Path) -> None:
    target = rundir.find(str(make_run(tmp_path, {20: None, 40: None})))
    assert target.step == 40
    assert "none has an evaluation loss" in target.why


def test_base_and_overrides(tmp_path: Path) -> None:
    run = make_run(tmp_path, {20: 1.0})
    base = rundir.find(str(run), base=True)
    assert (base.base, base.adapter, base.step) == ("owner/base", None, None)
    assert "--base" in base.why
    moved = rundir.find(str(run), model="elsewhere", tokenizer="words")
    assert (moved.base, moved.adapter, moved.tokenizer) == ("elsewhere", run / "checkpoint-20", "words")


def test_a_full_checkpoint_is_a_model_itself_and_its_base_is_the_recorded_one(tmp_path: Path) -> None:
    run = make_run(tmp_path, {20: 1.0}, full=True)
    target = rundir.find(str(run))
    assert (target.base, target.adapter) == (str(run / "checkpoint-20"), None)
    assert rundir.find(str(run), base=True).base == "owner/base"


def test_find_a_plain_adapter_a_model_folder_a_gguf_file_and_a_hub_id(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/base"}')
    assert rundir.find(str(adapter)).base == "owner/base"
    assert rundir.find(str(adapter), model="mine").base == "mine"
    assert rundir.find(str(adapter), base=True).adapter is None
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    gguf = tmp_path / "model.Q4.gguf"
    gguf.write_bytes(b"GGUF")
    for name in (str(model), str(gguf), "owner/name"):
        target = rundir.find(name)
        assert (target.base, target.adapter, target.tokenizer) == (name, None, name)


def test_a_checkpoint_says_how_its_conversations_were_written_wherever_it_lies(tmp_path: Path) -> None:
    run = make_run(tmp_path, {20: 1.0})
    told = {"system": "Be short.", "systems": ["Be short."]}
    rundir.write_json(run / "run.json", rundir.record(run) | {"template": told | {"text": "{{ 1 }}"}})
    assert rundir.find(str(run)).template() == told | {"text": "{{ 1 }}"}
    copy = (run / "checkpoint-20").rename(tmp_path / "copy")
    (copy / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/base"}')
    assert rundir.find(str(copy)).template() is None  # an adapter from elsewhere tells nothing
    rundir.write_json(copy / "tunesmith.json", {"base": "owner/base", "template": told})
    with pytest.raises(RunError, match="no chat template"):
        rundir.find(str(copy)).template()
    (copy / "chat_template.jinja").write_text("{{ 1 }}")
    assert rundir.find(str(copy)).template() == told | {"text": "{{ 1 }}"}
    assert rundir.find(str(copy), base=True).template() == told | {"text": "{{ 1 }}"}


def test_errors_list_what_exists_and_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "runs", {20: 1.0})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError) as caught:
        rundir.find("runs/traige")  # a folder `runs` is here: not taken for a hub id
    text = str(caught.value)
    assert "runs/traige" in text
    assert "runs/triage" in text
    with pytest.raises(RunError, match="neither a run"):
        rundir.find(str(tmp_path / "runs"))


def test_an_option_that_would_be_ignored_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="--checkpoint last"):
        rundir.find("owner/name", checkpoint="last")
    with pytest.raises(RunError, match="--model other"):
        rundir.find("owner/name", model="other")


def test_a_damaged_run_json_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, {20: 1.0})
    (run / "run.json").write_text('{"base": ')
    with pytest.raises(RunError, match=r"run\.json"):
        rundir.find(str(run))


def test_what_only_looks_like_a_remain_is_left_alone(tmp_path):
    mine, theirs = tmp_path / ".checkpoint-2.tmp-12-0a1b2c", tmp_path / ".checkpoint-2.old-notes"
    for folder in (mine, theirs):
        folder.mkdir()
    durable.clear(tmp_path / "checkpoint-2")
    assert (mine.exists(), theirs.exists()) == (False, True)


def test_a_lock_that_is_a_link_is_not_written_through(tmp_path):
    foreign = tmp_path / "foreign.txt"
    foreign.write_text("words")
    (tmp_path / ".lock").symlink_to(foreign)
    with pytest.raises(RunError, match="can't be opened"), durable.locked(tmp_path / ".lock"):
        pass
    assert foreign.read_text() == "words"


def test_records_that_are_none_are_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('null\n{"step": "x"}\n' + "[" * 99_999 + '\n{"step": 2}\n')
    assert rundir.metrics(tmp_path) == [{"step": 2}]
