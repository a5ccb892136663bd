"""What lies in a folder of weights, read from safetensors headers: names, shapes, types, a fingerprint.

Opens no tensor as a tensor and needs no torch; what a model makes of the weights is load's and check's business.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError, Problem
from tunesmith.i18n import _
from tunesmith.rundir import ORIGIN, write_json

_HEADER_LIMIT = 100_000_000  # bytes; the format's own limit
_SAMPLES = 16  # tensors whose bytes enter a fingerprint
_SAMPLE = 65_536  # bytes of each
_SIZES = {  # of config.json: what no honest model exceeds
    "num_hidden_layers": 10_000,
    "num_attention_heads": 100_000,
    "num_key_value_heads": 100_000,
    "head_dim": 1_000_000,
    "hidden_size": 10_000_000,
    "intermediate_size": 100_000_000,
    "vocab_size": 100_000_000,
    "max_position_embeddings": 10**12,
}
FAR = 4  # times the largest size that the weights have; what is nearer is compared weight by weight
_ESSENTIALS = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "hidden_act")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor on disk: `start` and `end` are byte offsets into `file`, `dtype` is spelled as safetensors does."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def bits(self) -> int:
        """Bits of one element: the digits of BF16, F8_E4M3, I64 and so on; BOOL has none and takes a byte."""
        digits = re.match(r"[A-Z]+(\d+)", self.dtype)
        return int(digits[1]) if digits else 8


def read_header(file: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file by name. Raises ModelError where the file is cut short or damaged."""
    if not file.is_file():
        raise ModelError(_("is no file."), str(file))
    size = file.stat().st_size
    with file.open("rb") as stream:
        first = stream.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else size
        if length > min(size - 8, _HEADER_LIMIT):
            raise ModelError(_("is cut short or is no safetensors file. Download it again."), str(file))
        try:
            header = json.loads(stream.read(length))
            found = {
                name: Tensor(
                    file, entry["dtype"], tuple(entry["shape"]), *(8 + length + o for o in entry["data_offsets"])
                )
                for name, entry in header.items()
                if name != "__metadata__"
            }
            place = 8 + length
            for name, tensor in sorted(found.items(), key=lambda item: (item[1].start, item[1].end)):
                whole = all(isinstance(side, int) and side >= 0 for side in tensor.shape)
                if not whole or (tensor.end - tensor.start) * 8 != tensor.numel * tensor.bits or tensor.start != place:
                    raise ModelError(_("has a damaged header at {name}.").format(name=name), str(file))
                place = tensor.end
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ModelError(_("has a damaged header. Download it again."), str(file)) from None
    if place != size:
        problem = _("has {size} bytes; its header speaks of {end}. Download it again.")
        raise ModelError(problem.format(size=size, end=place), str(file))
    return found


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, by its index where it has one; they need not exist.

    Raises ModelError for a folder without any, and names the pickled ones that are not read.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
            elsewhere = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ModelError(_("is damaged. Download it again."), str(index)) from None
        if elsewhere:
            problem = _("names {name}, which is no .safetensors file of this folder.")
            raise ModelError(problem.format(name=elsewhere[0]), str(index))
        return [folder / name for name in names]
    files = sorted(folder.glob("*.safetensors"))
    if not files and any(folder.glob("*.bin")):
        raise ModelError(
            _("holds only pickled weights (.bin), which can run any code. Take a copy with .safetensors files."),
            str(folder),
        )
    if not files:
        raise ModelError(_("holds no weights: a .safetensors file is expected."), str(folder))
    return files


def tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a model folder by name. Raises ModelError with all the files that are missing or damaged."""
    found: dict[str, Tensor] = {}
    problems: list[Problem] = []
    for file in weight_files(folder):
        if not file.is_file():
            problems.append(Problem(str(file), _("is missing. Download the model again.")))
            continue
        try:
            found |= read_header(file)
        except ModelError as error:
            problems += error.problems
    if problems:
        raise ModelError(problems)
    return found


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder. Raises ModelError where there is none, a damaged one, or one of absurd sizes."""
    path = folder / "config.json"
    if (folder / "adapter_config.json").exists():  # transformers would load the base that it names instead
        problem = _("holds an adapter; a whole model is expected. Name the adapter's base, or merge the two first.")
        raise ModelError(problem, str(folder))
    if not path.exists():
        raise ModelError(_("has no config.json: it is no model folder."), str(folder))
    value = _read_object(path, _("Download it again."))
    config = text_config(value)
    for name, most in _SIZES.items():
        size = config.get(name)
        if size is not None and not isinstance(size, list | dict) and not (type(size) is int and 0 < size <= most):
            problem = _("{name} is {value}; expected a whole number from 1 to {most:,}.")
            raise ModelError(problem.format(name=name, value=str(size)[:40], most=most), str(path))
    return value


