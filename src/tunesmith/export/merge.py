"""Base and adapter made one model folder, and the proof that it computes what the two computed.

Merged in float32, cast once, written beside the goal, read back, compared, and only then given its name. Knows nothing
of how the run was trained; the base's files are never written to.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel

from tunesmith.errors import ModelError, RunError
from tunesmith.i18n import _
from tunesmith.model.load import load_model, load_target, locate, quiet
from tunesmith.model.weights import read_config, tensors
from tunesmith.rundir import RUN, Target, record, write_json

CERTIFICATE = "merge.json"
TOLERANCE = 1e-4  # largest difference of a logit in float32, for each unit of the largest logit above 1
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)

_ROWS, _LENGTH = 4, 32  # rows of the proof where none are given, and their tokens
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True, slots=True)
class Certificate:
    """How far the merged model's logits are from those of base + adapter in float32, over `positions` places.

    `merged` (largest, mean difference) was measured in float32 before the cast, `saved` on the folder as read back in
    `dtype`; `agreement` is the share of places whose likeliest token is the same. As a scale: `effect` is the largest
    difference that the adapter makes to its base, `largest` the largest logit.
    """

    path: str
    base: str
    base_fingerprint: str
    adapter: str
    dtype: str
    positions: int
    effect: float
    largest: float
    merged: tuple[float, float]
    saved: tuple[float, float]
    agreement: float

    def describe(self) -> list[str]:
        """The proof in sentences."""
        same = _("{path} computes what {base} with {adapter} computes, compared at {n} places.")
        merged = _("Merged in float32: logits differ by at most {largest:.1e}, {mean:.1e} on average.")
        saved = _(
            "Saved in {dtype}: by at most {largest:.1e}, {mean:.1e} on average; {share:.1%} of likeliest tokens agree."
        )
        scale = _("For scale: the adapter moves logits by up to {effect:.1e}; the largest is {largest:.1f}.")
        return [
            same.format(path=self.path, base=self.base, adapter=self.adapter, n=self.positions),
            merged.format(largest=self.merged[0], mean=self.merged[1]),
            saved.format(dtype=self.dtype, largest=self.saved[0], mean=self.saved[1], share=self.agreement),
            scale.format(effect=self.effect, largest=self.largest),
        ]


def merge(
    target: Target,
    out: Path | None = None,
    *,
    overwrite: bool = False,
    dtype: str | None = None,
    rows: Sequence[Sequence[int]] = (),
    stop_ids: Iterable[int] = (),
    trust_remote_code: bool = False,
) -> Certificate:
    """Write the merged model to `out` (by default RUN/merged) and prove it. Returns the proof, which lies there too.

    `dtype` of the files is by default the base's; `rows` are token ids to compare on (made up where none are given);
    `stop_ids` end an answer, and are added to the model's generation settings. Raises RunError where the goal or the
    target does not suit, ModelError where the proof fails: then nothing is left behind.
    """
    out = _goal(target, out, overwrite)
    base = locate(target.base)
    kind = getattr(torch, dtype or _stored_dtype(base))
    _check_room(base, out, kind)
    model, origin = load_target(target, dtype="float32", device="cpu", trust_remote_code=trust_remote_code)
    assert isinstance(model, PeftModel)
    probes = [list(row) for row in rows] or _made_up(model.config.get_text_config().vocab_size)
    with model.disable_adapter():
        plain = _logits(model, probes)
    expected = _logits(model, probes)
    merged = _merged(model)
    in_float32 = _difference(_logits(merged, probes), expected)
    largest = expected.abs().max().item()
    if not in_float32[0] <= TOLERANCE * max(1.0, largest):  # written so that NaN fails too
        raise ModelError(
            _(
                "The merged weights do not compute what base and adapter compute. Nothing was written. An adapter on a"
                " head that shares its weights with the embedding cannot be merged."
            )
        )
    with _beside(out) as folder:
        _save(merged.to(kind), folder, base, target, stop_ids)
        saved = load_model(str(folder), dtype=_name(kind), device="cpu", trust_remote_code=trust_remote_code)
        _compare_weights(merged, saved)
        after = _logits(saved, probes)
        certificate = Certificate(
            path=str(out),
            base=target.base,
            base_fingerprint=origin.fingerprint,
            adapter=str(target.adapter),
            dtype=_name(kind),
            positions=len(expected),
            effect=_difference(plain, expected)[0],
            largest=largest,
            merged=in_float32,
            saved=_difference(after, expected),
            agreement=(after.argmax(-1) == expected.argmax(-1)).float().mean().item(),
        )
        write_json(folder / CERTIFICATE, {"format": 1, "step": target.step} | asdict(certificate))
    return certificate


def _goal(target: Target, out: Path | None, overwrite: bool) -> Path:
    if target.adapter is None:
        raise RunError(_("has no adapter to merge: it is a whole model already."), target.base)
    if out is None and target.run is None:
        raise RunError(_("belongs to no run. Say where the model goes with -o."), str(target.adapter))
    goal = out or Path(str(target.run)) / "merged"
    if goal.exists() and not overwrite:
        raise RunError(_("exists already. Give another folder with -o, or --overwrite."), str(goal))
    if goal.exists() and not (goal / CERTIFICATE).is_file():
        raise RunError(_("was not written by merge, so it is not overwritten. Give another folder with -o."), str(goal))
    return goal


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
    out.parent.mkdir(parents=True, exist_ok=True)
    need = sum(tensor.numel for tensor in tensors(base).values()) * kind.itemsize
    free = shutil.disk_usage(out.parent).free
    if free < need * 1.05:
        problem = _("has {free:.1f} GB free; the merged model takes {need:.1f}.")
        raise RunError(problem.format(free=free / 1e9, need=need / 1e9), str(out.parent))


def _made_up(vocabulary: int) -> list[list[int]]:
    chance = random.Random(0)
    return [[chance.randrange(vocabulary) for _place in range(_LENGTH)] for _row in range(_ROWS)]


@torch.inference_mode()
def _logits(model: torch.nn.Module, rows: list[list[int]]) -> torch.Tensor:
    """Logits [places of all rows, vocabulary] in float32."""
    return torch.cat([model(input_ids=torch.tensor([row])).logits[0].float() for row in rows])


def _difference(found: torch.Tensor, expected: torch.Tensor) -> tuple[float, float]:
    """(largest, mean) absolute difference."""
    difference = (found - expected).abs()
    return difference.max().item(), difference.mean().item()


def _name(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


def _merged(model: PeftModel) -> PreTrainedModel:
    try:
        with quiet():
            merged: Any = model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise ModelError(_("The adapter holds numbers that are not finite; take another checkpoint.")) from error
    return merged


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A temporary folder that takes the name `out` if all went well, and vanishes otherwise."""
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        made, old = Path(temporary) / "new", Path(temporary) / "old"
        made.mkdir()
        yield made
        if out.exists():
            out.rename(old)
        made.rename(out)


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
    source = _tokenizer_folder(target.tokenizer)
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


def _tokenizer_folder(name: str) -> Path:
    """The folder of a tokenizer, which needs no weights beside it."""
    path = Path(name).expanduser()
    return path if path.is_dir() else locate(name)


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
