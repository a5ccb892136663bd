"""What all of a step's answers begin with: computed once, though the step is computed in several batches.

The first pass keeps every layer's keys and values; the batches see them as given and leave their gradients there; at
the end these go back through the first pass, once. Knows layers by their number alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Trunk:
    """`ids`: the tokens. One is made for a step: first a pass that keeps, then passes that see, then `backward`."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = list(ids)
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._given: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def keep(self, layer: int, key: Tensor, value: Tensor) -> None:
        """key and value [1, kv_heads, tokens, d] of the first pass."""
        self._kept[layer] = key, value
        self._given[layer] = key.detach().requires_grad_(), value.detach().requires_grad_()

    def before(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """A batch's key and value behind the trunk's."""
        first = self._given[layer]
        return torch.cat([first[0], key], dim=2), torch.cat([first[1], value], dim=2)

    def backward(self) -> None:
        """Takes what the batches left back through the first pass."""
        pairs = [(t, g.grad) for i, kept in self._kept.items() for t, g in zip(kept, self._given[i], strict=True)]
        pairs = [(kept, grad) for kept, grad in pairs if kept.requires_grad and grad is not None]
        torch.autograd.backward([kept for kept, _grad in pairs], [grad for _kept, grad in pairs])
