"""The one entry: a config alone decides template, targets and precision; `all` goes from data to merged model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tunesmith import rundir
from tunesmith.actions.all import everything
from tunesmith.actions.voice import Advance, Voice
from tunesmith.config.load import load
from typed import tunesmith


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNESMITH_LANG", "en")
    monkeypatch.chdir(tmp_path)


def write_data(path: Path, n: int = 12) -> Path:
    rows = [{"question": f"Is pump {i} faulty?", "answer": "Yes." if i % 2 else "No.", "site": i % 2} for i in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_settings(folder: Path, model: Path, *, more: str = "") -> Path:
    path = folder / "run.yaml"
    path.write_text(
        f"model: {{name_or_path: {model}}}\n"
        f"data: {{train: {write_data(folder / 'pumps.jsonl')}, test_ratio: 0.25, stratify_by: site}}\n"
        f"training: {{output_dir: {folder / 'run'}, max_steps: 2, save_steps: 1}}\n"
        f"generation: {{max_new_tokens: 4}}\n{more}",
        encoding="utf-8",
    )
    return path


class Stopped(Voice):
    """Presses Ctrl-C in the n-th piece of work with this title."""

    def __init__(self, title: str, nth: int = 1) -> None:
        self.title, self.left = title, nth

    @contextmanager
    def progress(self, title: str) -> Iterator[Advance]:
        self.left -= title == self.title

        def advance(done: int, total: int, text: str) -> None:
            if title == self.title and self.left == 0:
                raise KeyboardInterrupt

        yield advance


def test_all_goes_from_data_to_a_merged_model_and_does_nothing_twice(tiny_folder: Path, tmp_path: Path) -> None:
    settings = write_settings(tmp_path, tiny_folder)
    code, lines = tunesmith("all", settings)
    assert code == 0, lines
    run = tmp_path / "run"
    step = rundir.best(run).step  # type: ignore[union-attr]
    for file in (
        *(
            "loss.png",
            f"evaluation/checkpoint-{step}/comparison/report.html",
            "merged/model.safetensors",
            "merged/merge.json",
        ),
        *(f"evaluation/{name}/subtype_accuracy.png" for name in ("base", f"checkpoint-{step}")),
    ):
        assert (run / file).is_file(), file
    commands = [line for line in lines if line.startswith("$ ")]
    assert commands == [
        f"$ tunesmith train {settings}",
        f"$ tunesmith eval {run} --base",
        f"$ tunesmith eval {run}",
        f"$ tunesmith compare {run}",
        f"$ tunesmith merge {run}",
    ]
    assert any(line.startswith("Accuracy on 3 test rows: ") for line in lines)
    made = {path: path.stat().st_mtime_ns for path in run.rglob("*") if "comparison" not in path.parts}
    code, again = tunesmith("all", settings)
    assert code == 0
    assert again.count("Done already.") == 4
    changed = [path for path, time in made.items() if path.stat().st_mtime_ns != time and path.is_file()]
    assert [path.name for path in changed] == ["config.yaml"]


@pytest.mark.parametrize(("title", "nth", "kept"), [("Training", 1, 0), ("Answering", 1, 1), ("Answering", 2, 2)])
def test_all_goes_on_where_it_broke(title: str, nth: int, kept: int, tiny_folder: Path, tmp_path: Path) -> None:
    settings = write_settings(tmp_path, tiny_folder)
    with pytest.raises(KeyboardInterrupt):
        everything(load(settings), Stopped(title, nth))
    code, lines = tunesmith("all", settings)
    assert code == 0, lines
    assert lines.count("Done already.") == kept
    assert (tmp_path / "run" / "merged" / "merge.json").is_file()
    assert [record["step"] for record in rundir.metrics(tmp_path / "run")] == [1, 2]


def test_all_goes_on_behind_the_last_checkpoint(tiny_folder: Path, tmp_path: Path) -> None:
    settings = write_settings(tmp_path, tiny_folder)
    tunesmith("train", settings)
    shutil.rmtree(tmp_path / "run" / "checkpoint-2")
    rundir.write_json(tmp_path / "run" / "run.json", rundir.record(tmp_path / "run") | {"finished": False})
    code, lines = tunesmith("all", settings)
    assert code == 0, lines
    assert "Going on behind checkpoint-1." in lines


def test_all_refuses_another_run_in_the_folder_and_does_new_what_changed(tiny_folder: Path, tmp_path: Path) -> None:
    settings = write_settings(tmp_path, tiny_folder)
    tunesmith("all", settings)
    code, lines = tunesmith("all", settings, "lora.r=4")
    assert code == 2
    assert lines[-2] == "lora.r  This was 8 when the run began and is 4 now."
    code, lines = tunesmith("all", settings, "generation.max_new_tokens=5")
    assert code == 0
    assert lines.count("Done already.") == 2  # training and merging; both evaluations are of other answers
    code, lines = tunesmith("all", settings, "training.max_steps=3")
    assert code == 0
    assert "Going on behind checkpoint-2." in lines


def test_without_test_rows_all_evaluates_nothing_and_says_so(tiny_folder: Path, tmp_path: Path) -> None:
    settings = write_settings(tmp_path, tiny_folder, more="method: full\n")
    code, lines = tunesmith("all", settings, "data.test_ratio=0", "data.stratify_by=null")
    assert code == 0, lines
    assert any(line.startswith("There are no test rows") for line in lines)
    assert any(line.startswith("All weights were trained") for line in lines)
    assert not (tmp_path / "run" / "evaluation").exists()


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3"])
def test_one_entry_trains_every_family_without_being_told_which(
    family: str, tiny_model: Callable[..., object], tiny_tokenizer: Path, tmp_path: Path
) -> None:
    """What config.json says decides template, targets and precision: no line of the command names the family."""
    folder = Path(shutil.copytree(tiny_tokenizer, tmp_path / family))
    tiny_model(family).save_pretrained(folder)  # type: ignore[attr-defined]
    code, lines = tunesmith("train", write_data(tmp_path / "d.jsonl", 4), "-m", folder, "training.max_steps=1")
    assert code == 0, lines
    adapter = json.loads((tmp_path / "runs" / "d" / "checkpoint-1" / "adapter_config.json").read_text())
    assert {"q_proj", "down_proj"} <= {name.rpartition(".")[2] for name in adapter["target_modules"]}
    assert not any("no chat template" in line for line in lines)
