"""Merging: the folder computes what base and adapter compute, is complete, and nothing else was touched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tunesmith.actions.model import proof_rows
from tunesmith.actions.opening import open_run
from tunesmith.actions.voice import Voice
from tunesmith.config.schema import LoraSection
from tunesmith.errors import ModelError, RunError
from tunesmith.export import proof
from tunesmith.export.merge import _compare_weights, merge
from tunesmith.model.adapter import add_adapter
from tunesmith.model.check import check_model
from tunesmith.model.load import load_model, load_target
from tunesmith.model.weights import fingerprint, write_origin
from tunesmith.rundir import Target, digest, find, write_json

Build = Callable[..., PreTrainedModel]
TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"


def make_base(root: Path, tokenizer: Path, model: PreTrainedModel) -> Path:
    model.save_pretrained(root / "base")
    shutil.copytree(tokenizer, root / "base", dirs_exist_ok=True)
    return root / "base"


def make_run(root: Path, base: Path, targets: str | list[str] = "all-linear") -> Path:
    """A run whose one checkpoint holds an adapter that changes its base a good deal."""
    model = add_adapter(load_model(str(base), dtype="float32"), LoraSection(r=4, target_modules=targets), seed=1)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2)
    checkpoint = root / "run" / "checkpoint-7"
    model.save_pretrained(checkpoint)
    write_origin(checkpoint, str(base), fingerprint(base))
    files = {file.name: digest(file) for file in checkpoint.iterdir()}
    write_json(checkpoint / "manifest.json", {"format": 1, "step": 7, "files": files, "eval_loss": 1.5})
    write_json(root / "run" / "run.json", {"base": str(base), "template": {"text": TEMPLATE}})
    return root / "run"


def contents(folder: Path) -> dict[str, str]:
    return {str(f): sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture
def base(tmp_path: Path, tiny_tokenizer: Path, tiny_model: Build) -> Path:
    return make_base(tmp_path, tiny_tokenizer, tiny_model("llama").bfloat16())


@pytest.fixture
def target(tmp_path: Path, base: Path) -> Target:
    return find(str(make_run(tmp_path, base)))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3"])
def test_the_merged_folder_computes_what_base_and_adapter_compute(
    family: str, tmp_path: Path, tiny_tokenizer: Path, tiny_model: Build
) -> None:
    run = make_run(tmp_path, make_base(tmp_path, tiny_tokenizer, tiny_model(family)))
    certificate = merge(find(str(run)))
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        together, _origin = load_target(find(str(run)), dtype="float32", device="cpu")
        expected = together(input_ids=ids).logits
        found = AutoModelForCausalLM.from_pretrained(run / "merged", dtype=torch.float32)(ids).logits
        with together.disable_adapter():
            plain = together(input_ids=ids).logits
    assert (found - expected).abs().max() <= 1e-4
    assert (found - plain).abs().max() > 1e-2
    assert certificate.dtype == "float32"
    assert certificate.merged.largest <= 1e-4
    assert certificate.saved.largest <= 1e-4
    assert certificate.saved.agreement == 1.0
    assert certificate.effect > 1e-2
    assert certificate.precision == "float64"
    assert certificate.merged.largest <= 1e-9  # what is left where nothing is rounded


def test_the_cast_is_done_once_and_stated(target: Target) -> None:
    certificate = merge(target, rows=[[5, 6, 7, 8], [9, 10]])
    assert (certificate.dtype, certificate.positions) == ("bfloat16", 6)
    assert certificate.merged.largest <= 1e-4 < certificate.saved.largest
    saved = load_file(Path(certificate.path) / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.bfloat16}
    together, _origin = load_target(target, dtype="float32", device="cpu")
    exact = together.double().merge_and_unload().state_dict()
    assert all(torch.equal(value, exact[name].bfloat16()) for name, value in saved.items())
    written = json.loads((Path(certificate.path) / "merge.json").read_text())
    assert written["step"] == 7
    assert written["merged"] == asdict(certificate.merged)
    assert "bfloat16" in "\n".join(certificate.describe())


def test_the_folder_is_complete(target: Target, base: Path) -> None:
    (base / "chat_template.jinja").write_text("another template than the run's")
    out = Path(merge(target, stop_ids=[2, 1]).path)
    assert check_model(out, deep=True).problems == []
    assert (out / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template == TEMPLATE
    assert json.loads((out / "tokenizer_config.json").read_text())["chat_template"] == TEMPLATE
    assert AutoModelForCausalLM.from_pretrained(out).generation_config.eos_token_id == [1, 2]


def test_generation_settings_of_the_base_are_kept(target: Target, base: Path) -> None:
    odd = {"do_sample": False, "temperature": 0.6, "eos_token_id": [0]}  # transformers refuses to save this pair
    (base / "generation_config.json").write_text(json.dumps(odd))
    out = Path(merge(target, stop_ids=[2]).path)
    assert json.loads((out / "generation_config.json").read_text()) == odd | {"eos_token_id": [0, 2]}


def test_base_and_checkpoint_stay_as_they_were(target: Target, base: Path, tmp_path: Path) -> None:
    assert target.adapter is not None
    before = contents(base), contents(target.adapter)
    merge(target, tmp_path / "out")
    assert (contents(base), contents(target.adapter)) == before


def test_an_existing_folder_is_replaced_only_when_told(target: Target) -> None:
    out = Path(merge(target).path)
    (out / "old").write_text("old")
    with pytest.raises(RunError, match="--overwrite"):
        merge(target)
    assert (out / "old").exists()
    merge(target, overwrite=True)
    assert not (out / "old").exists()
    assert check_model(out).problems == []


def test_a_folder_that_merge_did_not_write_is_never_overwritten(target: Target, tmp_path: Path, base: Path) -> None:
    for precious in (tmp_path / "run", base, tmp_path):
        with pytest.raises(RunError, match="not written by merge"):
            merge(target, precious, overwrite=True)
    assert (base / "config.json").exists()


def test_without_an_adapter_there_is_nothing_to_merge(base: Path, target: Target, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="whole model already"):
        merge(find(str(base)), tmp_path / "out")
    with pytest.raises(RunError, match="-o"):
        merge(Target(str(base), target.adapter, str(base), None, None, ""))


def test_numbers_that_are_not_finite_leave_nothing_behind(target: Target, tmp_path: Path) -> None:
    assert target.adapter is not None
    file = target.adapter / "adapter_model.safetensors"
    weights = load_file(file)
    weights[next(name for name in weights if "lora_B" in name)][0, 0] = float("inf")
    save_file(weights, file)
    with pytest.raises(ModelError):
        merge(target, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "run"]


def test_weights_too_large_for_the_files_type_are_refused(target: Target, tmp_path: Path) -> None:
    assert target.adapter is not None
    file = target.adapter / "adapter_model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if "layers.1.mlp.down_proj.lora_B" in name)
    weights[name] *= 1e6  # float16 ends at 65504
    save_file(weights, file)
    with pytest.raises(ModelError, match="not finite in float16"):
        merge(target, tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()


def test_a_quantised_base_is_refused(target: Target, base: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "bitsandbytes"}}))
    with pytest.raises(ModelError, match="--model"):
        merge(target)


def test_a_merge_that_computes_something_else_fails(tmp_path: Path, base: Path) -> None:
    # head and embedding are one tensor: an adapter on the head alone cannot be merged into it
    run = make_run(tmp_path, base, targets=["lm_head", "q_proj"])
    with pytest.raises(ModelError):
        merge(find(str(run)))
    assert not (run / "merged").exists()


def test_weights_that_come_back_otherwise_are_noticed(tiny_model: Build) -> None:
    _compare_weights(tiny_model("llama"), tiny_model("llama"))
    changed = tiny_model("llama")
    with torch.no_grad():
        changed.model.norm.weight[0] += 1e-6
    with pytest.raises(ModelError, match=r"model\.norm\.weight"):
        _compare_weights(tiny_model("llama"), changed)


def test_little_memory_compares_in_float32_and_says_so(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    class Small:
        available = 1000

    monkeypatch.setattr(proof.psutil, "virtual_memory", Small)
    certificate = merge(target)
    assert certificate.precision == "float32"
    assert certificate.merged.largest <= 1e-4 * max(1.0, certificate.scale)
    assert "float32" in certificate.describe()[1]


def test_the_proof_takes_rows_of_the_run(base: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"question": "Is the pump faulty?", "answer": "Yes."}\n' * 2, encoding="utf-8")
    opened = open_run(str(base), Voice(), overrides=[f"data.train={data}"])
    rows = proof_rows(opened)
    texts = [opened.encoder.decode(row) for row in rows]
    assert "Is the pump faulty?" in texts[0]
    assert len(rows) > 3
    data.unlink()
    assert len(proof_rows(opened)) == len(rows) - 1
    assert max(map(len, proof.cut([[1] * 900] * 9))) == proof.LENGTH