def _read_object(path: Path, advice: str) -> dict[str, Any]:
    """A JSON file that holds an object. Raises ModelError, with what to do."""
    try:
        if not path.is_file():
            raise OSError(_("it is no file"))
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(_("cannot be read: {reason}.").format(reason=error) + " " + advice, str(path)) from None
    except RecursionError:
        raise ModelError(_("is nested too deeply.") + " " + advice, str(path)) from None
    if not isinstance(value, dict):
        raise ModelError(_("is damaged: an object is expected.") + " " + advice, str(path))
    return value


def refuse_absurd(found: dict[str, Tensor], config: dict[str, Any], folder: Path) -> None:
    """Raises ModelError where config.json speaks of a far larger model than the weights are: to build it would take
    what memory and time there is, only to find them missing. `config` is of the language model."""
    if "quantization_config" in config or not found:
        return
    layers = 1 + max((int(match[1]) for name in found if (match := re.search(r"\.(\d+)\.", name))), default=0)
    side = max((side for tensor in found.values() for side in tensor.shape), default=0)
    bounds = {"num_hidden_layers": layers, **dict.fromkeys(("hidden_size", "intermediate_size", "vocab_size"), side)}
    for name, most in bounds.items():
        if isinstance(config.get(name), int) and config[name] > FAR * most:
            problem = _("{name} is {value}; the weights beside it have no more than {most}. They are not a pair.")
            raise ModelError(problem.format(name=name, value=config[name], most=most), str(folder / "config.json"))


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a config.json that speaks of the language model; a model that also sees keeps it one level down."""
    inner = config.get("text_config")
    return config | inner if isinstance(inner, dict) else config


def fingerprint(folder: Path) -> str:
    """Sixteen hex digits that tell one base model from another, the same wherever the same files lie.

    Of config.json what changes the function and not the shapes, every tensor's name, shape and type, and the first
    bytes of some matrices. How the tensors are spread over files does not matter.
    """
    config = text_config(read_config(folder))
    found = tensors(folder)
    names = sorted(found)
    essence = [[name, config.get(name)] for name in _ESSENTIALS]
    essence += [[name, found[name].dtype, found[name].shape] for name in names]
    state = hashlib.sha256(json.dumps(essence).encode())
    matrices = [name for name in names if len(found[name].shape) > 1]
    for name in matrices[:: max(1, len(matrices) // _SAMPLES)]:
        tensor = found[name]
        with tensor.file.open("rb") as stream:
            stream.seek(tensor.start)
            state.update(stream.read(min(_SAMPLE, tensor.end - tensor.start)))
    return state.hexdigest()[:16]


def write_origin(adapter: Path, base: str, mark: str, template: dict[str, Any] | None = None) -> None:
    """Record in a checkpoint which base model it belongs to, by name and fingerprint, and how its conversations were
    written (see rundir.Target.template)."""
    told = {"format": 1, "base": base, "base_fingerprint": mark}
    write_json(adapter / ORIGIN, told | ({"template": template} if template else {}))


def read_origin(adapter: Path) -> tuple[str, str] | None:
    """The base's name and fingerprint that `write_origin` recorded; None beside an adapter from elsewhere."""
    if not (adapter / ORIGIN).exists():
        return None
    found = _read_object(adapter / ORIGIN, _("Take another checkpoint."))
    if "base" not in found or "base_fingerprint" not in found:
        raise ModelError(_("is damaged. Take another checkpoint."), str(adapter / ORIGIN))
    return str(found["base"]), str(found["base_fingerprint"])


def named_base(adapter: Path) -> str | None:
    """The base that an adapter's own adapter_config.json names, as whoever trained it called it."""
    found = _read_object(adapter / "adapter_config.json", _("Take another checkpoint."))
    name = found.get("base_model_name_or_path")
    return str(name) if name else None
