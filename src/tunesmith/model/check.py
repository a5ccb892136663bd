"""Is this model whole and usable? Every fault of a model folder at once, with what to do about each.

The shallow check reads files and headers and needs no torch; the deep one loads the model and computes with it.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tunesmith.errors import ModelError, Problem
from tunesmith.i18n import _
from tunesmith.model.expected import mismatches
from tunesmith.model.quiet import first_line
from tunesmith.model.weights import (
    Tensor,
    fingerprint,
    named_base,
    read_config,
    read_header,
    read_origin,
    refuse_absurd,
    tensors,
    text_config,
)

SHOWN = 5  # faults of one kind that are named


@dataclass(slots=True)
class Report:
    """`problems` make the model unusable; `notes` are worth knowing. `size` is the weights' bytes on disk."""

    path: str
    family: str = ""
    architecture: str = ""
    parameters: int = 0
    size: int = 0
    dtypes: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def describe(self) -> str:
        text = _(
            "{architecture}, {parameters:,} parameters, {size:.2f} GB on disk, {dtypes}; {need:.1f} GB in bfloat16."
        )
        return text.format(
            architecture=self.architecture or _("unknown architecture"),
            parameters=self.parameters,
            size=self.size / 1e9,
            dtypes=", ".join(self.dtypes) or "-",
            need=2 * self.parameters / 1e9,
        )


def check_model(path: str | Path, *, deep: bool = False) -> Report:
    """Check a model folder or a GGUF file. Raises nothing: whatever is wrong stands in the report.

    `deep` also loads the model and runs a few tokens through it.
    """
    place, report = Path(path).expanduser(), Report(str(path))
    try:
        if place.is_file():
            _check_gguf(place, report)
        elif place.is_dir():
            _check_folder(place, report)
        else:
            raise ModelError(_("There is no such folder or file."), str(path))
        if deep and not report.problems:
            _compute(str(place), report)
    except ModelError as error:
        report.problems += [str(problem) for problem in error.problems]
    return report


def _check_folder(folder: Path, report: Report) -> None:
    if (folder / "adapter_config.json").is_file():
        _check_adapter(folder, report)
        return
    found: dict[str, Tensor] = {}
    config: dict[str, Any] = {}
    try:
        config = read_config(folder)
        _check_architecture(config, report)
    except ModelError as error:
        report.problems += [str(problem) for problem in error.problems]
    try:
        found = tensors(folder)
    except ModelError as error:
        report.problems += [str(problem) for problem in error.problems]
    report.parameters = sum(tensor.numel for tensor in found.values())
    report.size = sum(tensor.end - tensor.start for tensor in found.values())
    report.dtypes = tuple(sorted({tensor.dtype for tensor in found.values()}))
    if found and config:
        try:
            refuse_unfit(found, config, folder)
        except ModelError as error:
            report.problems += [str(problem) for problem in error.problems]
        _check_memory(report)
    _check_tokenizer(folder, _vocabulary(found, config), report)
    _check_endings(folder, config, report)


def refuse_unfit(found: dict[str, Tensor], config: dict[str, Any], folder: Path) -> None:
    """Raises ModelError where config.json and the weights beside it are no pair."""
    refuse_absurd(found, text_config(config), folder)
    wrong = _some(list(mismatches(found, text_config(config))))
    if wrong:
        raise ModelError([Problem(str(folder), sentence) for sentence in wrong])


def _some(sentences: list[str]) -> list[str]:
    """The first few, and how many there are beside them."""
    more = [_("{n} more of that kind.").format(n=len(sentences) - SHOWN)] if len(sentences) > SHOWN else []
    return sentences[:SHOWN] + more


def _check_memory(report: Report) -> None:
    """Whether the weights alone, at two bytes each, fit into this machine's memory."""
    free, need = psutil.virtual_memory().available, 2 * report.parameters
    if need > free:
        text = _(
            "In bfloat16 the weights take {need:.1f} GB, and {free:.1f} GB of memory are free: a GPU has to hold them,"
            " or model.load_in_4bit: true, which takes about a quarter."
        )
        report.notes.append(text.format(need=need / 1e9, free=free / 1e9))


def _check_adapter(folder: Path, report: Report) -> None:
    """An adapter's own file, and whether each of its matrices has one in the base to be added to."""
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        raise ModelError(_("is missing; adapters are read from safetensors files only."), str(file))
    found, origin, named = read_header(file), read_origin(folder), named_base(folder)
    report.architecture = _("adapter of {base}").format(base=named or "-")
    report.parameters = sum(tensor.numel for tensor in found.values())
    report.size = sum(tensor.end - tensor.start for tensor in found.values())
    report.dtypes = tuple(sorted({tensor.dtype for tensor in found.values()}))
    base = Path(named or "")
    if not named or not (base / "config.json").is_file():
        report.notes.append(_("Its base is not a folder here, so it was not held against it."))
        return
    if origin is None:
        report.notes.append(_("It stores no fingerprint of its base; names and shapes were compared."))
    elif origin[1] != fingerprint(base):
        text = _("It was trained on another model (fingerprint {recorded}) than {base} (fingerprint {found}).")
        report.problems.append(text.format(recorded=origin[1], base=base, found=fingerprint(base)))
    weights = tensors(base)
    for name, tensor in found.items():
        target, kind, half = name.removeprefix("base_model.model.").partition(".lora_")
        if not kind or half not in ("A.weight", "B.weight"):
            continue
        matrix = weights.get(f"{target}.weight")
        side = 1 if half == "A.weight" else 0
        if matrix is None or matrix.shape[side] != tensor.shape[side]:
            report.problems.append(_("{name} fits no weight of the base {base}.").format(name=name, base=base))
    report.problems = _some(report.problems)


