"""Base and adapter made one model folder, and the proof that it computes what the two computed.

Merged and compared in float64 where that fits into memory, cast once, written beside the goal, read back, compared
again, and only then given its name. Knows nothing of how the run was trained; the base's files are never written to.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel

from tunesmith.durable import clear, locked, new_folder
from tunesmith.errors import ConfigError, ModelError, RunError
from tunesmith.export.proof import Certificate, Difference, bound, cut, difference, logits, made_up, precision
from tunesmith.i18n import _
from tunesmith.model.folder import TOKENIZER_FILES, locate
from tunesmith.model.load import load_model, load_target
from tunesmith.model.quantize import Quantization
from tunesmith.model.quiet import quiet
from tunesmith.model.weights import read_config, tensors
from tunesmith.rundir import RUN, Target, record, write_json

CERTIFICATE = "merge.json"

_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def merge(
    target: Target,
    out: Path | None = None,
    *,
    overwrite: bool = False,
    dtype: str | None = None,
    rows: Sequence[Sequence[int]] = (),
    stop_ids: Iterable[int] = (),
    trained_on: Quantization | None = None,
    trust_remote_code: bool = False,
) -> Certificate:
    """Write the merged model to `out` (by default RUN/merged) and prove it. Returns the proof, which lies there too.

    `dtype` of the files is by default the base's; `rows` are token ids to compare on (made up where none are given);
    `stop_ids` end an answer, and are added to the model's generation settings; `trained_on` is what the base was
    packed to in training. Raises RunError where the goal or the target does not suit, ModelError where the proof
    fails: then nothing is left behind.
    """
    out = _goal(target, out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with locked(out.with_name(f".{out.name}.lock")):
        clear(out)
        _refuse_replacing(out, overwrite)
        return _merge(target, out, dtype, rows, stop_ids, trained_on, trust_remote_code)


def _merge(
    target: Target,
    out: Path,
    dtype: str | None,
    rows: Sequence[Sequence[int]],
    stop_ids: Iterable[int],
    trained_on: Quantization | None,
    trust_remote_code: bool,
) -> Certificate:
    base = locate(target.base)
    kind = getattr(torch, dtype or _stored_dtype(base))
    _check_room(base, out, kind)
    how: dict[str, Any] = {"device": "cpu", "trust_remote_code": trust_remote_code}
    loaded: Any
    loaded, origin = load_target(target, dtype="float32", **how)
    wide = precision(base)
    model = loaded.to(wide)
    assert isinstance(model, PeftModel)
    probes = cut(rows) or made_up(model.config.get_text_config().vocab_size)
    expected = [logits(model, row) for row in probes]
    with model.disable_adapter():
        effect = difference(model, probes, expected)
    packed = _packed(target, trained_on, probes, expected, how)
    merged = _merged(model)
    exact = difference(merged, probes, expected)
    largest = max(row.abs().max().item() for row in expected)
    if not exact.largest <= bound(wide, largest):  # written so that NaN fails too
        raise ModelError(
            _(
                "The merged weights do not compute what base and adapter compute. Nothing was written. An adapter on a"
                " head that shares its weights with the embedding cannot be merged."
            )
        )
    with new_folder(out) as folder:
        _save(merged.to(kind), folder, base, target, stop_ids)
        saved: Any = load_model(str(folder), dtype=_name(kind), **how)
        _compare_weights(merged, saved)
        del model, loaded, merged
        certificate = Certificate(
            path=str(out),
            base=target.base,
            base_fingerprint=origin.fingerprint,
            adapter=str(target.adapter),
            dtype=_name(kind),
            precision=_name(wide),
            positions=sum(map(len, probes)),
            effect=effect.largest,
            scale=largest,
            merged=exact,
            saved=difference(saved.to(wide), probes, expected),
            bits=trained_on.bits if trained_on else None,
            packed=packed,
        )
        write_json(folder / CERTIFICATE, {"format": 2, "step": target.step} | asdict(certificate))
    return certificate


def _goal(target: Target, out: Path | None) -> Path:
    if target.adapter is None:
        raise RunError(_("has no adapter to merge: it is a whole model already."), target.base)
    if out is None and target.run is None:
        raise RunError(_("belongs to no run. Say where the model goes with -o."), str(target.adapter))
    return out or Path(str(target.run)) / "merged"


def _refuse_replacing(goal: Path, overwrite: bool) -> None:
    if goal.exists() and not overwrite:
        raise RunError(_("exists already. Give another folder with -o, or --overwrite."), str(goal))
    if goal.exists() and not (goal / CERTIFICATE).is_file():
        raise RunError(_("was not written by merge, so it is not overwritten. Give another folder with -o."), str(goal))


def _stored_dtype(base: Path) -> str:
    """The type of most of the base's weights. Raises ModelError for packed ones, which no adapter can be added to."""
    if "quantization_config" in read_config(base):
        problem = _("is quantised, and merging into rounded weights spoils them. Give the full base with --model.")
        raise ModelError(problem, str(base))
    counted: Counter[str] = Counter()
    for tensor in tensors(base).values():
        counted[tensor.dtype] += tensor.numel
    return _DTYPES.get(counted.most_common(1)[0][0], "float32")


