# ruff: noqa: F401, F811 - fixtures of the command line's own tests
"""What must not pass in silence, through the real command line: lost answers, idle settings, damaged files."""

from __future__ import annotations

import json

import pytest

from test_cli import ROWS, SHORT, _here, done, refused, run, trained, tunesmith, write_rows  # noqa: F401
from tunesmith import rundir

LONG = " ".join(f"word{i}" for i in range(400))
DIALOGUE = [
    {"role": "user", "content": "Short?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": LONG},
    {"role": "assistant", "content": "No."},
]


@pytest.mark.parametrize("overflow", ["error", "drop"])
def test_a_dialogue_with_one_answer_too_long_is_refused_or_dropped(tmp_path, tiny_folder, overflow):
    write_rows(tmp_path / "m.jsonl", [{"messages": DIALOGUE}, {"messages": DIALOGUE[:2]}])
    words = ["data.max_length=64", f"data.overflow={overflow}", "data.max_dropped=0.6"]
    said = tunesmith("check", tmp_path / "m.jsonl", "--model", tiny_folder, *words)
    assert (said.code == 2) == (overflow == "error")
    assert "longer than data.max_length" in said.err


def test_dialogues_that_lose_their_answers_are_held_against_the_limit(tmp_path, tiny_folder):
    rows = [{"messages": [*DIALOGUE, {"role": "user", "content": f"{i}?"}, *DIALOGUE[1:2]]} for i in range(4)]
    words = ["--model", tiny_folder, "data.max_length=64"]
    lines = refused("check", write_rows(tmp_path / "d.jsonl", rows), *words)
    assert "4 of 12 answers" in lines[0]
    assert "data.max_dropped=0.34" in lines[0]
    done("check", tmp_path / "d.jsonl", *words, "data.max_dropped=0.34")


def test_settings_that_a_finished_run_cannot_follow(run):
    lines = refused("eval", run, "training.learning_rate=7", "template.thinking=strip", SHORT)
    assert [line.split()[0] for line in lines[:2]] == ["training.learning_rate", "template.thinking"]


def test_a_damaged_checkpoint_is_named_and_passed_over(run):
    steps = [c.step for c in rundir.checkpoints(run)]
    newest = run / f"checkpoint-{steps[-1]}" / "adapter_model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"\x01")
    said = done("train", run, "--resume", "training.num_train_epochs=3")
    assert f"checkpoint-{steps[-1]} is damaged and passed over." in said.err
    assert f"checkpoint-{steps[-2]}" in said.err


def test_test_rows_that_end_with_a_question_are_judged_by_their_last_answer(tmp_path, tiny_folder):
    rows = [{"messages": [*DIALOGUE[:2], {"role": "user", "content": f"And {i}?"}]} for i in range(8)]
    rows = [{**r, "site": str(i)} for i, r in enumerate(rows)]
    words = ["--model", tiny_folder, "-o", tmp_path / "run", "data.test_ratio=0.25", "data.drop_duplicates=false"]
    rows = [{"messages": [{"role": "system", "content": str(i)}, *r["messages"]]} for i, r in enumerate(rows)]
    done("train", write_rows(tmp_path / "d.jsonl", rows), *words, "training.max_steps=1", SHORT)
    said = done("eval", tmp_path / "run")
    assert "of 2" in said.err


def test_bare_prompts_are_joined_as_training_joins_them(run, tmp_path):
    source = write_rows(tmp_path / "in.jsonl", [{"instruction": "Sum up.", "context": "Pumps."}])
    done("batch", run, source, "-o", tmp_path / "out.jsonl", SHORT)
    from tunesmith.config.schema import DataSection
    from tunesmith.data.prompts import read_prompts

    asked = read_prompts(source, DataSection())[0][0].conversation
    assert asked.messages[-1].content == "Sum up.\nPumps."
    assert "prediction" in json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))


def test_a_layers_name_as_text_is_one_name(tmp_path, tiny_folder):
    data = write_rows(tmp_path / "d.jsonl", ROWS)
    counts = [
        next(line for line in done("check", data, "--model", tiny_folder, words).lines if "parameters" in line)
        for words in ("lora.target_modules=q_proj", "lora.target_modules=[q_proj]")
    ]
    assert counts[0] == counts[1]


def test_half_a_world_is_refused_in_a_sentence(monkeypatch, tmp_path, tiny_folder):
    monkeypatch.setenv("WORLD_SIZE", "2")
    data = write_rows(tmp_path / "d.jsonl", ROWS)
    assert "and not RANK, LOCAL_RANK" in refused("train", data, "--model", tiny_folder)[0]