def _check_architecture(config: dict[str, Any], report: Report) -> None:
    named = config.get("architectures")
    names = [str(name) for name in named] if isinstance(named, list) else []
    known = _known_architectures()
    report.architecture = ", ".join(names)
    report.family = str(config.get("model_type") or "")
    if not names:
        report.problems.append(_("config.json names no architecture."))
    elif "auto_map" in config:
        report.notes.append(_("The model brings Python code of its own; it may need model.trust_remote_code: true."))
    elif not any(f'"{name}"' in known for name in names):
        report.problems.append(
            _("This version of transformers has no {name}. A newer one may.").format(name=report.architecture)
        )


def _known_architectures() -> str:
    """The list in transformers' source, as text: importing it would load torch."""
    found = importlib.util.find_spec("transformers")
    assert found is not None
    assert found.origin is not None
    return (Path(found.origin).parent / "models" / "auto" / "modeling_auto.py").read_text(encoding="utf-8")


def _vocabulary(found: dict[str, Tensor], config: dict[str, Any]) -> int:
    """Rows of the token embedding; 0 if nobody says."""
    rows = [t.shape[0] for name, t in found.items() if name.endswith(("embed_tokens.weight", "wte.weight"))]
    return rows[0] if rows else int(text_config(config).get("vocab_size") or 0)


def _check_tokenizer(folder: Path, vocabulary: int, report: Report) -> None:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        report.problems.append(_("tokenizer.json is missing. Copy it from the model's source, or give --tokenizer."))
        return
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises nothing narrower than Exception, and its panics are none
        report.problems.append(_("tokenizer.json is damaged: {reason}.").format(reason=error))
        return
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if vocabulary and largest >= vocabulary:
        report.problems.append(
            _("tokenizer.json has ids up to {largest}, the model only {rows} of them. They are not a pair.").format(
                largest=largest, rows=vocabulary
            )
        )


def _check_endings(folder: Path, config: dict[str, Any], report: Report) -> None:
    """Can a conversation be written for this model, and does it know when to stop?"""
    settings = _optional_json(folder / "tokenizer_config.json", report)
    generation = _optional_json(folder / "generation_config.json", report)
    files = ("chat_template.jinja", "chat_template.json")
    if not settings.get("chat_template") and not any((folder / name).is_file() for name in files):
        report.notes.append(_("There is no chat template: set template.fallback or template.path to train it."))
    known = [settings.get("eos_token"), generation.get("eos_token_id"), text_config(config).get("eos_token_id")]
    if all(value is None for value in known):
        report.problems.append(_("No end-of-text token is known: answers would never stop."))


def _optional_json(path: Path, report: Report) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        report.problems.append(_("{name} is damaged: {reason}.").format(name=path.name, reason=error))
        return {}
    return value if isinstance(value, dict) else {}


def _check_gguf(file: Path, report: Report) -> None:
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ModelError(_("is no GGUF file and no model folder."), str(file))
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
        report.parameters = sum(int(tensor.n_elements) for tensor in reader.tensors)
        report.size = sum(int(tensor.n_bytes) for tensor in reader.tensors)
        report.dtypes = tuple(sorted({tensor.tensor_type.name for tensor in reader.tensors}))
        architecture = reader.get_field("general.architecture")
    except Exception as error:  # whatever the bytes of a stranger make of the library
        raise ModelError(_("is cut short or damaged ({reason}).").format(reason=first_line(error)), str(file)) from None
    if not report.parameters:
        raise ModelError(_("holds no weights."), str(file))
    report.architecture = report.family = str(architecture.contents()) if architecture else ""


def _compute(path: str, report: Report) -> None:
    """Load the model and run a few tokens through it: finite numbers, one for each token of the vocabulary."""
    import torch

    from tunesmith.model.load import load_model

    model = load_model(path)
    ids = torch.arange(1, 9, device=model.device).unsqueeze(0)
    with torch.inference_mode():
        logits = model(input_ids=ids).logits
    if not torch.isfinite(logits).all():
        report.problems.append(_("The model computes numbers that are not finite: its weights are damaged."))
    report.parameters = sum(parameter.numel() for parameter in model.parameters())
