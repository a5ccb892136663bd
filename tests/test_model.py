"""Loading, adapting and checking models: what is refused, what is recorded, what is counted."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from tunesmith.config.schema import LoraSection
from tunesmith.errors import ModelError
from tunesmith.model.adapter import add_adapter, count_parameters, describe_parameters
from tunesmith.model.check import check_model
from tunesmith.model.gguf import gguf_folder
from tunesmith.model.load import load_model, load_target
from tunesmith.model.weights import fingerprint, tensors, write_origin
from tunesmith.rundir import find

Build = Callable[..., PreTrainedModel]


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A model folder that a test may damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.fixture
def adapter(tiny_folder: Path, tmp_path: Path) -> Path:
    """An adapter that changes its base, as training would leave it."""
    model = add_adapter(load_model(str(tiny_folder), dtype="float32"), LoraSection(r=4), seed=1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path / "adapter")
    write_origin(tmp_path / "adapter", str(tiny_folder), fingerprint(tiny_folder))
    return tmp_path / "adapter"


def test_a_folder_loads_as_it_was_saved(tiny_folder: Path, tiny_model: Build) -> None:
    model = load_model(str(tiny_folder), dtype="float32", device="cpu")
    assert not model.training
    for name, value in tiny_model("llama").state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert load_model(str(tiny_folder), dtype="bfloat16").dtype == torch.bfloat16


def test_loading_says_nothing(tiny_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_model(str(tiny_folder), dtype="float32")
    assert capfd.readouterr() == ("", "")


def test_packing_and_saving_say_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    """In a process of its own: what a library says when it is first imported, it says once."""
    pytest.importorskip("bitsandbytes")
    program = (
        "import sys; from dataclasses import asdict; from pathlib import Path;"
        "from tunesmith.model.load import load_model; from tunesmith.model.quantize import Quantization;"
        "from tunesmith.train.checkpoint import save; from tunesmith.train.plan import State;"
        "load_model(sys.argv[1], dtype='bfloat16', quantization=Quantization(4));"
        "save(Path(sys.argv[2]), 1, load_model(sys.argv[1]), {}, asdict(State(step=1)), lambda folder: None)"
    )
    command = [sys.executable, "-c", program, tiny_folder, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "checkpoint-1" / "model.safetensors").is_file()


def test_float16_on_a_cpu_and_unknown_devices_are_refused(tiny_folder: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.dtype: bfloat16"):
        load_model(str(tiny_folder), dtype="float16", device="cpu")
    with pytest.raises(ModelError, match="no device warp:3"):
        load_model(str(tiny_folder), device="warp:3")


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    with pytest.raises(ModelError, match="pickled"):
        load_model(str(folder))


def test_weights_that_would_be_random_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    kept = load_file(file)
    kept.pop("model.layers.1.mlp.up_proj.weight")
    save_file(kept, file, {"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj"):
        load_model(str(folder))


def test_what_is_no_model_is_refused_in_a_sentence(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(str(tmp_path))
    (tmp_path / "words.gguf").write_text("hello")
    with pytest.raises(ModelError, match="no GGUF file"):
        gguf_folder(tmp_path / "words.gguf")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "not-a-model", "architectures": ["No"]}))
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(str(folder))


def test_a_gguf_file_becomes_a_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Build, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    file = write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"))
    capfd.readouterr()
    made = gguf_folder(file)
    assert capfd.readouterr() == ("", "Converting tiny.gguf; this is done only once.\n")  # and no bars
    stamp = (made / "model.safetensors").stat().st_mtime_ns
    moved = Path(shutil.copy(file, tmp_path / "cache" / "tiny.gguf"))
    assert gguf_folder(moved) == made
    assert capfd.readouterr() == ("", "")
    assert (made / "model.safetensors").stat().st_mtime_ns == stamp
    assert [p.name for p in (tmp_path / "cache").iterdir() if p.is_dir()] == [made.name]
    ids = torch.arange(1, 9)[None]
    # the file's weights are float32 and the folder's bfloat16: near, not equal
    difference = load_model(str(file), dtype="float32")(ids).logits - tiny_model("llama")(ids).logits
    assert difference.abs().max() < 0.2
    assert check_model(file).problems == []


def write_gguf(path: Path, model: PreTrainedModel) -> Path:
    """A small Llama as llama.cpp lays it out: its own names, and the rows of q and k in its own order."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(["t", "0", *(f"t{i}" for i in range(config.vocab_size - 2))])
    writer.add_token_types([1] * config.vocab_size)
    writer.add_token_merges(["t 0"])
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        array = value.numpy()
        if (count := heads.get(name.split(".")[-2])) is not None:
            halves = array.reshape(count, 2, array.shape[0] // count // 2, *array.shape[1:])
            array = halves.swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), array.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_fingerprint_belongs_to_the_content(folder: Path, tiny_model: Build, tmp_path: Path) -> None:
    mark = fingerprint(folder)
    tiny_model("llama").save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert fingerprint(tmp_path / "sharded") == mark
    for other in (tiny_model("llama", 1), tiny_model("qwen2"), tiny_model("llama").bfloat16()):
        other.save_pretrained(tmp_path / "other")
        assert fingerprint(tmp_path / "other") != mark


