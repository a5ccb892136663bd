"""The command line as users meet it: what they type, what they read, what lies on the disk afterwards."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from tunesmith import rundir
from tunesmith.cli import main
from tunesmith.config.load import load

SHORT = "generation.max_new_tokens=4"


@dataclass(frozen=True)
class Said:
    """What a command left: exit code, standard output, and the lines of standard error."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.err.splitlines()


def tunesmith(*words: object) -> Said:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(word) for word in words])
    assert "Traceback" not in err.getvalue()
    return Said(code, out.getvalue(), err.getvalue())


def done(*words: object) -> Said:
    said = tunesmith(*words)
    assert said.code == 0, said.err
    return said


def refused(*words: object) -> list[str]:
    """The lines of a command that the user has to mend."""
    said = tunesmith(*words)
    assert said.code == 2, said.err
    return said.lines


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNESMITH_LANG", "en")
    monkeypatch.chdir(tmp_path)


def write_rows(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def row(i: int) -> dict[str, object]:
    return {"question": f"Is pump {i} faulty?", "answer": "Yes." if i % 2 else "No.", "site": f"s{i % 3}"}


ROWS = [row(i) for i in range(24)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "pumps.jsonl", ROWS)


@dataclass(frozen=True)
class Trained:
    run: Path
    said: Said


@pytest.fixture(scope="session")
def trained(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run of six steps with two broken rows and one repeated, trained without YAML. Read it, never change it."""
    folder = tmp_path_factory.mktemp("trained")
    data = write_rows(folder / "pumps.jsonl", [ROWS[0], {"question": "And?"}, *ROWS, {"answer": "Yes."}])
    words = ["training.num_train_epochs=2", "data.test_ratio=0.25", "data.stratify_by=site", SHORT]
    allowed = ["data.max_dropped=0.1", "training.learning_rate=1e-2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_LANG", "en")
        said = done("train", data, "--model", tiny_folder, "-o", folder / "run", *words, *allowed)
    return Trained(folder / "run", said)


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Path:
    """A copy of the run, to be written into."""
    return Path(shutil.copytree(trained.run, tmp_path / "run"))


# --- train ------------------------------------------------------------------------------------------------------------


def test_a_run_folder_holds_all_that_later_commands_need(trained: Trained) -> None:
    names = {path.name for path in trained.run.iterdir()}
    files = {"config.yaml", "run.json", "ledger.json", "rejected.jsonl", "metrics.jsonl", "tunesmith.log", "loss.png"}
    assert names == files | {"checkpoint-3", "checkpoint-6"}
    assert all((trained.run / f"checkpoint-{step}" / "manifest.json").is_file() for step in (3, 6))
    assert not any(checkpoint.verify() for checkpoint in rundir.checkpoints(trained.run))
    record = rundir.record(trained.run)
    assert (record["finished"], record["steps"], record["best_by"]) == (True, 6, "test")
    assert trained.said.out == ""


def test_every_row_is_accounted_for(trained: Trained) -> None:
    totals = json.loads((trained.run / "ledger.json").read_text())["totals"]
    assert totals == {"rows": 27, "train": 18, "validation": 0, "test": 6, "duplicates": 1, "rejected": 2}
    rejected = [json.loads(line) for line in (trained.run / "rejected.jsonl").read_text().splitlines()]
    assert [(each["line"], each["row"]) for each in rejected] == [(2, 1), (27, 26)]
    first = "27 rows of the format question_answer: 18 for training, 6 for testing, 1 duplicates, 2 rejected."
    assert trained.said.lines[0] == first
    assert any("pumps.jsonl:2  " in line for line in trained.said.lines)
    assert first in (trained.run / "tunesmith.log").read_text()


def test_the_test_rows_choose_where_nothing_else_does_and_that_is_said(trained: Trained) -> None:
    assert any("test rows choose the best checkpoint" in line for line in trained.said.lines)
    assert not any("Nothing is split off" in line for line in trained.said.lines)


def test_the_saved_settings_are_the_run_again_from_any_folder(trained: Trained, tiny_folder: Path) -> None:
    config = load(trained.run / "config.yaml").config
    assert config.training.output_dir == trained.run
    assert config.model.name_or_path == str(tiny_folder)
    assert config.data.train == trained.run.parent / "pumps.jsonl"
    assert (config.data.test_ratio, config.training.learning_rate, config.template.date is None) == (0.25, 1e-2, False)


def test_paths_of_a_run_are_whole_though_they_were_typed_short(data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "tiny")
    done("train", data.name, "--model", "tiny", "training.max_steps=1", SHORT)
    run = tmp_path / "runs" / "pumps"
    assert rundir.record(run)["base"] == str(tmp_path / "tiny")
    (tmp_path / "elsewhere").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / "elsewhere")
        said = done("eval", run, "--data", data, "--limit", 1)
    assert "of 1;" in said.err


def test_checkpoints_load_in_plain_peft(trained: Trained, tiny_folder: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_folder)
    model = PeftModel.from_pretrained(base, trained.run / "checkpoint-6")
    moved = [value for name, value in model.named_parameters() if "lora_B" in name]
    assert moved
    assert all(value.abs().max() > 0 for value in moved)


def settings_file(path: Path, data: Path, model: Path, run: Path) -> Path:
    path.write_text(
        f"model:\n  name_or_path: {model}\ndata:\n  train: {data}\n"
        f"training:\n  output_dir: {run}\n  max_steps: 2\n  save_steps: 1\n  lr_scheduler_type: constant\n"
    )
    return path


def weights(run: Path, step: int) -> bytes:
    return (run / f"checkpoint-{step}" / "adapter_model.safetensors").read_bytes()


def test_a_yaml_is_named_in_three_ways(data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    file = settings_file(tmp_path / "run.yaml", data, tiny_folder, run)
    found = []
    for words in ((file,), ("--config", file), ()):
        done("train", *words, "--overwrite")
        found.append(weights(run, 2))
    assert found[0] == found[1] == found[2]
    done("train", file, "--overwrite", "training.learning_rate=3e-3", "-o", tmp_path / "other")
    assert weights(tmp_path / "other", 2) != found[0]


def test_a_run_is_never_replaced_unasked(run: Path, data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    before = weights(run, 6)
    words = ("train", data, "--model", tiny_folder, "-o")
    assert "There is a run already. Replace it with --overwrite" in refused(*words, run)[0]
    assert "finished" in refused("train", run, "--resume")[0]
    assert "holds other files" in refused(*words, tmp_path)[0]
    assert "This is a file" in refused(*words, data)[0]
    assert "There is no run to go on with" in refused(*words, tmp_path / "new", "--resume")[0]
    assert weights(run, 6) == before
    done(*words, run, "--overwrite", "training.max_steps=1")
    assert [c.step for c in rundir.checkpoints(run)] == [1]


def test_overwriting_says_what_goes_and_never_deletes_what_the_new_run_needs(
    run: Path, data: Path, tiny_folder: Path
) -> None:
    """Data, base model and settings that lie in the run folder are not sacrificed to the run."""
    inside = write_rows(run / "mine.jsonl", ROWS)
    base = Path(shutil.copytree(tiny_folder, run / "models" / "base"))
    settings = settings_file(run / "mine.yaml", data, tiny_folder, run)
    lines = refused("train", inside, "--model", base, "-o", run, "--overwrite")
    assert [line.split("  ")[0] for line in lines[:2]] == [str(inside), str(base)]
    assert all("--overwrite would delete it" in line for line in lines[:2])
    assert f"{settings}  The new run needs this" in refused("train", settings, "--overwrite")[0]
    assert inside.exists()
    assert (base / "model.safetensors").is_file()
    said = done("train", data, "--model", tiny_folder, "-o", run, "--overwrite", "training.max_steps=1")
    gone = next(line for line in said.lines if line.startswith(f"{run} is replaced; this is deleted: "))
    assert "checkpoint-3, checkpoint-6, config.yaml" in gone
    assert not inside.exists()


def test_check_says_that_the_run_folder_is_taken(run: Path, data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    words = ("check", data, "--model", tiny_folder)
    said = done(*words, f"training.output_dir={run}")
    assert f"{run}  There is a run already. Replace it with --overwrite, or choose another folder" in said.err
    assert "There is a run already" not in done(*words, f"training.output_dir={tmp_path / 'new'}").err


def test_a_resume_without_a_checkpoint_never_begins_anew_in_silence(
    stopped: tuple[Path, list[str]], data: Path, tiny_folder: Path
) -> None:
    run, _lines = stopped
    (run / "checkpoint-1" / "adapter_model.safetensors").write_bytes(b"damaged")
    lines = refused("train", run, "--resume")
    assert "checkpoint-1 is damaged and passed over." in lines
    assert "There is no whole checkpoint to go on from. Begin anew with --overwrite." in lines[-1]
    shutil.rmtree(run / "checkpoint-1")
    (run / "metrics.jsonl").unlink()
    assert "Leave out --resume to begin anew." in refused("train", run, "--resume")[-1]
    done("train", run)
    assert rundir.latest(run).step == 3  # type: ignore[union-attr]


@pytest.fixture
def stopped(data: Path, tiny_folder: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    """A run that its user stopped in the second of three steps, and what was said."""
    from collections.abc import Iterator as Steps
    from contextlib import contextmanager

    from tunesmith.actions.train import train
    from tunesmith.actions.voice import Advance, Voice

    class Impatient(Voice):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def say(self, text: str) -> None:
            self.lines.append(text)

        @contextmanager
        def progress(self, title: str) -> Steps[Advance]:
            def advance(step: int, total: int, text: str) -> None:
                if (title, step) == ("Training", 2):
                    raise KeyboardInterrupt

            yield advance

    voice = Impatient()
    file = settings_file(tmp_path / "run.yaml", data, tiny_folder, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(load(file, ["training.max_steps=3"]), voice)
    return tmp_path / "run", voice.lines


def test_a_stopped_run_goes_on_where_it_was(stopped: tuple[Path, list[str]], tmp_path: Path) -> None:
    run, lines = stopped
    assert lines[-1] == f"checkpoint-1 is kept. Go on with: tunesmith train {run} --resume"
    assert "unfinished" in done("runs").out
    assert (run / "loss.png").is_file()
    said = done("train", run)  # the same command goes on, without a word about it
    assert "Going on behind checkpoint-1." in said.lines
    done("train", run / "config.yaml", "-o", tmp_path / "straight")
    assert weights(run, 3) == weights(tmp_path / "straight", 3)
    assert [r["step"] for r in rundir.metrics(run)] == [1, 2, 3]


def test_another_run_does_not_go_on_with_this_one(stopped: tuple[Path, list[str]], data: Path) -> None:
    run, _lines = stopped
    write_rows(data, ROWS[1:])
    lines = refused("train", run, "--resume", "lora.r=4", "training.seed=1")
    keys = ["data", "lora.r", "training.seed"]
    assert [line.split("  ")[0] for line in lines[:3]] == keys
    assert lines[1] == "lora.r  This was 8 when the run began and is 4 now."
    assert lines[-1].endswith("or let it pass: " + " ".join(f"--allow-changed {key}" for key in keys))


def test_a_finished_run_can_be_trained_longer(run: Path) -> None:
    done("train", run, "--resume", "training.num_train_epochs=3")
    assert [c.step for c in rundir.checkpoints(run)] == [3, 6, 9]
    assert rundir.record(run)["finished"]


def test_a_run_that_goes_on_has_steps_to_take(stopped: tuple[Path, list[str]]) -> None:
    run, _lines = stopped
    settings = (run / "config.yaml").read_text()
    assert "1 steps are done and the settings ask for 1" in refused("train", run, "--resume", "training.max_steps=1")[0]
    assert (run / "config.yaml").read_text() == settings


def test_a_start_that_failed_leaves_the_way_free(data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    words = ("train", data, "--model", tiny_folder, "-o", tmp_path / "run", "training.max_steps=1")
    assert "float16" in refused(*words, "training.fp16=true")[-1]
    done(*words)


def test_a_folder_that_cannot_be_written_is_one_line(data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    lines = refused("train", data, "--model", tiny_folder, "-o", tmp_path / "file" / "run")
    assert len(lines) == 1
    assert str(tmp_path / "file") in lines[0]


# --- check ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["method=lora", "lora.target_modules=[q_proj, v_proj]", "method=full"])
def test_check_counts_parameters_as_peft_does(setting: str, data: Path, tiny_folder: Path) -> None:
    from tunesmith.model.adapter import add_adapter, describe_parameters
    from tunesmith.model.load import load_model

    said = done("check", data, "--model", tiny_folder, setting)
    config = load(overrides=[setting]).config
    model = load_model(str(tiny_folder), dtype="float32")
    if config.method == "lora":
        model = add_adapter(model, config.lora, 0)
    assert describe_parameters(model) in said.lines
    assert said.lines[-1] == "Everything is ready. Nothing was trained."


def test_check_says_that_nothing_is_tested_only_when_it_is_so(data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    words = ("check", data, "--model", tiny_folder)
    other = write_rows(tmp_path / "other.jsonl", [row(i) for i in range(50, 54)])
    nothing, chosen = "Nothing is split off for testing", "the test rows choose the best checkpoint"
    assert nothing in done(*words).err
    assert nothing in done(*words, "data.validation_ratio=0.2").err
    assert nothing not in done(*words, "data.test_ratio=0.2").err
    said = done(*words, f"data.test={other}")
    assert nothing not in said.err
    assert chosen in said.err
    assert "4 of 4 rows of the file for testing are used." in said.lines
    assert chosen not in done(*words, f"data.test={other}", "data.validation_ratio=0.2").err


def test_check_loads_no_torch(data: Path, tiny_folder: Path) -> None:
    code = (
        "import sys; from tunesmith.cli import main; code = main(sys.argv[1:])\n"
        "sys.exit(code or len({'torch', 'transformers', 'peft', 'matplotlib'} & set(sys.modules)))"
    )
    words = [sys.executable, "-c", code, "check", str(data), "--model", str(tiny_folder), "data.test_ratio=0.2"]
    subprocess.run(words, check=True, capture_output=True, timeout=60)


def test_five_mistakes_are_five_lines(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "lora:\n  rnak: 8\ntraining:\n  learning_rate: fast\n  bf16: true\n  fp16: true\n"
        "data:\n  train: pmups.jsonl\nmethod: qlora\n"
    )
    lines = refused("check", file)
    assert lines == [
        f"{file}:2  lora.rnak is not a setting. Did you mean lora.r?",
        f"{file}:4  training.learning_rate is 'fast'; expected a number, above 0.",
        f"{file}:5  training.bf16 and training.fp16 are both on. Choose one.",
        f"{file}:8  data.train: there is no file or folder pmups.jsonl. Did you mean pumps.jsonl?",
        f"{file}:9  method is 'qlora'; expected lora or full. Did you mean lora?",
        "5 problems. Nothing was trained.",
    ]


def test_problems_of_data_and_model_come_together(tiny_folder: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(tiny_folder, tmp_path / "broken"))
    (broken / "model.safetensors").write_bytes(b"cut")
    data = write_rows(tmp_path / "odd.jsonl", [{"a": 1}, {"a": 2}])
    lines = refused("check", data, "--model", broken)
    assert any(line.startswith(str(data)) for line in lines)
    assert any("cut short" in line for line in lines)
    assert lines[-1] == "2 problems. Nothing was trained."
    assert refused("check") == [
        "There is no model. Name one: --model NAME, or model.name_or_path in YAML.",
        "There is no training data. Name a file: tunesmith train DATA, or data.train in YAML.",
    ]
    assert "no linear layer qproj" in refused("check", data, "--model", tiny_folder, "lora.target_modules=[qproj]")[-2]


def test_too_many_rejected_rows_stop_everything(data: Path, tiny_folder: Path) -> None:
    write_rows(data, [*ROWS, {"question": "And?"}, {"question": "Or?"}])
    lines = refused("check", data, "--model", tiny_folder)
    assert lines[0].startswith(f"{data}:25  ")
    assert lines[2:] == [
        "2 of 26 rows (8%) can't be trained: missing_column 2. Mend them, or allow it with data.max_dropped=0.08."
    ]
    done("check", data, "--model", tiny_folder, "data.max_dropped=0.08")


# --- preview and data -------------------------------------------------------------------------------------------------


def test_preview_shows_the_row_and_its_tokens(data: Path, tiny_folder: Path) -> None:
    out = done("preview", data, "--model", tiny_folder, "--row", 3).out
    assert "pumps.jsonl:4" in out
    _read, rendered, tokens = re.split("as rendered|as tokens", out)
    for shown in (rendered, re.sub("[↵⟦⟧]", "", tokens)):
        assert "<|im_start|>user\nIs pump 3 faulty?<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>" in shown
    assert "rows are 0 to 23" in refused("preview", data, "--model", tiny_folder, "--row", 24)[0]


def test_preview_says_why_a_row_is_not_trained(tiny_folder: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "d.jsonl", [ROWS[0], {"question": "And?"}, ROWS[1] | {"answer": "Yes. " * 99}])
    words = ("preview", data, "--model", tiny_folder, "data.max_length=40", "--row")
    assert refused(*words, 1)[0].startswith(f"{data}:2  ")
    assert "longer than data.max_length" in refused(*words, 2)[0]


def test_a_preview_page_runs_no_script_of_the_data(tiny_folder: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "d.jsonl", [{"question": "<script>alert(1)</script>", "answer": "<b>No</b>"}])
    done("preview", data, "--model", tiny_folder, "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "As rendered</h2><pre>&lt;|im_start|&gt;user\n&lt;script&gt;" in page
    assert "<b>No" not in page
    assert "data itself" in refused("preview", data, "--model", tiny_folder, "--html", data)[0]


def test_pairs_are_exported_without_config_or_weights(tiny_tokenizer: Path, tmp_path: Path) -> None:
    asked, plain = {"role": "user", "content": "Faulty?"}, {"role": "assistant", "content": "No."}
    turns = [[asked, plain], [asked], [asked, plain], [asked, plain | {"thinking": "It leaks."}]]
    data = write_rows(tmp_path / "d.jsonl", [{"messages": each} for each in turns])
    words = ("preview", data, "--tokenizer", tiny_tokenizer, "--export", tmp_path / "pairs.jsonl")
    assert "template.thinking" in refused(*words)[0]
    found = {}
    for thinking in ("keep", "strip"):
        said = done(*words, "--thinking", thinking)
        assert said.lines[-1] == f"3 answers written to {tmp_path / 'pairs.jsonl'}."
        assert said.lines[0].startswith(f"{data}:2  ")
        found[thinking] = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    for pair in found["keep"]:
        assert list(pair) == ["row", "turn", "context_ids", "answer_ids", "weights"]
        assert len(pair["weights"]) == len(pair["answer_ids"])
        assert set(pair["weights"]) == {1.0}
    assert [(pair["row"], pair["turn"]) for pair in found["keep"]] == [(0, 1), (2, 1), (3, 1)]
    assert len(found["keep"][2]["answer_ids"]) > len(found["strip"][2]["answer_ids"])


def test_inspect_prints_one_object_and_nothing_else(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("nonsense: true\n")  # settings of something else do not matter here
    write_rows(data, [*ROWS, ROWS[0], {"question": "And?"}])
    said = done("data", "inspect", data, "--json")
    found = json.loads(said.out)
    assert said.out.count("\n") == 1
    assert said.err == ""
    wanted = {"rows": 26, "accepted": 25, "rejected": 1, "duplicates": 1, "format": "question_answer"}
    assert wanted.items() <= found.items()
    assert found["columns"] == ["question", "answer", "site"]
    assert found["roles"] == {"user": 25, "assistant": 25}
    out = done("data", "inspect", data).out
    assert "question_answer" in out
    assert f"{data}:26  " in out
    data.write_bytes(data.read_bytes() + b'{"question": "\xff"}\n')
    assert json.loads(done("data", "inspect", data, "--json").out)["rejected"] == 2
    assert "no such file" in refused("data", "inspect", tmp_path / "none.jsonl", "--json")[0]


# --- chat, batch, eval, merge, runs -----------------------------------------------------------------------------------


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


@pytest.mark.parametrize("ending", ["q\n", "Q\nnever asked\n", ""])
def test_chat_answers_and_leaves(ending: str, trained: Trained, typed: Callable[[str], None]) -> None:
    typed("\nIs pump 1 faulty?\n" + ending)
    said = done("chat", trained.run, SHORT)
    assert len(said.out.splitlines()) >= 1
    assert said.lines[0].startswith("checkpoint-6: lowest evaluation loss (")
    assert "--checkpoint last takes the newest." in said.lines[0]
    assert said.lines[-1] == "That was it. See you tomorrow!"


def test_chat_takes_the_checkpoint_that_was_asked_for(trained: Trained, typed: Callable[[str], None]) -> None:
    answers = {}
    for words in (("--checkpoint", "last"), ("--checkpoint", 3), ("--base",), ("--system", "Be short.")):
        typed("Is pump 1 faulty?\n")
        said = done("chat", trained.run, SHORT, *words)
        answers[words] = (said.lines[0].split(":")[0].split(" /")[0], said.out)
    assert [first for first, _out in answers.values()] == ["checkpoint-6", "checkpoint-3", "Base model", "checkpoint-6"]
    assert len({out for _first, out in answers.values()}) > 1
    assert "3, 6" in refused("chat", trained.run, "--checkpoint", 7)[0]


def test_chat_never_lets_an_answer_move_the_cursor(typed: Callable[[str], None]) -> None:
    from tunesmith.cli.talking import converse

    class Wicked:
        sessions: dict[str, object] = {"answer": SimpleNamespace(last=None)}

        def say(self, said: object) -> Iterator[tuple[str, Iterator[str]]]:
            yield "answer", iter(["\x1b[2J", "gone\n"])

        def begin(self) -> None:
            """Nothing was said before."""

        def keep(self, turn: object) -> None:
            """Nothing is written."""

    typed("Hello\n")
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(io.StringIO()):
        converse(Wicked())  # type: ignore[arg-type]
    assert out.getvalue() == "\\x1b[2Jgone\n\n\n"


SHAPES: list[tuple[dict[str, object], str | None]] = [
    ({"prompt": "Is it faulty?"}, None),
    ({"question": "Is it faulty?", "id": 7}, None),
    ({"question": "Is it faulty?", "answer": "No."}, "No."),
    ({"input": "Is it faulty?", "output": "No."}, "No."),
    ({"instruction": "Judge.", "input": "It leaks.", "output": "Yes."}, "Yes."),
    ({"instruction": "Judge.", "input": "It leaks.", "response": "Yes."}, "Yes."),
    ({"instruction": "Judge.", "input": "It leaks."}, None),
    ({"prompt": "Judge.", "completion": "Yes."}, "Yes."),
    ({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}, "Ho"),
    ({"messages": [{"role": "user", "content": "Hi"}]}, None),
    ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}, "Ho"),
    ({"conversations": [{"from": "human", "value": "Hi"}], "system": "Be short."}, None),
    ({"conversation_pair": [{"role": "user", "content": "Hi"}], "system_prompt": "Be short."}, None),
    ({"text": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}], "subtype": "x"}, "Ho"),
]


def test_batch_answers_every_shape_and_keeps_broken_rows_in_their_place(trained: Trained, tmp_path: Path) -> None:
    rows = [shape for shape, _reference in SHAPES]
    source = write_rows(tmp_path / "in.jsonl", [*rows, {"number": 3}])
    source.write_text(source.read_text() + '{"prompt": "cut of\n')
    said = done("batch", trained.run, source, "-o", tmp_path / "out.jsonl", SHORT)
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(found) == len(rows) + 2
    for (shape, reference), answered in zip(SHAPES, found, strict=False):
        assert shape.items() <= answered.items()
        assert answered.get("reference") == reference
        assert isinstance(answered["prediction"], str), answered
        assert "error" not in answered
    for place, answered in ((len(rows) + 1, found[-2]), (len(rows) + 2, found[-1])):
        assert answered["prediction"] is None
        assert answered["error"].startswith(f"{source}:{place}  ")
    assert found[-2]["number"] == 3
    assert said.lines[-2:] == [
        f"{len(rows)} answers written to {tmp_path / 'out.jsonl'}.",
        "2 rows could not be asked; their column error says why.",
    ]


def test_batch_writes_lists_for_lists(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text(json.dumps(["Is it faulty?", "Does it leak?"]))
    for name in ("out.json", "out"):
        done("batch", trained.run, tmp_path / "in.json", "-o", tmp_path / name, SHORT)
        found = json.loads((tmp_path / name).read_text())
        assert [each["prompt"] for each in found] == ["Is it faulty?", "Does it leak?"]
        assert all(isinstance(each["prediction"], str) for each in found)
    done("batch", trained.run, tmp_path / "in.json", "-o", tmp_path / "out.jsonl", SHORT)
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
    assert "The file exists" in refused("batch", trained.run, tmp_path / "in.json", "-o", tmp_path / "out.json")[-1]
    assert ".json or .jsonl" in refused("batch", trained.run, tmp_path / "in.json", "-o", tmp_path / "out.csv")[-1]
    lines = refused("batch", trained.run, tmp_path / "in.json", "-o", tmp_path / "in.json", "--overwrite")
    assert "the file that is read" in lines[-1]


def test_base_and_tuned_are_evaluated_apart_and_never_replaced(run: Path) -> None:
    said = done("eval", run)
    assert "These test rows also chose the best checkpoint" in said.err
    assert [line.split()[0] for line in said.out.splitlines()] == ["Group", "s0", "s1", "s2"]
    done("eval", run, "--base")
    for name in ("base", "checkpoint-6"):
        folder = run / "evaluation" / name
        names = {"evaluation_results.json", "subtype_accuracy.png", "report.html"}
        assert names == {path.name for path in folder.iterdir()}
    results = run / "evaluation" / "checkpoint-6" / "evaluation_results.json"
    before = json.loads(results.read_text())
    assert (before["totals"]["n"], before["settings"]["best_by"]) == (6, "test")
    adapter = rundir.digest(run / "checkpoint-6" / "adapter_model.safetensors")["sha256"]
    assert before["settings"]["adapter_sha256"] == adapter  # answers of another one are never taken for its own
    assert "--overwrite" in refused("eval", run)[-1]
    done("eval", run, "--limit", 2, "--overwrite")
    assert json.loads(results.read_text())["totals"]["n"] == 2
    accuracy = json.loads(results.read_text())["totals"]["accuracy"]
    headings, first, last = (line.split() for line in done("runs", run.parent).out.splitlines())
    assert headings[0] == "Run"
    assert (first[0], first[3]) == (str(run), "3")
    assert last[0] == "6"
    assert last[-3:] == [f"{accuracy:.1%}", "best,", "newest"]


def test_evaluation_says_which_rows_it_leaves_out(run: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "new.jsonl", [ROWS[0], ROWS[0], {"question": "And?"}])
    said = done("eval", run, "--data", data, "-o", tmp_path / "out", "evaluation.group_by=site")
    assert "1 of 3 rows can't be evaluated and are left out." in said.lines
    assert json.loads((tmp_path / "out" / "evaluation_results.json").read_text())["totals"]["n"] == 2


def test_changed_data_are_no_test_rows(run: Path, trained: Trained, tmp_path: Path) -> None:
    text = (run / "config.yaml").read_text()
    changed = write_rows(tmp_path / "changed.jsonl", ROWS)
    (run / "config.yaml").write_text(text.replace(str(trained.run.parent / "pumps.jsonl"), str(changed)))
    assert "The data changed since training" in refused("eval", run)[-1]


def test_merging_makes_a_model_that_transformers_loads(run: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    said = done("merge", run)
    assert any(line.startswith("Merged in ") for line in said.lines)
    model = AutoModelForCausalLM.from_pretrained(run / "merged")
    assert model.config.hidden_size == 64
    assert AutoTokenizer.from_pretrained(run / "merged").chat_template
    assert "exists already" in refused("merge", run)[-1]
    done("merge", run, "--checkpoint", 3, "-o", tmp_path / "third")


def test_everything_that_is_a_run_answers(trained: Trained, tiny_folder: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copyfile(trained.run / "checkpoint-6" / name, adapter / name)
    source = write_rows(tmp_path / "in.jsonl", [{"prompt": "Is pump 1 faulty?"}])
    answers = {}
    for i, target in enumerate((trained.run, trained.run / "checkpoint-6", adapter, tiny_folder)):
        done("batch", target, source, "-o", f"{i}.jsonl", SHORT)
        answers[i] = json.loads(Path(f"{i}.jsonl").read_text())["prediction"]
    assert answers[0] == answers[1] == answers[2]
    assert "--data" in refused("eval", tiny_folder, "-o", "out")[-1]
    assert "-o DIR" in refused("eval", tiny_folder, "--data", source)[-1]


def test_what_is_no_run_is_told_with_what_there_is(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert refused("chat", tmp_path / "empty")[0].startswith(f"{tmp_path / 'empty'}  is neither a run")
    lines = refused("chat", tmp_path / "none")
    assert lines[0].startswith(f"{tmp_path / 'none'}  does not exist")
    assert lines[1:] == [f"There is the run {run}."]
    assert done("runs", tmp_path / "empty").lines[0].startswith("There is no run here yet. Train one: ")


def test_the_only_run_needs_no_name(run: Path) -> None:
    assert "checkpoint-3: as you named it" in done("merge", "--checkpoint", 3).err


# --- model check, init, the command line itself -----------------------------------------------------------------------


def test_model_check_tells_good_from_broken(tiny_folder: Path, tmp_path: Path) -> None:
    assert done("model", "check", tiny_folder).lines[-1] == "The model is in order."
    broken = Path(shutil.copytree(tiny_folder, tmp_path / "broken"))
    (broken / "tokenizer.json").write_text("{")
    (broken / "model.safetensors").unlink()
    lines = refused("model", "check", broken)
    assert lines[-1] == "The model can't be used as it is: 2 problems."
    assert any("tokenizer.json is damaged" in line for line in lines)


@pytest.mark.parametrize("preset", [None, "defect-triage", "qwen3-4b-lora"])
def test_a_starter_file_lacks_nothing_but_data_and_model(preset: str | None, tiny_folder: Path, data: Path) -> None:
    done("init", *(("--preset", preset) if preset else ()))
    assert "The file exists" in refused("init")[0]
    lines = refused("check")
    assert len(lines) == 1
    assert "data.train" in lines[0]
    if preset is None:
        done("check", "run.yaml", data, "--model", tiny_folder)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "No such command 'trian'."),
        (["train", "--lora_rank", "8"], "such as lora.r=8"),
        (["train", "--learning_rate", "1e-4"], "such as training.learning_rate=1e-4"),
        (["train", "--num-train-epochs=3"], "such as training.num_train_epochs=3"),
        (["train", "--zzz"], "No such option: --zzz"),
        (["check", "lora.rnak=8"], "command line  lora.rnak is not a setting. Did you mean lora.r?"),
        (["check", "training.learning_rate=fast"], "expected a number, above 0."),
        (["check", "a.yaml", "b.yaml"], "Give one YAML file of settings."),
        (["train", "--resume", "--overwrite"], "give one"),
        (["batch", "run"], "Missing argument 'IN'"),
        (["preview", "--row", "first"], "valid integer"),
        (["init", "--preset", "qwen"], "There is no preset qwen"),
        (["eval", ".", "limit"], "Settings are written key=value"),
    ],
)
def test_a_wrong_command_line_is_one_clear_line(words: list[str], said: str) -> None:
    lines = refused(*words)
    assert len(lines) == 1, lines
    assert said in lines[0]


def test_tracebacks_are_for_debugging_only(tmp_path: Path) -> None:
    from tunesmith.errors import ConfigError

    with pytest.raises(ConfigError):
        main(["check", "--debug"])
    assert tunesmith("init", tmp_path / "no" / "folder.yaml").lines == [
        f"{tmp_path}/no/folder.yaml  This can't be read or written: No such file or directory."
    ]


def test_version_and_help_say_where_one_is() -> None:
    assert done("--version").out.startswith("tunesmith 0.")
    help_text = done("--help").out
    for command in ("train", "check", "preview", "chat", "batch", "eval", "merge", "runs", "init", "demo"):
        assert f"\n  {command} " in help_text


def test_stopping_is_said_and_is_no_failure(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(io.StringIO):
        def readline(self, *_size: int) -> str:
            raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin", Interrupted())
    said = tunesmith("chat", trained.run)
    assert (said.code, said.lines[-1]) == (130, "Stopped.")
