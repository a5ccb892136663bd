"""How many parameters a model has and an adapter would add, read off the headers of its weight files.

For `check`, which needs no torch; a test holds it against what peft counts.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.model.weights import Tensor, tensors

if TYPE_CHECKING:
    from tunesmith.config.schema import LoraSection

EMBEDDINGS = ("embed_tokens", "embed_in", "lm_head", "embed_out", "wte", "wpe", "word_embeddings")
FIRST = ("embed_tokens", "embed_in", "wte", "word_embeddings")  # where a token's row is looked up


def all_parameters(folder: Path) -> int:
    return sum(tensor.numel for tensor in tensors(folder).values())


def adapter_parameters(folder: Path, section: LoraSection) -> int:
    """Parameters that these settings train: r x (in + out) for each matrix [out, in] that they name, and out more for
    DoRA's magnitudes; modules trained whole; rows of the embedding."""
    found = tensors(folder)
    adapted = [t.shape for name, t in found.items() if _adapted(name, t, section)]
    total = sum(section.r * sum(shape) + (shape[0] if section.use_dora else 0) for shape in adapted)
    for name, tensor in found.items():
        parts = name.split(".")
        if any(module in parts for module in section.modules_to_save):
            total += tensor.numel
        if section.trainable_token_indices and any(part in FIRST for part in parts):
            total += len(section.trainable_token_indices) * tensor.shape[1]
    return total


def _adapted(name: str, tensor: Tensor, section: LoraSection) -> bool:
    parts = name.split(".")
    if parts[-1] != "weight" or len(tensor.shape) != 2:
        return False
    layer = re.search(r"\.(\d+)\.", name)
    if section.layers_to_transform is not None and (layer is None or int(layer[1]) not in section.layers_to_transform):
        return False
    if isinstance(section.target_modules, str):
        return not any(part in EMBEDDINGS for part in parts)
    return any(name.removesuffix(".weight") == m or name.endswith(f".{m}.weight") for m in section.target_modules)