def _check_room(base: Path, out: Path, kind: torch.dtype) -> None:
    need = sum(tensor.numel for tensor in tensors(base).values()) * kind.itemsize
    free = shutil.disk_usage(out.parent).free
    if free < need * 1.05:
        problem = _("has {free:.1f} GB free; the merged model takes {need:.1f}.")
        raise RunError(problem.format(free=free / 1e9, need=need / 1e9), str(out.parent))


def _packed(
    target: Target,
    trained_on: Quantization | None,
    rows: list[list[int]],
    expected: list[torch.Tensor],
    how: dict[str, Any],
) -> Difference | None:
    """Base and adapter as they were in training; None where that was no other base, or can't be computed here."""
    if trained_on is None:
        return None
    try:
        model, _origin = load_target(target, dtype="float32", quantization=trained_on, **how)
    except ConfigError:
        return None
    return difference(model, rows, expected)


def _name(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


def _merged(model: PeftModel) -> PreTrainedModel:
    try:
        with quiet():
            merged: Any = model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise ModelError(_("The adapter holds numbers that are not finite; take another checkpoint.")) from error
    return merged


def _save(model: PreTrainedModel, folder: Path, base: Path, target: Target, stop_ids: Iterable[int]) -> None:
    broken = [name for name, value in model.named_parameters() if not torch.isfinite(value).all()]
    if broken:
        problem = _("{n} merged weights are not finite in {dtype}, such as {first}. Nothing was written.")
        raise ModelError(problem.format(n=len(broken), dtype=_name(model.dtype), first=broken[0]))
    model.generation_config = GenerationConfig()  # the base's own, which may not pass transformers' check, comes below
    with quiet():
        model.save_pretrained(folder)
    _save_tokenizer(folder, target)
    _save_stops(folder, base, stop_ids)


def _save_tokenizer(folder: Path, target: Target) -> None:
    """The tokenizer's own files, byte for byte, with the chat template that the run was trained with."""
    source = locate(target.tokenizer, weights=False)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    known = record(target.run) if target.run and (target.run / RUN).is_file() else {}
    text = (known.get("template") or {}).get("text")
    if text:
        (folder / "chat_template.jinja").write_text(text, encoding="utf-8")
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        write_json(path, settings | {"chat_template": text})  # older readers look here, newer ones in the file


def _save_stops(folder: Path, base: Path, stop_ids: Iterable[int]) -> None:
    """generation_config.json as the base has it, its end tokens joined by those that the template ends a turn with."""
    path = base / "generation_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    ends = settings.get("eos_token_id", read_config(base).get("eos_token_id"))
    known = ends if isinstance(ends, list) else [] if ends is None else [ends]
    together = sorted({*known, *stop_ids})
    settings.pop("_from_model_config", None)  # it would have transformers overwrite the file's values
    write_json(folder / path.name, settings | ({"eos_token_id": together} if together else {}))


def _compare_weights(merged: PreTrainedModel, saved: PreTrainedModel) -> None:
    found, wanted = saved.state_dict(), merged.state_dict()
    wrong = [name for name in wanted if name not in found or not torch.equal(wanted[name], found[name])]
    if wrong:
        problem = _("{n} weights read back differ from those written, such as {first}. Nothing was kept.")
        raise ModelError(problem.format(n=len(wrong), first=wrong[0]))
