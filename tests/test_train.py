"""The loop's invariants, on tiny models in memory."""

import random
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig, LlamaConfig, Qwen2Config, Qwen3Config

from tunesmith import rundir
from tunesmith.config.schema import LoraSection, TrainingSection
from tunesmith.errors import ConfigError, RunError
from tunesmith.model.adapter import add_adapter
from tunesmith.model.attention import NAME, use_forest_attention
from tunesmith.model.fused import use_fused_layers
from tunesmith.model.kernels import use_fast_kernels
from tunesmith.model.lowrank import use_fast_adapters
from tunesmith.model.paths import Paths
from tunesmith.model.trunk import Trunk
from tunesmith.tokens.answer import Answer
from tunesmith.tokens.forest import common_beginning, grow
from tunesmith.train import launch
from tunesmith.train.batch import Batch
from tunesmith.train.loop import Loop
from tunesmith.train.loss import Trainee, causal_model, chunked_cross_entropy
from tunesmith.train.plan import Row, cut
from tunesmith.train.probe import probe

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}
FAMILIES = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "qwen2": lambda: Qwen2Config(**SHAPE),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=8),
    "gemma3": lambda: Gemma3TextConfig(
        **SHAPE, head_dim=8, sliding_window=6, layer_types=["sliding_attention", "full_attention"] * 2
    ),
}
CPU = torch.device("cpu")
MEASURED = ("tokens_per_second", "seconds", "memory_gb")  # of a record: what no two runs have in common


def tiny(family="llama"):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(FAMILIES[family](), attn_implementation="eager").train()


def lively():
    """A tiny model whose predictions depend on what it reads: a fresh one predicts nearly the same whatever came."""
    model = tiny()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    return model


def answers(count, seed=0):
    """Dialogues that share beginnings, with weights."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        if made and rng.random() < 0.6:
            before = rng.choice(made)
            context = before.context_ids + before.answer_ids + [rng.randrange(64)]
        else:
            context = [rng.randrange(64) for _ in range(rng.randint(3, 12))]
        ids = [rng.randrange(64) for _ in range(rng.randint(1, 6))]
        made.append(Answer(0, context, ids, [rng.choice([1.0, 2.0, 0.5])] * len(ids)))
    return made


def rows(count, seed=0):
    return [Row((answer,), f"rows.jsonl:{i + 1}") for i, answer in enumerate(answers(count, seed))]


def one_by_one(model, found):
    """The loss that every answer has in its own row by the model's own forward."""
    total = 0
    for answer in found:
        logits = model(torch.tensor([answer.context_ids + answer.answer_ids])).logits[0]
        losses = torch.nn.functional.cross_entropy(
            logits[len(answer.context_ids) - 1 : -1], torch.tensor(answer.answer_ids), reduction="none"
        )
        total = total + (losses * torch.tensor(answer.weights)).sum()
    return total


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["fast", "plain", "rows"])
def test_loss_and_every_gradient_are_those_of_training_one_by_one(family, kind):
    model, found = tiny(family), answers(12)
    wanted = one_by_one(model, found)
    wanted.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    use_forest_attention(model)
    batch = Batch.of_rows(found, 0, CPU)
    if kind != "rows":
        batch = Batch.of_forest(grow(found), CPU, fast=kind == "fast")
    loss, _losses = Trainee(model)(batch)
    loss.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        scale = gradients[name].abs().max()
        assert (parameter.grad - gradients[name]).abs().max() <= 1e-5 * scale, name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fast", [True, False])
def test_what_all_begin_with_may_be_computed_once_for_several_batches(family, fast):
    stem = [random.Random(1).randrange(64) for _ in range(20)]
    found = [replace(a, context_ids=[*stem, *a.context_ids]) for a in answers(12)]
    model = tiny(family)
    wanted = one_by_one(model, found)
    wanted.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    use_forest_attention(model)
    shared = common_beginning(found)
    assert shared[:20] == stem
    for trunk in (Trunk(shared), Trunk(shared[:11])):
        model.zero_grad()
        trainee = Trainee(model)
        trainee(Batch.of_trunk(trunk, CPU, fast=fast))
        total = 0.0
        for part in (found[:7], found[7:]):
            loss, _losses = trainee(Batch.of_forest(grow(part), CPU, fast=fast, trunk=trunk))
            loss.backward()
            total += loss.item()
        trunk.backward()
        assert total == pytest.approx(wanted.item(), rel=1e-5)
        for name, parameter in model.named_parameters():
            scale = gradients[name].abs().max()
            assert (parameter.grad - gradients[name]).abs().max() <= 1e-5 * scale, name


