"""Methods of training: adapters of every kind, 4 and 8 bit, types of weights. Each takes the gradient it should."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from tunesmith.actions.after import merge
from tunesmith.actions.opening import open_run
from tunesmith.actions.train import train
from tunesmith.actions.voice import Voice
from tunesmith.config.load import load
from tunesmith.config.schema import LoraSection, TrainingSection
from tunesmith.conversation import Conversation, Message
from tunesmith.errors import ConfigError, ModelError
from tunesmith.generate.engine import generate
from tunesmith.model import quantize
from tunesmith.model.adapter import add_adapter
from tunesmith.model.load import load_model, load_target
from tunesmith.model.lowrank import use_fast_adapters
from tunesmith.model.quantize import Quantization
from tunesmith.model.shapes import adapter_parameters
from tunesmith.rundir import find, metrics
from tunesmith.train import launch

Build = Callable[..., PreTrainedModel]
IDS = torch.arange(5, 29)[None]
NF4 = Quantization(4, "nf4", double_quant=True)
ROWS = [
    {"messages": [{"role": "user", "content": f"Is the {thing} faulty?"}, {"role": "assistant", "content": answer}]}
    for thing in ("pump", "seal", "valve", "gasket")
    for answer in ("Yes: it leaks.", "No: it is a good one.")
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    return file


def trained(model: nn.Module, kind: str = "lora_B") -> None:
    """New adapters change nothing; these do."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for name, parameter in model.named_parameters():
            if kind in name:
                nn.init.normal_(parameter, std=0.1)


def gradients(model: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    model.train()
    model.zero_grad()
    torch.manual_seed(seed)
    model(input_ids=IDS, labels=IDS).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}


def assert_equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    assert found.keys() == wanted.keys()
    assert found
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, rtol=tolerance, atol=tolerance * value.abs().max()), name
    assert any(value.abs().max() > 0 for value in wanted.values())


# --- which adapters are computed by whom ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "fast"),
    [
        (LoraSection(r=4), True),
        (LoraSection(r=4, use_rslora=True), True),
        (LoraSection(r=4, lora_dropout=0.5), True),
        (LoraSection(r=4, layers_to_transform=[1]), True),
        (LoraSection(r=4, modules_to_save=["lm_head"]), True),
        (LoraSection(r=4, use_dora=True), False),
    ],
    ids=["plain", "rslora", "dropout", "layers", "saved", "dora"],
)
def test_every_adapter_takes_the_gradient_that_peft_takes(section: LoraSection, fast: bool, tiny_model: Build) -> None:
    model = add_adapter(tiny_model("llama"), section, seed=1)
    trained(model)
    wanted = gradients(model)
    assert bool(use_fast_adapters(model)) == fast
    if section.lora_dropout:  # the noise is drawn in another order: without it the two are compared
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        assert_equal(gradients(model), _plain(model))
    else:
        assert_equal(gradients(model), wanted)


def _plain(model: nn.Module) -> dict[str, torch.Tensor]:
    for module in model.modules():
        if isinstance(module, Linear):
            vars(module).pop("forward", None)
    return gradients(model)


def test_rslora_scales_by_the_root_of_the_rank(tiny_model: Build) -> None:
    for root, scale in ((False, 16 / 4), (True, 16 / 2)):
        model = add_adapter(tiny_model("llama"), LoraSection(r=4, lora_alpha=16, use_rslora=root), seed=1)
        assert {m.scaling["default"] for m in model.modules() if isinstance(m, Linear)} == {scale}


def test_only_the_layers_that_are_named_get_an_adapter(tiny_model: Build) -> None:
    model = add_adapter(tiny_model("llama"), LoraSection(layers_to_transform=[1]), seed=1)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert names
    assert all(".layers.1." in name for name in names)
    with pytest.raises(ModelError, match=r"layers_to_transform.*no 7"):
        add_adapter(tiny_model("llama"), LoraSection(layers_to_transform=[7]), seed=1)


@pytest.mark.parametrize(
    "section",
    [
        LoraSection(r=4, use_dora=True),
        LoraSection(r=4, layers_to_transform=[1], target_modules=["q_proj", "down_proj"]),
        LoraSection(r=4, layers_to_transform=[0]),
        LoraSection(r=4, trainable_token_indices=[7, 9]),
        LoraSection(r=4, target_modules=["q_proj"], modules_to_save=["down_proj"]),
    ],
    ids=["dora", "layers", "all of a layer", "tokens", "saved"],
)
def test_parameters_are_counted_without_torch_as_peft_counts(
    section: LoraSection, tiny_folder: Path, tiny_model: Build
) -> None:
    trainable, _total = add_adapter(tiny_model("llama"), section, seed=0).get_nb_trainable_parameters()
    assert adapter_parameters(tiny_folder, section) == trainable


