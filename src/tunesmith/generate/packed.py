"""Weights in the order in which the processor multiplies them, for as long as answers are written.

A product with few rows costs mostly the reading of its weights, and the library brings them into that order anew each
time. The order is kept instead: the same numbers come out, the weights stand in memory twice. CPU only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.model.machine import free_memory

SHARE = 0.25  # of the free memory: more is not taken for speed
ROWS = 8  # of a usual product


@contextmanager
def packed(model: nn.Module) -> Iterator[None]:
    """The model's linear layers compute with packed weights, where memory allows; as they were afterwards."""
    layers: list[Any] = [layer for layer in model.modules() if _serves(layer)]
    size = sum(layer.weight.nbytes for layer in layers)
    if size > SHARE * free_memory():
        layers = []
    for layer in layers:
        order = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)
        layer.forward = partial(_linear, order, layer.bias)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _serves(layer: Any) -> bool:
    """A plain linear layer of the CPU, in a type that it computes in, whose forward is nobody else's."""
    if type(layer) is not nn.Linear or layer.weight.device.type != "cpu" or "forward" in vars(layer):
        return False
    able = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX")
    bfloat16 = able and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return able and (layer.weight.dtype == torch.float32 or (layer.weight.dtype == torch.bfloat16 and bfloat16))


def _linear(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """x [..., in] -> [..., out]."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