def test_an_adapter_comes_back_on_its_base(adapter: Path, tiny_folder: Path) -> None:
    model, loaded = load_target(find(str(adapter)), dtype="float32", device="cpu")
    assert (loaded.base, loaded.adapter, loaded.fingerprint) == (tiny_folder, adapter, fingerprint(tiny_folder))
    saved = load_file(adapter / "adapter_model.safetensors")
    found = {name.replace(".default", ""): value for name, value in model.state_dict().items()}
    assert saved
    assert all(torch.equal(value, found[name]) for name, value in saved.items())
    assert count_parameters(model)[0] == 0
    trainable, _loaded = load_target(find(str(adapter)), dtype="float32", device="cpu", trainable=True)
    assert count_parameters(trainable)[0] == sum(value.numel() for value in saved.values())


def test_an_adapter_of_another_base_is_refused_and_both_are_named(adapter: Path, tiny_folder: Path, tmp_path: Path,
    tiny_model: Build) -> None:  # fmt: skip
    other = tmp_path / "other"
    tiny_model("llama", 7).save_pretrained(other)  # the same shapes: only the fingerprint tells
    with pytest.raises(ModelError) as caught:
        load_target(find(str(adapter), model=str(other)))
    assert str(tiny_folder) in str(caught.value)
    assert str(other) in str(caught.value)
    assert fingerprint(tiny_folder) in str(caught.value)
    assert fingerprint(other) in str(caught.value)


@pytest.mark.parametrize("damage", ["missing", "extra", "shape"])
def test_an_adapter_whose_weights_do_not_all_fit_is_refused(adapter: Path, damage: str) -> None:
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if "lora_B" in name)
    value = weights.pop(name)
    if damage == "extra":
        weights |= {name: value, name.replace("layers.0", "layers.9"): value.clone()}
    if damage == "shape":
        weights[name] = value[:-1].clone()
    save_file(weights, file)
    with pytest.raises(ModelError, match="does not fit the base model"):
        load_target(find(str(adapter)))


def test_a_pickled_adapter_is_refused(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match="safetensors files only"):
        load_target(find(str(adapter)))


def test_a_new_adapter_is_float32_seeded_and_changes_nothing_yet(tiny_model: Build) -> None:
    ids = torch.arange(1, 9)[None]
    plain = tiny_model("qwen3")(ids).logits
    state = torch.get_rng_state()
    adapted = [add_adapter(tiny_model("qwen3").bfloat16(), LoraSection(r=4), seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    weights = [[p for p in model.parameters() if p.requires_grad] for model in adapted]
    assert {p.dtype for p in weights[0]} == {torch.float32}
    assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights[0], weights[2], strict=True))
    assert torch.equal(add_adapter(tiny_model("qwen3"), LoraSection(), 1)(ids).logits, plain)