def test_what_all_contexts_begin_with():
    made = [Answer(0, [1, 2, 3, *rest], [9], [1.0]) for rest in ([4], [4, 5], [6], [4, 5, 6])]
    assert common_beginning(made) == [1, 2, 3]
    assert common_beginning([*made, Answer(0, [1, 2, 3], [4], [1.0])]) == [1, 2]  # 3 predicts something
    assert common_beginning(made[:1]) == [1, 2, 3]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_adapters_arithmetic_is_pefts(dropout, fused, checkpointing):
    gradients = []
    for fast in (False, True):
        model = add_adapter(tiny(), LoraSection(r=4, lora_alpha=8, lora_dropout=dropout), seed=1).train()
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at the start: half of the gradients would be too
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(len(name)))
        use_forest_attention(model.get_base_model())
        if fast:
            assert use_fast_adapters(model) == 28
            if fused:
                assert use_fused_layers(model) == 13
            if checkpointing:
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
                model.enable_input_require_grads()
        torch.manual_seed(5)
        Trainee(model)(Batch.of_forest(grow(answers(8)), CPU))[0].backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, wanted in gradients[0].items():
        assert (gradients[1][name] - wanted).abs().max() <= 1e-5 * wanted.abs().max(), name


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_fused_layers_compute_what_the_chain_does(family):
    gradients = []
    for fused in (False, True):
        model = tiny(family)
        if fused:
            assert use_fused_layers(model) >= 13  # three norms and an MLP a layer, less one, and the last norm
        loss = one_by_one(model, answers(4))
        loss.backward()
        gradients.append([loss.detach(), *(p.grad for p in model.parameters())])
    for found, wanted in zip(*gradients, strict=True):
        assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_layers_that_compute_otherwise_are_left_alone():
    assert use_fused_layers(tiny("gemma3")) == 0  # its norms add one to the weight, its MLP has another gate


def test_chunked_loss_is_cross_entropy(monkeypatch):
    monkeypatch.setattr("tunesmith.train.loss.CHUNK_BYTES", 64 * 4 * 16)
    torch.manual_seed(0)
    hidden, head = torch.randn(50, 8, requires_grad=True), torch.randn(64, 8, requires_grad=True)
    target, weight = torch.randint(0, 64, (50,)), torch.rand(50)
    wanted = (torch.nn.functional.cross_entropy(hidden @ head.T, target, reduction="none") * weight).sum()
    expected = torch.autograd.grad(wanted, (hidden, head))
    total, losses = chunked_cross_entropy(hidden, head, target, weight)
    found = torch.autograd.grad(total, (hidden, head))
    assert total.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert losses.shape == (50,)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_probe_says_yes_where_it_is_so(family):
    able = probe(tiny(family), longest_row=60)
    assert able.forest
    assert able.fast_head


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_probe_notices_a_model_that_takes_no_forest(monkeypatch, dtype):
    """A layer that mixes neighbours in the row, as recurrent and convolutional layers do."""
    model = lively().to(dtype)
    assert probe(model, longest_row=60).forest
    layer = model.model.layers[1].mlp
    plain = layer.forward
    monkeypatch.setattr(layer, "forward", lambda x: plain(x + torch.nn.functional.pad(x, (0, 0, 1, -1))))
    able = probe(model, longest_row=60)
    assert not able.forest
    assert "on its own" in able.reason


def test_the_probe_notices_a_head_that_is_no_plain_matrix():
    model = tiny()
    head = model.lm_head
    head.register_forward_hook(lambda module, args, output: output * 3)
    able = probe(model, longest_row=60)
    assert able.forest
    assert not able.fast_head


def loop(run, section, *, model=None, data=None, validation=(), forest=True, dropout=0.0):
    model = model or add_adapter(tiny(), LoraSection(r=4, lora_alpha=8, lora_dropout=dropout), seed=1)
    use_forest_attention(causal_model(model))
    use_fast_adapters(model)
    accelerator = launch.start(section, weights=torch.float32, device="cpu")
    torch.manual_seed(section.seed)
    run.mkdir(exist_ok=True)
    return Loop(accelerator, Trainee(model), data or rows(24), list(validation), section, run, forest=forest, pad_id=0)


def settings(**given):
    return TrainingSection(**({"learning_rate": 1e-2, "num_train_epochs": 4, "per_device_train_batch_size": 4} | given))


def trained(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def test_training_learns(tmp_path):
    made = loop(tmp_path / "run", settings(num_train_epochs=20))
    made.train()
    losses = [record["loss"] for record in rundir.metrics(tmp_path / "run")]
    assert sum(losses[-6:]) < 0.92 * sum(losses[:6])


def test_one_batch_of_eight_is_eight_of_one(tmp_path):
    ends = []
    for batch, accumulation in ((8, 1), (1, 8)):
        section = settings(per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation)
        made = loop(tmp_path / f"{batch}", section)
        made.train()
        ends.append(trained(made.trainee.model))
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[1][name], rtol=1e-4, atol=1e-5)