def test_dora_trains_magnitudes(tiny_model: Build) -> None:
    names = gradients(add_adapter(tiny_model("llama"), LoraSection(r=4, use_dora=True), seed=1))
    assert any("magnitude" in name for name in names)


def test_embeddings_of_single_tokens_are_trained(tiny_model: Build) -> None:
    model = add_adapter(tiny_model("llama"), LoraSection(r=4, trainable_token_indices=[7, 9]), seed=1)
    found = gradients(model)
    delta = [value for name, value in found.items() if "token_adapter" in name]
    assert delta
    assert all(len(value) == 2 for value in delta)


@pytest.mark.parametrize(
    "words",
    [
        ["lora.use_dora=true"],
        ["lora.use_rslora=true", "lora.layers_to_transform=[1]"],
        ["lora.modules_to_save=[lm_head]"],
        ["lora.trainable_token_indices=[7, 9]"],
    ],
    ids=["dora", "rslora", "saved", "tokens"],
)
def test_every_kind_trains_comes_back_and_merges(words: list[str], data: Path, tiny_folder: Path) -> None:
    run = _train(data, tiny_folder, *words)
    losses = [record["loss"] for record in metrics(run) if "loss" in record]
    assert losses[-1] < losses[0]
    _train(data, tiny_folder, *words, "training.max_steps=7", resume=True)
    certificate = merge(open_run(str(run), Voice()), None)
    assert certificate.merged.largest <= 1e-4
    assert certificate.effect > 1e-3


def _train(data: Path, base: Path, *words: str, resume: bool = False, overwrite: bool = False) -> Path:
    given = [
        f"model.name_or_path={base}",
        f"data.train={data}",
        f"training.output_dir={data.parent / 'run'}",
        *("training.max_steps=6", "training.learning_rate=1e-2", "training.per_device_train_batch_size=4"),
        *("training.lr_scheduler_type=constant", "lora.r=4", "model.dtype=float32"),
        *words,
    ]
    return train(load(None, given), Voice(), resume=resume, overwrite=overwrite)


# --- 4 and 8 bit ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [Quantization(4), NF4, Quantization(8)], ids=["nf4", "double", "int8"])
def test_packed_weights_pass_the_gradient_on(packed: Quantization, tiny_folder: Path) -> None:
    """As plain linear layers with the unpacked weights would, also behind a forward in evaluation mode: there
    bitsandbytes may pack its weights anew, and computes them from then on by a kernel without a gradient."""
    pytest.importorskip("bitsandbytes")
    model = load_model(str(tiny_folder), dtype="float32", device="cpu", quantization=packed)
    with torch.no_grad():
        model(input_ids=IDS)
    section = LoraSection(r=4)
    adapted = add_adapter(model, section, seed=1)
    trained(adapted)
    assert use_fast_adapters(adapted) == 0
    adapted.eval()
    with torch.no_grad():
        adapted(input_ids=IDS)
    found = gradients(adapted)
    plain = add_adapter(_unpacked(tiny_folder, packed), section, seed=1)
    trained(plain)
    # 8 bit rounds its inputs too, which is no part of the weights
    assert_equal(found, gradients(plain), tolerance=1e-4 if packed.bits == 4 else 0.1)


def _unpacked(folder: Path, packed: Quantization) -> PreTrainedModel:
    model = load_model(str(folder), dtype="float32", device="cpu", quantization=packed)
    return model.dequantize()