def test_the_section_reaches_the_adapter(tiny_model: Build) -> None:
    section = LoraSection(r=2, lora_alpha=6, lora_dropout=0.25, target_modules=["q_proj"], use_rslora=True)
    model = add_adapter(tiny_model("llama"), section, seed=0)
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout, config.use_rslora) == (2, 6, 0.25, True)
    assert {name.split(".lora_")[0].rsplit(".", 1)[1] for name, _p in model.named_parameters() if ".lora_" in name} == {
        "q_proj"
    }


def test_parameters_are_counted_as_peft_counts(tiny_model: Build) -> None:
    model = add_adapter(tiny_model("llama"), LoraSection(), seed=0)
    trainable, total = model.get_nb_trainable_parameters()
    assert count_parameters(model) == (trainable, total)
    said = f"{trainable:,} of {total:,} parameters are trained ({100 * trainable / total:.2f} %)."
    assert describe_parameters(model) == said
    assert describe_parameters(tiny_model("llama")).endswith("(100.00 %).")


def test_fused_experts_without_an_adapter_are_said() -> None:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 16}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "num_key_value_heads": 2}
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes, **experts))
    fused = 4 * 3 * 32 * 16
    assert f"{fused:,} weights" in describe_parameters(add_adapter(model, LoraSection(), seed=0))


def test_target_modules_that_name_nothing_are_answered_with_the_names(tiny_model: Build) -> None:
    with pytest.raises(ModelError, match=r"W_pack.*q_proj") as caught:
        add_adapter(tiny_model("llama"), LoraSection(target_modules=["W_pack"]), seed=0)
    assert "lm_head" not in str(caught.value)


def test_a_whole_model_passes_the_check(tiny_folder: Path, tiny_model: Build) -> None:
    report = check_model(tiny_folder, deep=True)
    assert (report.problems, report.notes) == ([], [])
    assert report.parameters == sum(p.numel() for p in tiny_model("llama").parameters())
    assert report.size == 4 * report.parameters
    assert "LlamaForCausalLM" in report.describe()


def test_the_check_names_every_fault_at_once(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["NovelForCausalLM"], "eos_token_id": None}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with (folder / "model.safetensors").open("r+b") as stream:
        stream.truncate(5000)
    report = check_model(folder)
    text = "\n".join(report.problems)
    assert len(report.problems) == 3, text
    for part in ("NovelForCausalLM", "5000 bytes", "never stop"):
        assert part in text
    assert any("chat template" in note for note in report.notes)


def test_the_check_sees_missing_files_and_a_foreign_tokenizer(folder: Path, tiny_model: Build) -> None:
    (folder / "model.safetensors").unlink()
    tiny_model("llama").save_pretrained(folder, max_shard_size="100KB")
    gone = sorted(folder.glob("model-*.safetensors"))[1]
    gone.unlink()
    spec = json.loads((folder / "tokenizer.json").read_text())
    token = {"content": "<far>", "id": 384, "special": True, "normalized": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    (folder / "tokenizer.json").write_text(json.dumps(spec | {"added_tokens": [*spec["added_tokens"], token | flags]}))
    text = "\n".join(check_model(folder).problems)
    assert f"{gone}  is missing" in text
    assert "ids up to 384, the model only 384" in text
    (folder / "tokenizer.json").write_text("{")
    assert "tokenizer.json is damaged" in "\n".join(check_model(folder).problems)
    assert check_model(folder / "nowhere").problems


def test_the_deep_check_computes(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, file, {"format": "pt"})
    assert check_model(folder).problems == []
    assert any("not finite" in problem for problem in check_model(folder, deep=True).problems)


def test_the_shallow_check_needs_no_torch(tiny_folder: Path) -> None:
    code = (
        "import sys; from tunesmith.model.check import check_model;"
        f"report = check_model({str(tiny_folder)!r});"
        "sys.exit(bool(report.problems) or 'torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_safetensors_header_that_lies_is_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for damaged in (b"", whole[:4], b"\xff" * 8 + whole[8:], whole[:8] + b"{" * 64 + whole[72:], whole + b"\0"):
        file.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"model\.safetensors"):
            tensors(folder)
