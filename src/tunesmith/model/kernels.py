"""How a step is computed: which of the fast forms a model gets, and how much memory the library's own caches may take.

Fast and plain compute the same; plain is the libraries' own operations, for comparison. Knows no settings.
"""

from __future__ import annotations

import os

from torch import nn

from tunesmith.model.fused import use_fused_layers
from tunesmith.model.lowrank import use_fast_adapters

# oneDNN and its wrapper each keep a prepared product for every shape met, about half a megabyte, and 1024 of them by
# default. Batches differ in length, so that is half a gigabyte of shapes that do not come again.
_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
_SHAPES = "192"  # more than one batch has


def bound_caches() -> None:
    """To be called before the first product: the libraries read their limits once. What the user has set stays."""
    for name in _CACHES:
        os.environ.setdefault(name, _SHAPES)


def use_fast_kernels(model: nn.Module) -> None:
    """The fast forms, where a layer can take them; a layer that can't keeps its own."""
    use_fast_adapters(model)
    use_fused_layers(model)
