"""`model check`, and models and adapters that tunesmith did not train: what is said of them, and that they answer."""

from __future__ import annotations

import importlib
import io
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import huggingface_hub
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from tunesmith.actions.model import check_model
from tunesmith.cli import main
from tunesmith.config.schema import TemplateSection
from tunesmith.errors import ModelError
from tunesmith.model import check, folder
from tunesmith.model.folder import locate
from tunesmith.model.load import load_model
from tunesmith.tokens.encode import Encoder


@pytest.fixture
def copy(tiny_folder: Path, tmp_path: Path) -> Path:
    """A model folder that a test may damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.fixture
def plain_adapter(tiny_folder: Path, tmp_path: Path) -> Path:
    """An adapter as plain peft writes it: no fingerprint, no tokenizer, no template beside it."""
    base = load_model(str(tiny_folder), dtype="float32")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapted = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"]))
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.5)
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def tunesmith(*words: object) -> tuple[int, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(word) for word in words])
    assert "Traceback" not in err.getvalue()
    return code, out.getvalue() + err.getvalue()


# --- whole, damaged, unfit --------------------------------------------------------------------------------------------


def test_a_whole_model_is_described_with_its_template_on_a_dialogue(tiny_folder: Path) -> None:
    code, said = tunesmith("model", "check", tiny_folder)
    assert code == 0, said
    assert "LlamaForCausalLM" in said
    assert f"Family llama. Chat template: {tiny_folder}." in said
    assert "<|im_start|>user\n===user_message_test===<|im_end|>\n<|im_start|>assistant\n" in said
    assert said.endswith("The model is in order.\n")


def test_a_model_without_a_template_is_told_how_to_get_one(copy: Path) -> None:
    settings = json.loads((copy / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings.pop("chat_template")
    (copy / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    found = check_model(str(copy))
    assert not found.report.problems
    assert any("template.fallback" in note for note in found.report.notes)


def test_a_file_that_is_cut_short_is_named(copy: Path) -> None:
    with (copy / "model.safetensors").open("r+b") as stream:
        stream.truncate(9000)
    code, said = tunesmith("model", "check", copy)
    assert code == 2
    assert str(copy / "model.safetensors") in said
    assert "9000 bytes" in said


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("vocab_size", 500, "embed_tokens.weight has the shape [384, 64]; by config.json it is [500, 64]"),
        ("intermediate_size", 100, "mlp.gate_proj.weight has the shape [96, 64]"),
        ("num_key_value_heads", 4, "self_attn.k_proj.weight has the shape [32, 64]"),
        ("num_hidden_layers", 1, "a weight of layer 1; config.json has 1 layers"),
        ("num_hidden_layers", 3, "9 weights that config.json demands are in no file"),
        ("tie_word_embeddings", False, "such as lm_head.weight"),
    ],
)
def test_shapes_are_held_against_config_json(copy: Path, setting: str, value: object, said: str) -> None:
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps(config | {setting: value}), encoding="utf-8")
    assert said in "\n".join(check.check_model(copy).problems)


def test_an_architecture_that_is_not_supported_is_named(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps(config | {"architectures": ["NovelForCausalLM"]}), encoding="utf-8")
    code, said = tunesmith("model", "check", copy)
    assert code == 2
    assert "NovelForCausalLM" in said


def test_a_model_larger_than_the_memory_is_told(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Small:
        available = 1000

    monkeypatch.setattr(check.psutil, "virtual_memory", Small)
    assert any("load_in_4bit" in note for note in check.check_model(tiny_folder).notes)


# --- adapters ---------------------------------------------------------------------------------------------------------


def test_an_adapter_is_held_against_its_base(plain_adapter: Path, tiny_folder: Path) -> None:
    report = check_model(str(plain_adapter)).report
    assert not report.problems
    assert any("no fingerprint" in note for note in report.notes)
    file = plain_adapter / "adapter_model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if "lora_B" in name)
    weights[name] = weights[name][:-1].clone()
    save_file(weights, file)
    assert any(name in problem for problem in check_model(str(plain_adapter)).report.problems)


def test_0_19_an_adapter_without_a_fingerprint_is_told_to_be_compared_by_name_and_shapes(
    plain_adapter: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "in.jsonl"
    rows.write_text(json.dumps({"prompt": "Is the pump faulty?"}), encoding="utf-8")
    words = ("batch", plain_adapter, rows, "-o", tmp_path / "out.jsonl", "generation.max_new_tokens=3")
    code, said = tunesmith(*words)
    assert code == 0, said
    assert "stores no fingerprint of its base: the name fits" in said
    other = Path(shutil.copytree(tiny_folder, tmp_path / "another"))
    code, said = tunesmith(*words, "--model", other, "--overwrite")
    assert code == 0, said
    assert f"names {tiny_folder}, not {other}: only shapes are compared" in said


def test_chat_batch_and_eval_on_an_adapter_that_plain_peft_wrote(
    plain_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _answers_everything(plain_adapter, tmp_path, monkeypatch)


def test_chat_batch_and_eval_on_an_untrained_model(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _answers_everything(tiny_folder, tmp_path, monkeypatch)


def _answers_everything(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = "generation.max_new_tokens=3"
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"question": "Is the pump faulty?", "answer": "Yes."}) + "\n", encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\nq\n"))
    code, said = tunesmith("chat", run, short)
    assert code == 0, said
    code, said = tunesmith("batch", run, rows, "-o", tmp_path / "answers.jsonl", short)
    assert code == 0, said
    assert "Is the pump faulty?" in (tmp_path / "answers.jsonl").read_text(encoding="utf-8")
    code, said = tunesmith("eval", run, "--data", rows, "-o", tmp_path / "evaluation", short)
    assert code == 0, said
    assert (tmp_path / "evaluation" / "evaluation_results.json").is_file()


# --- names to folders -------------------------------------------------------------------------------------------------


def test_without_a_network_the_other_ways_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str, **given: object) -> str:
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", nothing)
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    for weights in (True, False):
        with pytest.raises(ModelError) as caught:
            locate("some/model", weights=weights)
        for part in ("mirror.example", "no route", "HF_ENDPOINT", "modelscope:OWNER/NAME", "GGUF"):
            assert part in str(caught.value)


def test_modelscope_is_a_prefix(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> None:
    asked = []

    def fetch(name: str, *, local_files_only: bool, allow_patterns: object = None) -> str:
        asked.append((name, local_files_only))
        if local_files_only:
            raise OSError("not here")
        return str(tiny_folder)

    pytest.importorskip("modelscope")
    monkeypatch.setattr(importlib.import_module("modelscope.hub.snapshot_download"), "snapshot_download", fetch)
    assert locate("modelscope:Qwen/Qwen3-4B") == tiny_folder
    assert asked == [("Qwen/Qwen3-4B", True), ("Qwen/Qwen3-4B", False)]


def test_without_modelscope_the_line_to_type_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "modelscope.hub.snapshot_download", None)
    with pytest.raises(ModelError, match=r"pip install 'tunesmith\[modelscope\]'"):
        folder.locate("modelscope:Qwen/Qwen3-4B")


# --- where an answer ends ---------------------------------------------------------------------------------------------


def test_trap_11_a_base_model_stops_at_the_turn_end_of_its_template(copy: Path) -> None:
    """Base models end documents with another token than their template ends turns with: both end an answer."""
    path = copy / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"eos_token": "<|endoftext|>"}
    path.write_text(json.dumps(settings), encoding="utf-8")
    encoder = Encoder.load(copy, TemplateSection())
    names = {encoder.tokenizer.control[name] for name in ("<|im_end|>", "<|endoftext|>")}
    assert encoder.stop_ids == names