def test_forest_and_rows_train_the_same(tmp_path):
    ends = []
    for forest in (True, False):
        made = loop(tmp_path / f"{forest}", settings(), forest=forest)
        made.train()
        ends.append(trained(made.trainee.model))
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[1][name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("stop_at", [3, 10])
def test_a_resumed_run_is_bit_identical(tmp_path, stop_at):
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    section = settings(max_steps=20, save_steps=1, save_total_limit=None, eval_steps=3)
    whole = loop(tmp_path / "run", section, validation=rows(6, seed=9), dropout=0.3)
    whole.train()
    checkpoint = tmp_path / "run" / f"checkpoint-{stop_at}"
    model = add_adapter(tiny(), LoraSection(r=4, lora_alpha=8, lora_dropout=0.3), seed=77)
    set_peft_model_state_dict(model, load_file(checkpoint / "adapter_model.safetensors"))
    again = loop(tmp_path / "again", section, model=model, validation=rows(6, seed=9), dropout=0.3)
    again.resume(checkpoint)
    again.train()
    ends = trained(whole.trainee.model), trained(again.trainee.model)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    first = [r for r in rundir.metrics(tmp_path / "run") if r["step"] > stop_at]
    second = rundir.metrics(tmp_path / "again")
    for a, b in zip(first, second, strict=True):
        assert a | dict.fromkeys(MEASURED) == b | dict.fromkeys(MEASURED)


def test_the_best_and_the_last_checkpoint_stay(tmp_path):
    section = settings(max_steps=8, save_steps=1, save_total_limit=2, learning_rate=0.5)
    loop(tmp_path / "run", section, validation=rows(6, seed=9)).train()
    left = rundir.checkpoints(tmp_path / "run")
    losses = {r["step"]: r["eval_loss"] for r in rundir.metrics(tmp_path / "run") if "eval_loss" in r}
    assert [c.step for c in left] == sorted({min(losses, key=losses.get), 8})
    assert all(c.verify() == [] for c in left)


def test_early_stopping(tmp_path):
    section = settings(max_steps=200, save_steps=2, learning_rate=0.5, early_stopping_patience=3)
    made = loop(tmp_path / "run", section, validation=rows(6, seed=9))
    state = made.train()
    assert state.step < 200
    assert rundir.latest(tmp_path / "run").step == state.step


def test_a_loss_that_is_no_number_stops_before_the_step(tmp_path):
    made = loop(tmp_path / "run", settings())
    with torch.no_grad():
        next(p for p in made.trainee.model.parameters() if p.requires_grad).fill_(float("nan"))
    before = trained(made.trainee.model)
    with pytest.raises(RunError, match=r"rows\.jsonl:\d+"):
        made.train()
    after = trained(made.trainee.model)
    assert all(torch.equal(before[n], after[n]) or before[n].isnan().any() for n in before)


def test_float16_is_refused_on_a_cpu():
    with pytest.raises(ConfigError, match="bfloat16"):
        launch.start(TrainingSection(fp16=True), weights=torch.float32, device="cpu")


def test_calls_without_a_forest_are_transformers_own():
    model = tiny()
    ids = torch.tensor([[5, 6, 7, 8], [0, 0, 9, 10]])
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    wanted = model(ids, attention_mask=mask).logits
    use_forest_attention(model)
    assert model.config._attn_implementation == NAME
    torch.testing.assert_close(model(ids, attention_mask=mask).logits[mask == 1], wanted[mask == 1])


def test_gradient_checkpointing_changes_memory_and_nothing_else(tmp_path):
    ends = []
    for checkpointing in (False, True):
        model = add_adapter(tiny(), LoraSection(r=4, lora_alpha=8), seed=1)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
        made = loop(tmp_path / str(checkpointing), settings(max_steps=3), model=model)
        made.train()
        ends.append(trained(made.trainee.model))
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[1][name], rtol=1e-5, atol=1e-6)


def test_a_step_is_cut_by_tokens_and_rows_that_begin_alike_stay_together():
    system, other = list(range(1, 21)), list(range(30, 50))
    made = [Row((Answer(0, [*start, i], [7, 8], [1.0, 1.0]),)) for i in range(6) for start in (system, other)]
    batches = cut(made, size=12, budget=40)[1]
    assert [len(b) for b in batches] == [6, 6]
    assert {tuple(r.answers[0].context_ids[:20]) for r in batches[0]} == {tuple(system)}
    assert [len(b) for b in cut(made, size=4, budget=10_000)[1]] == [4, 4, 4]
    assert [len(b) for b in cut(made, size=12, budget=1)[1]] == [1] * 12


