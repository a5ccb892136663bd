"""The arithmetic of an adapted projection in training: y = x W' + s (x A') B', as one step of the graph.

Parameters, names and files stay peft's; what changes is how a forward is computed: in the weights' own type, with no
activation kept twice. Serves a plain linear base with one active adapter; anything else keeps peft's forward.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn.functional import dropout, linear


class _LowRank(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, noisy: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        """x and noisy [..., in] (noisy is x after dropout), weight [out, in], a [r, in], b [out, r] -> [..., out]."""
        a, b = a.to(x.dtype), b.to(x.dtype) * scale
        inner = linear(noisy, a)
        y = linear(x, weight, bias)
        y = y.reshape(-1, y.shape[-1]).addmm_(inner.reshape(-1, inner.shape[-1]), b.T).view(y.shape)
        ctx.save_for_backward(noisy, inner, weight, a, b)
        ctx.scale, ctx.has_bias, ctx.same = scale, bias is not None, noisy is x
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        noisy, inner, weight, a, b = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        through = rows @ b
        grad_b = (rows.T @ inner.reshape(-1, inner.shape[-1])).float() * ctx.scale
        grad_a = (through.T @ noisy.reshape(-1, noisy.shape[-1])).float()
        grad_x = grad_noisy = None
        if ctx.needs_input_grad[0]:
            grad_x = rows @ weight
            if ctx.same:
                grad_x = grad_x.addmm_(through, a)
            grad_x = grad_x.view(noisy.shape)
        if not ctx.same and ctx.needs_input_grad[1]:
            grad_noisy = (through @ a).view(noisy.shape)
        return grad_x, grad_noisy, None, None, grad_a, grad_b, None


def _forward(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    name = layer.active_adapters[0] if len(layer.active_adapters) == 1 else None
    if name not in layer.lora_A or layer.disable_adapters or layer.merged or args or kwargs or not layer.training:
        return Linear.forward(layer, x, *args, **kwargs)
    base = layer.get_base_layer()
    rate = getattr(layer.lora_dropout[name], "p", 0.0)
    noisy = dropout(x, rate) if rate else x
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    return _LowRank.apply(x, noisy, base.weight, base.bias, a, b, layer.scaling[name])


def use_fast_adapters(model: nn.Module) -> int:
    """Puts the fast forward on every adapted layer that it serves, instance by instance; returns how many."""
    count = 0
    for layer in model.modules():
        if type(layer) is Linear and type(layer.get_base_layer()) is nn.Linear and not layer.lora_variant:
            if any(name in layer.lora_bias and layer.lora_bias[name] for name in layer.lora_A):
                continue
            layer.forward = MethodType(_forward, layer)  # type: ignore[method-assign]
            count += 1
    return count
