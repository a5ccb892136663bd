"""Names to models in memory: a folder, a GGUF file or a hub id, with or without an adapter, ready to compute.

Whatever cannot be trusted is refused here: pickled weights, tensors that would stay random, an adapter of another base.
Knows nothing of tokens, training or which checkpoint is meant.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from tunesmith.errors import ModelError
from tunesmith.i18n import _
from tunesmith.model.weights import fingerprint, read_config, read_header, read_origin, tensors, weight_files
from tunesmith.rundir import Target

_WANTED = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.py")


@dataclass(frozen=True, slots=True)
class Loaded:
    """Where a model in memory came from. `fingerprint` is the base's, `dtype` and `device` those of its weights."""

    base: Path
    adapter: Path | None
    fingerprint: str
    dtype: str
    device: str


@contextmanager
def quiet() -> Iterator[None]:
    """No bars, warnings or log lines of the libraries: what matters of them is raised as an error instead."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def locate(name: str) -> Path:
    """The model folder that `name` means; a GGUF file is converted and a hub id is fetched, once."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        return gguf_folder(path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        kept = Path(snapshot_download(name, local_files_only=True))
        tensors(kept)
        return kept
    except (OSError, HFValidationError, ModelError):
        pass  # not here, or only its tokenizer is
    try:
        return Path(snapshot_download(name, allow_patterns=list(_WANTED)))
    except (OSError, HFValidationError, HfHubHTTPError) as error:
        raise ModelError(
            _("is neither a folder or file here nor a model that the hub sends ({reason}).").format(
                reason=_line(error)
            ),
            name,
        ) from None


def gguf_folder(path: Path) -> Path:
    """A GGUF file as a model folder with tokenizer, in bfloat16, converted once and kept under its content's hash.

    Kept in $TUNESMITH_CACHE, else ~/.cache/tunesmith. Raises ModelError for what is no GGUF file or can't be converted.
    """
    root = Path(os.environ.get("TUNESMITH_CACHE") or Path.home() / ".cache" / "tunesmith")
    target = root / f"{path.stem}-{_content_key(path)}"
    if target.is_dir():
        return target
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=f".{path.stem}-") as temporary:
        made = Path(temporary) / "model"
        _convert(path, made)
        try:
            made.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another process was faster, and its folder is as good
                raise
    return target


def load_model(
    name: str, *, dtype: str = "auto", device: str = "auto", trust_remote_code: bool = False
) -> PreTrainedModel:
    """The causal language model `name`, in evaluation mode. Raises ModelError; loads safetensors only.

    `dtype` auto is bfloat16 where the device computes in it, else float32; `device` auto is a GPU if there is one.
    """
    place = _device(device)
    kind = _dtype(dtype, place)
    folder = locate(name)
    read_config(folder)
    missing = [file.name for file in weight_files(folder) if not file.is_file()]
    if missing:
        raise ModelError(_("lacks {files}. Download it again.").format(files=", ".join(missing)), name)
    try:
        with quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                str(folder),
                dtype=kind,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
            )
    except Exception as error:  # any class may come out of a model's own code
        raise _refused(name, error) from error
    model, report = loaded
    absent = sorted(report["missing_keys"]) + sorted(str(entry[0]) for entry in report["mismatched_keys"])
    if absent:
        problem = _("lacks {n} weights that its config.json demands, such as {first}. They would be random.")
        raise ModelError(problem.format(n=len(absent), first=absent[0]), name)
    model.name_or_path = str(folder.resolve()) if Path(name).expanduser().exists() else name  # what an adapter records
    return model.to(place).eval()


def load_target(
    target: Target,
    *,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    trainable: bool = False,
) -> tuple[PreTrainedModel | PeftModel, Loaded]:
    """Base and adapter as `target` says. Raises ModelError where the adapter is another base's or does not fit."""
    folder = locate(target.base)
    mark = fingerprint(folder)
    if target.adapter is not None:
        _check_origin(target.adapter, target.base, mark)
    model: Any = load_model(str(folder), dtype=dtype, device=device, trust_remote_code=trust_remote_code)
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
        raise ModelError(problem.format(reason=_line(error)), str(adapter)) from error
    wanted = {name: tuple(value.shape) for name, value in expected.items()}
    if shapes != wanted:
        odd = sorted(set(shapes.items()) ^ set(wanted.items()))
        problem = _("does not fit the base model: {n} of its weights have no place or are missing, such as {first}.")
        raise ModelError(problem.format(n=len({name for name, _shape in odd}), first=odd[0][0]), str(adapter))
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
    return ModelError(_("cannot be loaded: {reason}").format(reason=_line(error)), name)


def _content_key(path: Path) -> str:
    """Name, size, first and last megabyte: the same file keeps its conversion wherever it is copied."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(1 << 20)
        if head[:4] != b"GGUF":
            raise ModelError(_("is no GGUF file and no model folder."), str(path))
        stream.seek(max(0, size - (1 << 20)))
        return hashlib.sha256(head + stream.read() + str(size).encode()).hexdigest()[:12]


def _convert(path: Path, made: Path) -> None:
    source: dict[str, Any] = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        with quiet():
            unpacked = GgufConfig(dequantize=True)  # packed weights can be neither trained nor saved
            model = AutoModelForCausalLM.from_pretrained(**source, quantization_config=unpacked, dtype=torch.bfloat16)
            tokenizer = AutoTokenizer.from_pretrained(**source)
            tokenizer.model_max_length = model.config.max_position_embeddings
            _split_digits(path, tokenizer)
            model.save_pretrained(made)
            tokenizer.save_pretrained(made)
    except Exception as error:
        raise ModelError(_("cannot be converted: {reason}").format(reason=_line(error)), str(path)) from error


def _split_digits(path: Path, tokenizer: Any) -> None:
    """SmolLM's files say that digits stand alone (`pre: smollm`), and the conversion forgets it: mend that."""
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    field = GGUFReader(path).get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        rest = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, rest])


def _line(error: Exception) -> str:
    """The first line of what a library said, which is the one about the cause."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