def test_plain_kernels_train_the_same(tmp_path):
    ends = []
    for kernels in ("fast", "plain"):
        model = add_adapter(tiny(), LoraSection(r=4, lora_alpha=8), seed=1)
        if kernels == "fast":
            use_fast_kernels(model)
        made = Loop(
            launch.start(settings(), weights=torch.float32, device="cpu"), Trainee(model, fast_head=kernels == "fast"),
            rows(24), [], settings(kernels=kernels), tmp_path / kernels, forest=True, pad_id=0,
        )  # fmt: skip
        use_forest_attention(causal_model(model))
        (tmp_path / kernels).mkdir()
        made.train()
        assert made.fast == (kernels == "fast")
        ends.append(trained(model))
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[1][name], rtol=1e-3, atol=1e-4)


def test_kept_shares_change_no_bit_and_stay_within_their_room(tmp_path, monkeypatch):
    ends, keeps, sizes = [], Paths.keeps, []
    for room, expected in ((0, {False}), (10**9, {True}), (None, {True, False})):
        monkeypatch.setattr("tunesmith.model.paths.SHARES_KEPT", max(sizes) if room is None else room)
        said = set()

        def noted(paths, layer, size, said=said):
            said.add(keeps(paths, layer, size))
            sizes.append(size)
            return layer in paths._kept

        monkeypatch.setattr(Paths, "keeps", noted)
        made = loop(tmp_path / f"{room}", settings(max_steps=3))
        made.train()
        assert said == expected
        ends.append(trained(made.trainee.model))
    for name, weights in ends[0].items():
        assert all(torch.equal(weights, end[name]) for end in ends[1:])


def test_a_step_in_batches_behind_a_common_beginning_trains_the_same(tmp_path, monkeypatch):
    stem = [random.Random(1).randrange(64) for _ in range(40)]
    data = [Row((replace(r.answers[0], context_ids=[*stem, *r.answers[0].context_ids]),), r.place) for r in rows(24)]
    ends = []
    for worth, at_once in ((10**9, 10**9), (16, 24)):
        monkeypatch.setattr("tunesmith.train.plan.WORTH", worth)
        monkeypatch.setattr("tunesmith.train.loop.AT_ONCE", at_once)
        shared, batches = cut(data[:8], 8, at_once)
        assert (len(shared) >= 40, len(batches) > 2) == (worth == 16, worth == 16)
        made = loop(tmp_path / f"{worth}", settings(per_device_train_batch_size=8, max_steps=6), data=data)
        made.train()
        ends.append(trained(made.trainee.model))
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[1][name], rtol=1e-3, atol=1e-4)


def test_a_checkpoint_has_the_loss_of_its_own_weights(tmp_path):
    section = settings(max_steps=12, save_steps=3, eval_steps=4, save_total_limit=None)
    loop(tmp_path / "run", section, validation=rows(6, seed=9)).train()
    measured = {r["step"]: r["eval_loss"] for r in rundir.metrics(tmp_path / "run") if "eval_loss" in r}
    for checkpoint in rundir.checkpoints(tmp_path / "run"):
        assert checkpoint.eval_loss == measured.get(checkpoint.step)
    assert rundir.best(tmp_path / "run").step == min(measured, key=measured.get)


def test_an_adapter_on_the_head_is_trained():
    section = LoraSection(r=4, lora_alpha=8, target_modules=["q_proj", "lm_head"])
    model = add_adapter(tiny(), section, seed=1).train()
    able = probe(model, longest_row=60)
    assert able.forest
    assert not able.fast_head
    Trainee(model, fast_head=able.fast_head)(Batch.of_forest(grow(answers(4)), CPU))[0].backward()
    head = [p for name, p in model.named_parameters() if "lm_head.lora_B" in name]
    assert head[0].grad.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_capped_head_is_not_taken_for_a_plain_one(dtype):
    config = Gemma2Config(**SHAPE, head_dim=8, sliding_window=6, final_logit_softcapping=5.0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(dtype)
    assert not probe(model, longest_row=60).fast_head


@pytest.mark.parametrize("method", ["lora", "full"])
def test_autocast_trains_what_float32_trains(tmp_path, method):
    ends = []
    for bf16 in (False, True):
        model = tiny() if method == "full" else add_adapter(tiny(), LoraSection(r=4, lora_alpha=8), seed=1)
        section = settings(max_steps=4, bf16=bf16, learning_rate=1e-3)
        made = loop(tmp_path / f"{bf16}", section, model=model)
        assert made.accelerator.mixed_precision == ("bf16" if bf16 else "no")
        made.train()
        ends.append(rundir.metrics(tmp_path / f"{bf16}"))
    for exact, rough in zip(*ends, strict=True):
        assert rough["loss"] == pytest.approx(exact["loss"], rel=0.02)
