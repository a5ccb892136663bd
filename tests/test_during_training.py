"""While a model trains: perplexity, answers that are scored and kept, the best checkpoint by any figure, and a training
that none of it changes."""

from __future__ import annotations

import io
import json
import math
import random
import re
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from tunesmith import rundir
from tunesmith.cli import main
from tunesmith.config.schema import TrainingSection
from tunesmith.train.plan import Chooser, State

METRIC = """
import torch


def score(gold, answer, context):
    torch.rand(3)  # whoever draws in an evaluation
    return {"correct": sum(map(ord, answer)) % 2 == 0, "size": len(answer), "n": 1}


def total(rows, context):
    return {"mine": max(row.score["size"] for row in rows)}
"""
# Dropout draws by chance in every step; a high rate makes a tiny model's answers change.
TRAINING = [
    *("training.max_steps=6", "training.eval_steps=1", "training.save_steps=2", "training.save_total_limit=9"),
    *("training.per_device_train_batch_size=4", "training.learning_rate=0.02", "training.lr_scheduler_type=constant"),
    *("lora.lora_dropout=0.2", "generation.max_new_tokens=8"),
]


def tunesmith(*words: str | Path) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(word) for word in words])
    return code, out.getvalue(), err.getvalue()


def write_rows(path: Path, *numbers: int) -> Path:
    rows = [{"question": f"Is pump {i} faulty?", "answer": f"Pump {i} is tight."} for i in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a metric of its own."""
    folder = tmp_path_factory.mktemp("during")
    write_rows(folder / "train.jsonl", *range(16))
    write_rows(folder / "validation.jsonl", *range(20, 26))
    write_rows(folder / "asked.jsonl", *ASKED)
    (folder / "mine.py").write_text(METRIC, encoding="utf-8")
    return folder


def train(place: Path, model: Path, name: str, *settings: str, said: str = "") -> Path:
    words = ["train", place / "train.jsonl", "--model", model, "-o", place / name]
    code, _out, err = tunesmith(*words, f"data.validation={place / 'validation.jsonl'}", *TRAINING, *settings)
    assert (code, re.search(said, err) is not None) == (0, True), err
    return place / name


ASKED = (20, 22, 23, 25)  # four of six, with even gaps
WATCHED = ["evaluation.during_training=4", "evaluation.samples=2"]


def watched(place: Path) -> list[str]:
    return [*WATCHED, f"evaluation.metrics=[{place / 'mine.py'}, perplexity, chrf]"]


@pytest.fixture(scope="module")
def run(place: Path, tiny_folder: Path) -> Path:
    """A run that is measured at every step by answers that are drawn, and chosen by the longest of them."""
    chosen = ["training.metric_for_best_model=mine", "generation.do_sample=true", *watched(place)]
    return train(place, tiny_folder, "run", *chosen, said="6 evaluations; their time is not in the forecast")


def figures(run: Path, name: str) -> dict[int, float]:
    return {record["step"]: record[name] for record in rundir.metrics(run) if name in record}


def weights(run: Path, step: int) -> bytes:
    return (run / f"checkpoint-{step}" / "adapter_model.safetensors").read_bytes()


# nothing of it changes the training


def test_the_weights_are_those_of_a_training_that_nobody_watches(run, place, tiny_folder):
    plain = train(place, tiny_folder, "plain")
    assert weights(run, 6) == weights(plain, 6)
    assert figures(run, "loss") == figures(plain, "loss")
    assert figures(run, "eval_loss") == figures(plain, "eval_loss")


def test_a_run_that_goes_on_is_the_run_that_was_never_stopped(run, place):
    again = shutil.copytree(run, place / "again")
    shutil.rmtree(again / "checkpoint-6")
    for folder in again.glob("checkpoint-5"):
        shutil.rmtree(folder)
    record = rundir.record(again)
    rundir.write_json(again / rundir.RUN, record | {"finished": False})
    with (again / rundir.SAMPLES).open("a", encoding="utf-8") as file:
        file.write('{"step": 6, "prom')
    assert len(rundir.checkpoints(again)) < len(rundir.checkpoints(run))
    code, _out, err = tunesmith("train", again, "--resume")
    assert code == 0, err
    assert weights(again, 6) == weights(run, 6)
    assert rundir.metrics(again, rundir.SAMPLES) == rundir.metrics(run, rundir.SAMPLES)
    names = {name for record in rundir.metrics(run) for name in record if name.startswith("eval_")}
    assert {"eval_loss", "eval_perplexity", "eval_accuracy", "eval_mine", "eval_mine_size", "eval_chrf"} <= names
    for name in names:
        assert figures(again, name) == figures(run, name), name
    assert rundir.best(again).step == rundir.best(run).step


# what is measured


def test_the_figures_are_those_of_eval(run, place):
    best = rundir.best(run)
    code, _out, err = tunesmith("eval", run, "--data", place / "asked.jsonl", "-o", place / "out")
    assert code == 0, err
    totals = json.loads((place / "out" / "evaluation_results.json").read_text(encoding="utf-8"))["totals"]
    mine, chrf = totals["scores"][str(place / "mine.py")], totals["scores"]["chrf"]
    assert figures(run, "eval_accuracy")[best.step] == totals["accuracy"]
    assert figures(run, "eval_mine_size")[best.step] == mine["size"]
    assert figures(run, "eval_mine")[best.step] == best.value == mine["mine"]
    assert figures(run, "eval_chrf")[best.step] == pytest.approx(chrf["chrf"])
    every = ["--data", place / "validation.jsonl", "-o", place / "all", "evaluation.metrics=[perplexity]"]
    code, _out, err = tunesmith("eval", run, *every)
    assert code == 0, err
    totals = json.loads((place / "all" / "evaluation_results.json").read_text(encoding="utf-8"))["totals"]
    measured = totals["scores"]["perplexity"]
    assert figures(run, "eval_perplexity")[best.step] == pytest.approx(measured["perplexity"], rel=1e-5)
    assert figures(run, "eval_loss")[best.step] == pytest.approx(measured["loss"], rel=1e-5)


def test_perplexity_counts_every_token_once_whatever_it_weighs(tiny_model, tmp_path):
    """Against the model's own logits, row by row; equal rows are computed once and count twice."""
    import torch

    from tunesmith.model.attention import use_forest_attention
    from tunesmith.tokens.answer import Answer
    from tunesmith.train import launch
    from tunesmith.train.loop import Loop
    from tunesmith.train.loss import Trainee
    from tunesmith.train.plan import Row

    draw = random.Random(1)
    asked = [[draw.randrange(384) for _ in range(5)] for _ in range(3)]
    weights = [[draw.choice([0.5, 1, 3]) for _ in range(1 + i)] for i in range(5)]
    answers = [Answer(0, asked[i % 3], [draw.randrange(384) for _ in w], w) for i, w in enumerate(weights)]
    answers += [answers[4], Answer(0, asked[0], [7, 8], [0.0, 1.0])]
    reference, nats = tiny_model(), []
    for answer in answers:
        logits = reference(torch.tensor([answer.context_ids + answer.answer_ids])).logits[0]
        losses = torch.nn.functional.cross_entropy(
            logits[len(answer.context_ids) - 1 : -1], torch.tensor(answer.answer_ids), reduction="none"
        )
        nats += [loss.item() for loss, weight in zip(losses, answer.weights, strict=True) if weight]
    rows = [Row((answer,)) for answer in answers]
    for forest in (True, False):
        model = tiny_model()
        if forest:
            use_forest_attention(model)
        section = TrainingSection()
        accelerator = launch.start(section, weights=torch.float32, device="cpu")
        loop = Loop(accelerator, Trainee(model), rows, rows, section, tmp_path, forest=forest, pad_id=0)
        assert loop.evaluation_loss(rows)[1] == pytest.approx(math.exp(sum(nats) / len(nats)), rel=1e-4)


def test_the_same_questions_are_answered_again_and_again(run, place):
    kept = rundir.metrics(run, rundir.SAMPLES)
    assert [record["step"] for record in kept] == [step for step in range(1, 7) for _sample in range(2)]
    asked = [json.loads(line) for line in (place / "asked.jsonl").read_text(encoding="utf-8").splitlines()]
    for number, record in enumerate(kept):
        row = asked[-(number % 2)]
        assert record["prompt"] == [{"role": "user", "content": row["question"]}]
        assert record["expected"] == row["answer"]
    assert len({record["answer"] for record in kept[::2]}) > 1, "the model learns"
    log = (run / rundir.LOG).read_text(encoding="utf-8")
    assert log.count("“Is pump 20 faulty?” is answered with") == log.count("“Is pump 25 faulty?” is answered with") == 6


def test_questions_of_ones_own_stand_under_the_training_s_system_prompt(place, tiny_folder):
    settings = ["training.max_steps=2", 'evaluation.samples=["Who are you?", "你好"]', "template.system=Be brief."]
    words = ["train", place / "train.jsonl", "--model", tiny_folder, "-o", place / "own", *TRAINING[1:], *settings]
    code, _out, err = tunesmith(*words)
    assert code == 0, err
    kept = rundir.metrics(place / "own", rundir.SAMPLES)
    assert [(r["step"], r["prompt"][-1]["content"]) for r in kept] == [
        (1, "Who are you?"),
        (1, "你好"),
        (2, "Who are you?"),
        (2, "你好"),
    ]
    assert kept[0]["prompt"][0] == {"role": "system", "content": "Be brief."}
    assert kept[0]["expected"] is None
    assert err.count("is answered with") == 2, "the first sample alone is said"


# the best checkpoint


def test_the_best_checkpoint_is_the_one_that_the_figure_says(run):
    values = figures(run, "eval_mine")
    best = rundir.best(run)
    assert best.value == max(values.values())
    assert best.step == min(step for step, value in values.items() if value == best.value)
    assert best.step != min(figures(run, "eval_loss").items(), key=lambda each: each[1])[0], "else nothing is shown"
    code, out, _err = tunesmith("runs", run.parent)
    assert code == 0
    assert f"best mine {best.value:.3f}" in out
    assert rundir.find(str(run)).why == (
        f"checkpoint-{best.step}: best mine ({best.value:.3f}) of {len(rundir.checkpoints(run))}; "
        "--checkpoint last takes the newest."
    )
    assert f"Best is checkpoint-{best.step}, mine {best.value:.3f}." in (run / rundir.LOG).read_text(encoding="utf-8")


def test_less_may_be_better_and_rotation_and_patience_follow(place, tiny_folder):
    chosen = ["training.metric_for_best_model=eval_mine_size", "training.greater_is_better=false", *watched(place)]
    chosen += ["training.save_total_limit=1", "training.early_stopping_patience=2", "training.max_steps=30"]
    short = train(place, tiny_folder, "short", *chosen)
    values = figures(short, "eval_mine_size")
    best = rundir.best(short)
    assert best.value == min(values.values())
    assert {c.step for c in rundir.checkpoints(short)} == {best.step, max(values)}
    assert max(values) == best.step + 2 < 30, "stopped after two evaluations without gain"


@pytest.mark.parametrize("greater", [True, False])
def test_best_so_far_by_any_figure(greater):
    draw = random.Random(5)
    for _round in range(200):
        section = TrainingSection(metric_for_best_model="accuracy", greater_is_better=greater)
        state = State.of(Chooser.of(section))
        seen = [draw.choice([0.0, 0.25, 0.5, 1.0, math.nan, math.inf, None]) for _evaluation in range(8)]
        best, idle = None, 0
        for value in seen:
            state.measured({"eval_loss": 1.0} | ({} if value is None else {"eval_accuracy": value}))
            gained = value is not None and math.isfinite(value) and (
                best is None or (value > best if greater else value < best)
            )  # fmt: skip
            best, idle = (value, 0) if gained else (best, idle + (value is not None))
            assert state.is_best == gained
            assert (state.best_value, state.evaluations_without_gain) == (best, idle)


@pytest.mark.parametrize(
    ("name", "greater", "found"),
    [
        (None, None, ("eval_loss", False)),
        ("loss", None, ("eval_loss", False)),
        ("eval_perplexity", None, ("eval_perplexity", False)),
        ("accuracy", None, ("eval_accuracy", True)),
        ("wer", False, ("eval_wer", False)),
    ],
)
def test_which_way_is_better(name, greater, found):
    chooser = Chooser.of(TrainingSection(metric_for_best_model=name, greater_is_better=greater))
    assert (chooser.metric, chooser.greater_is_better) == found


def test_a_checkpoint_of_before_goes_on_with_its_best_loss():
    stored = {"step": 4, "eval_loss": 0.5, "best_eval_loss": 0.25, "evaluations_without_gain": 1}
    state = State.of(Chooser.of(TrainingSection()), stored)
    assert (state.best_value, state.evaluations_without_gain) == (0.25, 1)
    state = State.of(Chooser.of(TrainingSection(metric_for_best_model="accuracy")), stored)
    assert (state.best_value, state.evaluations_without_gain) == (None, 0), "a loss says nothing of an accuracy"


# what can't be measured is refused before a weight is read


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            ["training.metric_for_best_model=acuracy"],
            "eval_acuracy is not measured; there are loss, perplexity. Others",
        ),
        (
            ["training.metric_for_best_model=bleu", *WATCHED],
            "there are loss, perplexity, accuracy.",
        ),
        (["evaluation.during_training=2", "evaluation.metrics=[label]"], "data.answer_template, which is not set"),
        (["evaluation.during_training=2", "generation.max_new_tokens=600"], "leaves room for an answer of"),
    ],
)
@pytest.mark.parametrize("command", ["check", "train"])
def test_refusals(settings, said, command, place, tiny_folder):
    data = f"data.validation={place / 'validation.jsonl'}"
    output = f"training.output_dir={place / 'none'}"
    code, _out, err = tunesmith(command, place / "train.jsonl", "--model", tiny_folder, data, output, *settings)
    assert code == 2
    assert said in err
    assert not (place / "none").exists()


def test_without_validation_rows_all_that_needs_them_is_named(place, tiny_folder):
    settings = ["evaluation.during_training=2", "evaluation.samples=1", "training.early_stopping_patience=2"]
    code, _out, err = tunesmith("check", place / "train.jsonl", "--model", tiny_folder, *settings)
    assert code == 2
    for setting in settings:
        assert f"{setting.partition('=')[0]}  It needs validation rows." in err
