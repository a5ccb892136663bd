"""Names to models in memory: a folder, a GGUF file or a hub id, with or without an adapter, ready to compute.

Whatever cannot be trusted is refused here: pickled weights, tensors that would stay random, an adapter of another base.
Knows nothing of tokens, training or which checkpoint is meant.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from transformers import AutoModelForCausalLM, PreTrainedModel

from tunesmith.errors import ModelError
from tunesmith.i18n import _
from tunesmith.model import packaged
from tunesmith.model.folder import locate
from tunesmith.model.kernels import bound_caches
from tunesmith.model.quantize import Quantization
from tunesmith.model.quiet import first_line, quiet
from tunesmith.model.weights import (
    fingerprint,
    read_config,
    read_header,
    read_origin,
    refuse_absurd,
    tensors,
    text_config,
    weight_files,
)
from tunesmith.rundir import Target

if TYPE_CHECKING:
    from tunesmith.config.schema import ModelSection


@dataclass(frozen=True, slots=True)
class Loaded:
    """Where a model in memory came from. `fingerprint` is the base's, `dtype` and `device` those of its weights."""

    base: Path
    adapter: Path | None
    fingerprint: str
    dtype: str
    device: str


def choices(section: ModelSection) -> dict[str, Any]:
    """What the settings say about loading, as keywords of `load_model` and `load_target`."""
    return {
        "dtype": section.dtype,
        "device": section.device,
        "device_map": section.device_map,
        "quantization": Quantization.of(section),
        "trust_remote_code": section.trust_remote_code,
    }


def load_model(
    name: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    quantization: Quantization | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """The causal language model `name`, in evaluation mode. Raises ModelError; loads safetensors only.

    `dtype` auto is bfloat16 where the device computes in it, else float32; `device` auto is a GPU if there is one;
    `device_map` spreads the layers over all GPUs; `quantization` packs the linear layers while they are read.
    """
    bound_caches()
    place = _device(device)
    kind = _dtype(dtype, place)
    folder = locate(name)
    settings = read_config(folder)
    packed = "quantization_config" in settings
    missing = [file.name for file in weight_files(folder) if not file.is_file()]
    if missing:
        raise ModelError(_("lacks {files}. Download it again.").format(files=", ".join(missing)), name)
    refuse_absurd(tensors(folder), text_config(settings), folder)
    how: dict[str, Any] = {"device_map": device_map} if device_map else {}
    if quantization is not None:
        if packed:
            problem = _("is quantised already. Leave out model.load_in_4bit and model.load_in_8bit.")
            raise ModelError(problem, name)
        how |= {"quantization_config": quantization.config(kind), "device_map": device_map or {"": place}}
    try:
        with quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                str(folder),
                dtype=kind,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                **how,
            )
    except Exception as error:  # any class may come out of a model's own code
        raise _refused(name, error) from error
    model, report = loaded
    absent = sorted(report["missing_keys"]) + sorted(str(entry[0]) for entry in report["mismatched_keys"])
    if absent:
        problem = _("lacks {n} weights that its config.json demands, such as {first}. They would be random.")
        raise ModelError(problem.format(n=len(absent), first=absent[0]), name)
    if quantization is not None:
        quantization.settle(model)
    local = Path(name).expanduser().exists() or name == packaged.NAME
    model.name_or_path = str(folder.resolve()) if local else name  # what an adapter records
    return (model if how else model.to(place)).eval()


def load_target(
    target: Target, *, trainable: bool = False, any_base: bool = False, **how: Any
) -> tuple[PreTrainedModel | PeftModel, Loaded]:
    """Base and adapter as `target` says, loaded as `how` (see load_model) says.

    Raises ModelError where the adapter is another base's, unless `any_base`, or does not fit.
    """
    folder = locate(target.base)
    mark = fingerprint(folder)
    if target.adapter is not None and not any_base:
        _check_origin(target.adapter, target.base, mark)
    model: Any = load_model(str(folder), **how)
    kind, place = str(model.dtype).removeprefix("torch."), str(model.device)
    if target.adapter is not None:
        model = _with_adapter(model, target.adapter, trainable)
    return model, Loaded(folder, target.adapter, mark, kind, place)


def _with_adapter(model: PreTrainedModel, adapter: Path, trainable: bool) -> PeftModel:
    """The adapter on its base, every tensor of its file in its place and no place left without one."""
    file = adapter / "adapter_model.safetensors"
    if not file.is_file():
        raise ModelError(_("is missing; adapters are read from safetensors files only."), str(file))
    shapes = {name: tensor.shape for name, tensor in read_header(file).items()}
    try:
        with quiet():
            adapted = PeftModel.from_pretrained(
                model, str(adapter), is_trainable=trainable, torch_device=str(model.device)
            )
            expected = get_peft_model_state_dict(adapted)
    except (ValueError, RuntimeError, KeyError, TypeError, OSError) as error:
        problem = _("does not fit the base model: {reason}")
        raise ModelError(problem.format(reason=first_line(error)), str(adapter)) from error
    wanted = {name: tuple(value.shape) for name, value in expected.items()}
    if shapes != wanted:
        odd = sorted(set(shapes.items()) ^ set(wanted.items()))
        problem = _("does not fit the base model: {n} of its weights have no place or are missing, such as {first}.")
        raise ModelError(problem.format(n=len({name for name, _shape in odd}), first=odd[0][0]), str(adapter))
    broken = [name for name, value in expected.items() if not torch.isfinite(value).all()]
    if broken:
        problem = _("holds numbers that are not finite, such as in {first}. Take another checkpoint.")
        raise ModelError(problem.format(first=broken[0]), str(adapter))
    return adapted.train(trainable)


def _check_origin(adapter: Path, given: str, mark: str) -> None:
    recorded = read_origin(adapter)
    if recorded and recorded[1] != mark:
        problem = _(
            "was trained on {base} (fingerprint {recorded}); {given} (fingerprint {found}) is another model."
            " Give its own base with --model."
        )
        text = problem.format(base=recorded[0], recorded=recorded[1], given=given, found=mark)
        raise ModelError(text, str(adapter))


def _device(name: str) -> torch.device:
    if name == "auto":
        gpu = torch.accelerator.current_accelerator(check_available=True)
        return gpu or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        problem = _("This machine has no device {device}. Set model.device: auto, or cpu.")
        raise ModelError(problem.format(device=name)) from None
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "float16" and device.type == "cpu":
        raise ModelError(_("float16 needs a GPU. Set model.dtype: bfloat16, or float32."))
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if able else torch.float32


def _refused(name: str, error: Exception) -> ModelError:
    if "trust_remote_code" in str(error):
        return ModelError(_("needs Python code of its own. If you trust it, set model.trust_remote_code: true."), name)
    return ModelError(_("cannot be loaded: {reason}").format(reason=first_line(error)), name)