def test_4_and_8_bit_are_smaller_and_near(tiny_folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    full = load_model(str(tiny_folder), dtype="float32", device="cpu")
    linear = full.model.layers[0].mlp.up_proj.weight.numel() * 4
    for packed, share, near in ((NF4, 8, 0.6), (Quantization(8), 4, 0.1)):
        model = load_model(str(tiny_folder), dtype="float32", device="cpu", quantization=packed)
        weight = model.model.layers[0].mlp.up_proj.weight
        assert weight.numel() * weight.element_size() == linear // share
        exact, found = full(input_ids=IDS).logits, model(input_ids=IDS).logits
        assert (found - exact).abs().mean() < near * exact.abs().mean()


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_run_trains_chats_and_merges_onto_the_full_base(bits: int, data: Path, tiny_folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    run = _train(data, tiny_folder, f"model.load_in_{bits}bit=true")
    losses = [record["loss"] for record in metrics(run) if "loss" in record]
    assert losses[-1] < losses[0] - 0.3
    opened = open_run(str(run), Voice())
    model = opened.model()
    assert "bit" in type(model.get_base_model().model.layers[0].mlp.up_proj.base_layer).__name__
    question = [Conversation((Message("user", "Is the pump faulty?"),))]
    assert list(
        generate(model, opened.encoder, question, opened.config.generation.model_copy(update={"max_new_tokens": 4}))
    )
    certificate = merge(opened, None)
    assert certificate.bits == bits
    assert certificate.merged.largest <= 1e-4
    assert certificate.packed is not None
    assert f"{bits} bit" in "\n".join(certificate.describe())
    saved = load_model(certificate.path, dtype="float32")
    together, _origin = load_target(find(str(run)), dtype="float32", device="cpu")
    assert (saved(input_ids=IDS).logits - together(input_ids=IDS).logits).abs().max() < 1e-4


def test_a_missing_package_is_answered_by_the_line_to_type(
    data: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'tunesmith\[quant\]'"):
        _train(data, tiny_folder, "model.load_in_4bit=true")
    assert not (data.parent / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model.load_in_4bit=true", "model.load_in_8bit=true"], "both on"),
        (["model.load_in_8bit=true", "method=full"], "method: lora"),
        (["model.bnb_4bit_use_double_quant=true"], "no effect"),
        (["model.device_map=auto", "model.device=cpu"], "Choose one"),
        (["training.bf16=false", "model.dtype=bfloat16"], "Leave one out"),
        (["training.fp16=true", "model.dtype=bfloat16"], "Leave one out"),
        (["method=full", "model.dtype=float16"], "training.fp16 is enough"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(None, words)


# --- types of weights -------------------------------------------------------------------------------------------------


def test_bf16_off_computes_in_float32(data: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    start = launch.start
    monkeypatch.setattr(
        launch, "start", lambda section, **given: seen.append(given["weights"]) or start(section, **given)
    )
    _train(data, tiny_folder, "training.bf16=false", "model.dtype=auto", "training.max_steps=1")
    assert seen == [torch.float32]


def test_trap_12_float16_weights_are_never_trained_themselves() -> None:
    """Gradients of float16 weights can't be unscaled: what is trained stays in float32 under training.fp16."""
    section = TrainingSection(fp16=True)
    assert launch.weights_dtype("auto", section, full=True) == "float32"
    assert launch.weights_dtype("auto", section, full=False) == "float16"  # frozen


def test_trap_12_an_adapter_on_float16_weights_can_be_unscaled(tiny_model: Build) -> None:
    model = tiny_model("llama").half()
    scaler = torch.amp.GradScaler("cpu")
    adapted = add_adapter(model, LoraSection(r=4), seed=1)
    found = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(found, lr=0.1)
    for parameter in found:
        parameter.grad = torch.ones_like(parameter)
    scaler.scale(torch.ones(()))  # the scale exists from the first loss on
    scaler.unscale_(optimizer)
    bare = get_peft_model(
        tiny_model("llama").half(), LoraConfig(target_modules="all-linear"), autocast_adapter_dtype=False
    )
    parameters = [p for p in bare.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    with pytest.raises(ValueError, match="unscale FP16"):  # the failure that is avoided
        scaler.unscale_(torch.optim.SGD(parameters, lr=0.1))


def test_device_map_puts_all_of_a_small_model_where_there_is_room(data: Path, tiny_folder: Path) -> None:
    model = load_model(str(tiny_folder), dtype="float32", device_map="auto")
    assert all(parameter.device.type != "meta" for parameter in model.parameters())
    run = _train(data, tiny_folder, "model.device_map=auto", "training.max_steps=2")
    assert metrics(run)


def test_checkpointed_activations_change_no_weight(data: Path, tiny_folder: Path) -> None:
    found = []
    for words in ([], ["training.gradient_checkpointing=true"]):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*gradient_checkpointing_enable.*")  # its old name
            run = _train(data, tiny_folder, *words, "training.max_steps=2", overwrite=bool(words))
        found.append(load_file(run / "checkpoint-2" / "adapter_model.safetensors"))
    assert all(torch.allclose(value, found[1][name], atol=1e-6) for name, value in found[0].items())
