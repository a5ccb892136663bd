"""Answers as tensors: a forest, or padded rows for models that can't take one. The triples are the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tunesmith.model.paths import Paths
from tunesmith.model.trunk import Trunk
from tunesmith.tokens.answer import Answer
from tunesmith.tokens.forest import Forest, one_path


@dataclass(frozen=True)
class Batch:
    """Tokens [b, n] and m targets; `source` indexes the b * n flattened tokens. `paths` is None for padded rows."""

    input_ids: Tensor
    position_ids: Tensor
    source: Tensor
    target: Tensor
    weight: Tensor
    paths: Paths | None = None
    attention_mask: Tensor | None = None

    @classmethod
    def of_forest(cls, forest: Forest, device: torch.device, *, fast: bool = True, trunk: Trunk | None = None) -> Batch:
        """`fast` False: attention run by run, the plain reference. With a `trunk` its tokens are left out here."""
        above = len(trunk) if trunk else 0

        def tensor(array: Any, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.as_tensor(array, dtype=dtype, device=device)

        return cls(
            input_ids=tensor(forest.input_ids[above:])[None],
            position_ids=tensor(forest.position_ids[above:])[None],
            source=tensor(forest.source - above),
            target=tensor(forest.target),
            weight=tensor(forest.weight, torch.float32),
            paths=Paths(forest, device, fast, trunk, above),
        )

    @classmethod
    def of_trunk(cls, trunk: Trunk, device: torch.device, *, fast: bool = True) -> Batch:
        """The pass that makes the trunk's keys and values: no targets."""
        forest = one_path(trunk.ids)
        batch = cls.of_forest(forest, device, fast=fast)
        return replace(batch, paths=Paths(forest, device, fast, trunk))

    @classmethod
    def of_rows(cls, answers: Sequence[Answer], pad_id: int, device: torch.device) -> Batch:
        """The same triples from one padded row an answer: for models that can't take a forest."""
        width = max(len(a) for a in answers) - 1
        ids = torch.full((len(answers), width), pad_id, dtype=torch.long)
        mask = torch.zeros((len(answers), width), dtype=torch.long)
        source: list[int] = []
        target: list[int] = []
        weight: list[float] = []
        for row, answer in enumerate(answers):
            tokens = answer.context_ids + answer.answer_ids
            ids[row, : len(tokens) - 1] = torch.tensor(tokens[:-1])
            mask[row, : len(tokens) - 1] = 1
            first = row * width + len(answer.context_ids) - 1
            source += range(first, first + len(answer.answer_ids))
            target += answer.answer_ids
            weight += answer.weights
        positions = torch.arange(width).expand(len(answers), width)
        return cls(
            input_ids=ids.to(device),
            position_ids=positions.to(device),
            source=torch.tensor(source, device=device),
            target=torch.tensor(target, device=device),
            weight=torch.tensor(weight, dtype=torch.float32, device=device),
            attention_mask=mask.to(device),
        )
