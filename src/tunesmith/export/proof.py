"""How far one model's logits are from another's, in how exact an arithmetic, and the certificate that says so.

Writes nothing and merges nothing; models and rows are given.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from tunesmith.i18n import _
from tunesmith.model.weights import tensors

TOLERANCE = 1e-4  # largest difference of a logit; in float32 for each unit of the largest logit above 1
PLACES, LENGTH = 320, 80  # tokens of the proof in all, and of one row of it
MEMORY = 12  # bytes for each parameter that a proof in float64 takes: the merged model, and a copy read back

_MADE_UP = (4, 32)  # rows of the proof where none are given, and their tokens


@dataclass(frozen=True, slots=True)
class Difference:
    """Logits against those of base + adapter: largest and mean difference, and the share of places at which the
    likeliest token is the same."""

    largest: float
    mean: float
    agreement: float


@dataclass(frozen=True, slots=True)
class Certificate:
    """How far the merged model's logits are from those of base + adapter, over `positions` places.

    `merged` was measured in `precision` before the cast; `saved` on the folder as read back, its weights rounded to
    `dtype`, computed in `precision` too: the cost of rounding alone. `packed` is how far the same adapter is on the
    base in 4 or 8 bit (`bits`), on which it was trained. As a scale: `effect` is the largest difference that the
    adapter makes to its base, `scale` the largest logit.
    """

    path: str
    base: str
    base_fingerprint: str
    adapter: str
    dtype: str
    precision: str
    positions: int
    effect: float
    scale: float
    merged: Difference
    saved: Difference
    bits: int | None = None
    packed: Difference | None = None

    def describe(self) -> list[str]:
        """The proof in sentences."""
        same = _("{path} computes what {base} with {adapter} computes, compared at {n} places.")
        merged = _("Merged in {precision}: logits differ by at most {largest:.1e}, {mean:.1e} on average.")
        saved = _(
            "Saved in {dtype}: rounding moves them by at most {largest:.1e}, {mean:.1e} on average; {share:.1%} of"
            " likeliest tokens agree."
        )
        scale = _("For scale: the adapter moves logits by up to {effect:.1e}; the largest is {largest:.1f}.")
        said = [
            same.format(path=self.path, base=self.base, adapter=self.adapter, n=self.positions),
            merged.format(precision=self.precision, largest=self.merged.largest, mean=self.merged.mean),
            saved.format(
                dtype=self.dtype, largest=self.saved.largest, mean=self.saved.mean, share=self.saved.agreement
            ),
            scale.format(effect=self.effect, largest=self.scale),
        ]
        if self.bits is not None:
            said.append(_("Trained on the base in {bits} bit, merged onto its full weights.").format(bits=self.bits))
        if self.packed is not None:
            packed = _("In {bits} bit, logits are up to {largest:.1e} away; {share:.1%} of likeliest tokens agree.")
            said.append(packed.format(bits=self.bits, largest=self.packed.largest, share=self.packed.agreement))
        return said


def precision(base: Path) -> torch.dtype:
    """float64 where the memory holds it: what is left of a difference is then no rounding of the arithmetic."""
    need = MEMORY * sum(tensor.numel for tensor in tensors(base).values())
    return torch.float64 if psutil.virtual_memory().available > need else torch.float32


def bound(kind: torch.dtype, largest: float) -> float:
    """The difference that is allowed: float32 itself is only exact to a part of the `largest` logit."""
    return TOLERANCE * max(1.0, largest) if kind == torch.float32 else TOLERANCE


def cut(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """The end of each row, as many rows as the proof has places for."""
    return [list(row)[-LENGTH:] for row in rows if row][: PLACES // LENGTH]


def made_up(vocabulary: int) -> list[list[int]]:
    chance = random.Random(0)
    count, length = _MADE_UP
    return [[chance.randrange(vocabulary) for _place in range(length)] for _row in range(count)]


@torch.inference_mode()
def logits(model: torch.nn.Module, row: list[int]) -> torch.Tensor:
    """Logits [places, vocabulary], in float32 at least."""
    found = model(input_ids=torch.tensor([row])).logits[0]
    return found if found.dtype == torch.float64 else found.float()


def difference(model: torch.nn.Module, rows: list[list[int]], expected: list[torch.Tensor]) -> Difference:
    """How far `model` is from the `expected` logits of each row; a NaN stays one."""
    largest, total, same = 0.0, 0.0, 0
    for row, wanted in zip(rows, expected, strict=True):
        found = logits(model, row)
        away = (found - wanted).abs()
        peak = away.max().item()
        largest = peak if math.isnan(peak) else max(largest, peak)
        total += away.mean(-1).sum().item()
        same += int((found.argmax(-1) == wanted.argmax(-1)).sum())
    places = sum(map(len, rows))
    return Difference(largest, total / places, same / places)
