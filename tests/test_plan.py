"""What a run will take: the arithmetic against what torch keeps and the loop computes, and what the user is told."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tunesmith import rundir
from tunesmith.actions import plan as planning
from tunesmith.actions.prepare import prepare
from tunesmith.actions.voice import Voice
from tunesmith.cli import main
from tunesmith.config.load import load
from tunesmith.config.schema import TrainingSection
from tunesmith.model import machine
from tunesmith.model.plan import How, Load, Memory, Shape, checkpoint_bytes, kept, memory, seconds
from tunesmith.tokens.answer import Answer
from tunesmith.tokens.forest import grow
from tunesmith.train.plan import Plan, Row, cut, loads, steps_to_look_at

SMALL = Shape(
    layers=2, hidden=64, inner=96, heads=4, queries=64, keys=32, vocabulary=384, parameters=90_000, matrices=65_000,
    fused=True, head_norms=False,
)  # fmt: skip
LORA = How(full=False, trained=2_000, weight_bytes=2, compute_bytes=2, checkpointing=False)
FULL = replace(LORA, full=True, trained=90_000, weight_bytes=4, compute_bytes=4)
RATES = machine.Rates(product=9e10, bfloat16=2.1, pass_=1e-10)


def made_rows(count: int, seed: int = 0, longest: int = 40) -> list[Row]:
    """Rows that share beginnings, some with two answers."""
    rng, stem, rows = random.Random(seed), list(range(1, 13)), []
    for i in range(count):
        context = stem[: rng.randint(4, 12)] + [rng.randrange(384) for _ in range(rng.randint(2, longest))]
        first = Answer(0, context, [rng.randrange(384) for _ in range(rng.randint(1, 6))], [])
        later = Answer(1, [*context, *first.answer_ids, 7], [8, 9], [])
        answers = [replace(a, weights=[1.0] * len(a.answer_ids)) for a in ([first, later] if i % 3 else [first])]
        rows.append(Row(tuple(answers), f"rows.jsonl:{i + 1}"))
    return rows


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = random.Random(0)
    rows = [
        {"question": f"Is pump {i} faulty? " + "Look at it. " * rng.randint(0, 9), "answer": "Yes: replace the gasket."}
        for i in range(40)
    ]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def forecast(data: Path, model: Path, *overrides: str) -> planning.Forecast:
    config = load(None, overrides, {"data.train": data, "model.name_or_path": model}).config
    config.training.output_dir = config.training.output_dir or data.parent / "run"
    found = planning.forecast(config, prepare(config, Voice()))
    assert found is not None
    return found


# --- the arithmetic ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_what_a_layer_keeps_of_a_token_is_what_torch_keeps(tiny_model, family, method, monkeypatch):
    import torch

    from tunesmith.config.schema import LoraSection
    from tunesmith.model.adapter import add_adapter
    from tunesmith.model.attention import use_forest_attention
    from tunesmith.model.kernels import use_fast_kernels
    from tunesmith.train.batch import Batch
    from tunesmith.train.loss import Trainee

    monkeypatch.setattr("tunesmith.model.paths.SHARES_KEPT", 0)  # these go by pairs of tokens
    model = tiny_model(family).to(torch.float32 if method == "full" else torch.bfloat16).train()
    if method == "lora":
        model = add_adapter(model, LoraSection(r=1), seed=1)
    use_forest_attention(model)
    use_fast_kernels(model)
    rng = random.Random(0)
    answer = Answer(0, [rng.randrange(384) for _ in range(400)], [5], [1.0])
    batch = Batch.of_forest(grow([answer]), torch.device("cpu"))
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    stored: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tensor.numel() >= 400 * 16:
            stored[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        Trainee(model)(batch)
    found = sum(storage.nbytes() for storage in stored.values()) / len(batch.input_ids[0]) / 2
    shape = replace(SMALL, fused=family != "gemma3", head_norms=family != "llama")
    assert kept(shape, FULL if method == "full" else LORA) == pytest.approx(found, rel=0.15)


def test_pairs_of_a_forest_are_what_its_tokens_see():
    for seed in range(5):
        forest = grow([a for row in made_rows(9, seed) for a in row.answers])
        assert forest.pairs == sum(len(forest.path(token)) for token in range(len(forest)))


def test_each_choice_moves_the_figures_as_it_moves_the_run():
    one, two = [Load(500, 60_000, 200)], [Load(1000, 240_000, 400)]
    for how in (LORA, FULL):
        again = replace(how, checkpointing=True)
        assert memory(SMALL, again, two).activations < memory(SMALL, how, two).activations / 2
        assert seconds(SMALL, again, two[0], RATES) > seconds(SMALL, how, two[0], RATES)
        assert memory(SMALL, how, one).total < memory(SMALL, how, two).total == memory(SMALL, how, one + two).total
    assert memory(SMALL, FULL, one).total > memory(SMALL, LORA, one).total
    assert memory(SMALL, LORA, [Load(500, 60_000, 200, shared=500)]).total > memory(SMALL, LORA, one).total
    slow = replace(RATES, product=RATES.product / 2)
    assert seconds(SMALL, LORA, one[0], slow) > seconds(SMALL, LORA, one[0], RATES)


def test_a_checkpoint_is_as_large_as_planned(data, tiny_folder, tmp_path):
    for method in ("lora", "full"):
        run = tmp_path / method
        words = [str(data), "--model", str(tiny_folder), "-o", str(run), f"method={method}", "training.max_steps=1"]
        assert main(["train", *words]) == 0
        own = ("adapter_model.safetensors", "model.safetensors", "state/optimizer.safetensors")
        found = sum((run / "checkpoint-1" / n).stat().st_size for n in own if (run / "checkpoint-1" / n).exists())
        assert forecast(data, tiny_folder, f"method={method}").checkpoint == pytest.approx(found, rel=0.1)


def test_the_shape_is_read_from_the_models_files(tiny_folder, tmp_path):
    shape = Shape.read(tiny_folder)
    assert shape is not None
    assert replace(shape, parameters=0, matrices=0) == replace(SMALL, parameters=0, matrices=0)
    assert shape.parameters == shape.matrices + 384 * 64 + 5 * 64  # a tied embedding, five norms
    (tmp_path / "config.json").write_bytes((tiny_folder / "config.json").read_bytes())
    assert Shape.read(tmp_path) == replace(shape, parameters=shape.parameters - 5 * 64)  # no weights here: counted
    (tmp_path / "config.json").write_text('{"model_type": "other"}')
    assert Shape.read(tmp_path) is None


# --- what is computed at once -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("forest", [True, False])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_the_plan_counts_what_the_loop_computes(tiny_model, monkeypatch, tmp_path, forest, checkpointing):
    import torch

    from tunesmith.train import launch
    from tunesmith.train.batch import Batch
    from tunesmith.train.loop import Loop
    from tunesmith.train.loss import Trainee

    for name, value in (("plan.WORTH", 4), ("plan.AT_ONCE", 90), ("loop.AT_ONCE", 90)):
        monkeypatch.setattr(f"tunesmith.train.{name}", value)
    rows = [
        Row(tuple(replace(a, context_ids=[*range(50, 70), *a.context_ids]) for a in r.answers)) for r in made_rows(24)
    ]
    section = TrainingSection(per_device_train_batch_size=12, gradient_checkpointing=checkpointing)
    accelerator = launch.start(section, weights=torch.float32, device="cpu")
    trainee = Trainee(tiny_model("llama"))
    loop = Loop(accelerator, trainee, rows, [], section, tmp_path, forest=forest, pad_id=0)
    computed: list[Batch] = []
    trainee.register_forward_pre_hook(lambda module, given: computed.append(given[0]))
    from tunesmith.model.attention import use_forest_attention

    use_forest_attention(trainee.model)
    for step in range(2):
        computed.clear()
        loop._step([rows[i] for i in loop.plan.conversations(step)], step)
        planned = loads(loop.plan, rows, step, section, forest=forest)
        assert [(b.input_ids.numel(), len(b.target)) for b in computed] == [(p.tokens, p.targets) for p in planned]
        assert (planned[0].targets == 0) == (forest and not checkpointing)  # the beginning that all share


def test_padded_rows_are_cut_by_their_padding():
    rows = made_rows(30, longest=60)
    shared, batches = cut(rows, size=8, budget=200, forest=False)
    assert shared == []
    wanted = sorted(a.context_ids for row in rows for a in row.answers)
    assert sorted(row.answers[0].context_ids for batch in batches for row in batch) == wanted
    for batch in batches:
        width = max(len(row.answers[0]) for row in batch) - 1
        assert len(batch) <= 8
        assert len(batch) == 1 or len(batch) * width <= 200


def test_the_longest_row_is_looked_at_among_many_steps():
    rows = [Row((Answer(0, [1] * 5, [2], [1.0]),))] * 999 + [Row((Answer(0, [1] * 300, [2], [1.0]),))]
    plan = Plan.of(TrainingSection(per_device_train_batch_size=2), len(rows))
    sample = steps_to_look_at(plan, np.array([sum(map(len, row.answers)) for row in rows]))
    assert 999 in plan.conversations(sample.longest)
    assert len(sample.all) < 60


def test_an_evaluation_is_cut_by_tokens_too(tiny_model, monkeypatch, tmp_path):
    import torch

    from tunesmith.model.attention import use_forest_attention
    from tunesmith.train import launch
    from tunesmith.train.loop import Loop
    from tunesmith.train.loss import Trainee

    rows, found = made_rows(16), []
    section = TrainingSection(per_device_eval_batch_size=16)
    for budget in (10_000, 60):
        monkeypatch.setattr("tunesmith.train.loop.AT_ONCE", budget)
        trainee = Trainee(tiny_model("llama"))
        use_forest_attention(trainee.model)
        accelerator = launch.start(section, weights=torch.float32, device="cpu")
        loop = Loop(accelerator, trainee, rows, rows, section, tmp_path, forest=True, pad_id=0)
        sizes: list[int] = []
        trainee.register_forward_pre_hook(lambda module, given, sizes=sizes: sizes.append(given[0].input_ids.numel()))
        found.append(loop.evaluation_loss(rows))
        assert (len(sizes) == 1) == (budget == 10_000)
    assert max(sizes) <= 120  # a row more than the budget at most
    assert found[0] == pytest.approx(found[1], rel=1e-5)


# --- what the user is told --------------------------------------------------------------------------------------------


def test_check_says_memory_time_and_disk(data, tiny_folder, capsys):
    assert main(["check", str(data), "--model", str(tiny_folder)]) == 0
    out = capsys.readouterr()
    line = next(line for line in (out.out + out.err).splitlines() if line.startswith("It will take about"))
    assert " of memory (" in line
    assert " of disk (" in line


def test_settings_that_fit_are_named_and_do_fit(data, tiny_folder, monkeypatch):
    given = ("training.per_device_train_batch_size=40", "data.drop_duplicates=false")
    needed = forecast(data, tiny_folder, *given).memory
    monkeypatch.setattr(machine, "free_memory", lambda: needed.total - 2_000_000)
    found = forecast(data, tiny_folder, *given)
    assert not found.fits
    assert len(found.ways) == 2
    assert "training.gradient_checkpointing=true" in "".join(found.lines())
    for settings, size in found.ways:
        other = forecast(data, tiny_folder, *given, *settings.split())
        assert other.memory.total == size <= found.free_memory
        assert other.steps == found.steps


def test_an_adapter_is_named_where_all_weights_do_not_fit(data, tiny_folder, monkeypatch):
    least = ("training.gradient_checkpointing=true", "training.per_device_train_batch_size=1")
    needed = forecast(data, tiny_folder, "method=lora", *least).memory.total
    monkeypatch.setattr(machine, "free_memory", lambda: needed)
    found = forecast(data, tiny_folder, "method=full", *least)
    assert found.ways == [("method=lora", needed)]
    assert forecast(data, tiny_folder, "method=lora", *least).fits


def test_nothing_fits_and_it_is_said(data, tiny_folder, monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: 1_000_000)
    assert "smaller model" in forecast(data, tiny_folder).lines()[1]


def test_a_packed_base_takes_less(data, tiny_folder):
    plain, packed = (forecast(data, tiny_folder, f"model.load_in_4bit={p}").memory for p in ("false", "true"))
    assert packed.weights < plain.weights


@pytest.mark.parametrize("door", ["check", "train"])
def test_checkpoints_that_fill_the_disk_are_refused(data, tiny_folder, tmp_path, monkeypatch, capsys, door):
    """300 epochs, saved every 20 steps without a limit: 75 checkpoints."""
    run = tmp_path / "run"
    words = ["training.num_train_epochs=300", "training.save_steps=20", "training.save_total_limit=null"]
    each = forecast(data, tiny_folder, *words).checkpoint
    monkeypatch.setattr(planning, "free_disk", lambda folder: 10 * each)
    asked = [door, str(data), "--model", str(tiny_folder), f"training.output_dir={run}"]
    assert main([*asked, *words]) == 2
    said = capsys.readouterr().err
    assert "training.save_total_limit=9" in said
    assert not run.exists()
    assert main(["check", *asked[1:], *words, "training.save_total_limit=9"]) == 0


# --- step 0 -----------------------------------------------------------------------------------------------------------


def test_a_trial_of_the_largest_batch_leaves_nothing(tiny_model, tmp_path):
    import torch

    from tunesmith.config.schema import LoraSection
    from tunesmith.model.adapter import add_adapter
    from tunesmith.model.attention import use_forest_attention
    from tunesmith.train import launch
    from tunesmith.train.loop import Loop
    from tunesmith.train.loss import Trainee
    from tunesmith.train.trial import rehearse

    ends, rows = [], made_rows(24)
    section = TrainingSection(per_device_train_batch_size=6, max_steps=3, learning_rate=1e-2)
    for tried in (False, True):
        model = add_adapter(tiny_model("llama"), LoraSection(r=2, lora_dropout=0.3), seed=1)
        use_forest_attention(model)
        accelerator = launch.start(section, weights=torch.float32, device="cpu")
        torch.manual_seed(3)
        loop = Loop(accelerator, Trainee(model), rows, [], section, tmp_path / str(tried), forest=True, pad_id=0)
        loop.run.mkdir()
        if tried:
            before = torch.get_rng_state()
            trial = rehearse(loop, 1)
            assert torch.equal(torch.get_rng_state(), before)
            assert all(p.grad is None for p in model.parameters())
            assert trial.tokens == max(p.tokens for p in loads(loop.plan, rows, 1, section))
            assert trial.peak > 100e6
        loop.train()
        ends.append([p.detach().clone() for p in model.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_plan_trial_and_what_it_took_are_in_the_run_and_abilities_last(data, tiny_folder, tmp_path, capsys):
    run = tmp_path / "run"
    words = [str(data), "--model", str(tiny_folder), "-o", str(run)]
    assert main(["train", *words, "training.max_steps=2"]) == 0
    record = rundir.record(run)
    assert record["plan"]["memory"]["total"] == sum(v for k, v in record["plan"]["memory"].items() if k != "total")
    assert record["plan"]["steps"] == record["steps"] == 2
    assert record["trial"]["tokens"] > 0
    assert record["took"]["memory"] > 100e6
    assert record["abilities"] == {"forest": True, "fast_head": True, "reason": ""}
    record["abilities"] = {"forest": False, "fast_head": False, "reason": "As it was found before."}
    rundir.write_json(run / rundir.RUN, record)
    capsys.readouterr()
    assert main(["train", *words, "training.max_steps=3", "--resume"]) == 0
    out = capsys.readouterr()
    assert "As it was found before." in out.out + out.err
    assert rundir.record(run)["abilities"] == record["abilities"]


def test_parts_add_up():
    assert Memory(1, 2, 3, 4, 5, 6).total == 21
    assert checkpoint_bytes(LORA) == 24_000
