"""How many parameters a model has and an adapter would add, read off the headers of its weight files.

For `check`, which needs no torch; a test holds it against what peft counts.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

from tunesmith.model.weights import Tensor, tensors

EMBEDDINGS = ("embed_tokens", "embed_in", "lm_head", "embed_out", "wte", "wpe", "word_embeddings")


def all_parameters(folder: Path) -> int:
    return sum(prod(tensor.shape) for tensor in tensors(folder).values())


def adapter_parameters(folder: Path, r: int, target_modules: str | list[str]) -> int:
    """Parameters of a LoRA of rank `r` on `target_modules`: r x (in + out) for each matrix [out, in] that it names."""
    found = tensors(folder)
    return sum(r * sum(tensor.shape) for name, tensor in found.items() if _adapted(name, tensor, target_modules))


def _adapted(name: str, tensor: Tensor, target_modules: str | list[str]) -> bool:
    parts = name.split(".")
    if parts[-1] != "weight" or len(tensor.shape) != 2:
        return False
    if isinstance(target_modules, str):
        return not any(part in EMBEDDINGS for part in parts)
    return any(name.removesuffix(".weight") == m or name.endswith(f".{m}.weight") for m in target_modules)
