"""Elementwise chains of a layer as one step of the graph each: RMS norm, and the gated product of an MLP.

Written out they keep the input alone, in its own type, where the chain of operations keeps a float32 copy at every
link. A module is replaced only where it computes, in a trial, what the written-out form computes.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

silu_backward = torch.ops.aten.silu_backward


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """x [..., h], weight [h] -> (x / rms(x) in float32, cast, times weight; 1 / rms(x) in float32 [..., 1])."""
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        ctx.mark_non_differentiable(scale)
        return _normed(x, weight, scale), scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _scale: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, scale = ctx.saved_tensors
        normed = x.float().mul_(scale)
        wide = grad.float()
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (wide * normed).flatten(0, -2).sum(0).to(weight.dtype)
        wide = wide * weight
        projected = (wide * normed).mean(-1, keepdim=True)
        return wide.sub_(normed.mul_(projected)).mul_(scale).to(x.dtype), grad_weight, None


def _normed(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    return x.float().mul(scale).to(x.dtype).mul_(weight)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, opened: _Opened) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.opened = opened
        return silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up = ctx.saved_tensors
        opened = ctx.opened.take(gate)
        return silu_backward(grad * up, gate), opened.mul_(grad), None


class _Opened:
    """silu(gate) in a backward: whoever makes the product again leaves it for the gate's own gradient."""

    def __init__(self) -> None:
        self.made: Tensor | None = None

    def product(self, gate: Tensor, up: Tensor) -> Tensor:
        self.made = silu(gate)
        return self.made * up

    def take(self, gate: Tensor) -> Tensor:
        made, self.made = self.made, None
        return silu(gate) if made is None else made


def _norm_forward(norm: Any, x: Tensor) -> Tensor:
    y, scale = _RMSNorm.apply(x, norm.weight, norm.variance_epsilon)
    y.made = (_normed, (x, norm.weight, scale))
    return y


def _mlp_forward(mlp: Any, x: Tensor) -> Tensor:
    gate, up = mlp.gate_proj(x), mlp.up_proj(x)
    opened = _Opened()
    product = _SwiGLU.apply(gate, up, opened)
    product.made = (opened.product, (gate, up))
    return mlp.down_proj(product)


def how_made(x: Tensor) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """What to keep of x for the backward, and how to make x of it again.

    A norm and a gated product keep their own inputs anyway; whoever needs their result there makes it once more from
    those, which costs a pass over memory, and keeps nothing.
    """
    return getattr(x, "made", (_itself, (x,)))


def _itself(x: Tensor) -> Tensor:
    return x


@torch.no_grad()
def use_fused_layers(model: nn.Module) -> int:
    """Replaces what it can, instance by instance; returns how many modules."""
    count, training = 0, model.training
    model.eval()  # a trial with dropout would compare nothing
    for module in model.modules():
        for serves, forward in ((_is_norm, _norm_forward), (_is_mlp, _mlp_forward)):
            if serves(module) and _same(module, forward):
                module.forward = MethodType(forward, module)
                count += 1
    model.train(training)
    return count


def _is_norm(module: Any) -> bool:
    return type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon")


def _is_mlp(module: Any) -> bool:
    return type(module).__name__.endswith("MLP") and all(
        hasattr(module, n) for n in ("gate_proj", "up_proj", "down_proj")
    )


def _same(module: Any, forward: Any) -> bool:
    """Whether the written-out form gives what the module gives, on a few made-up rows."""
    weight = next(module.parameters())
    width = weight.shape[-1]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, width, generator=generator).to(weight.device, weight.dtype)
    try:
        found, wanted = forward(module, x), module(x)
    except (RuntimeError, TypeError, AttributeError):
        return False
    tolerance = 1e-5 if weight.dtype == torch.float32 else 2e-2
    return torch.allclose(found.float(), wanted.float(), rtol=tolerance, atol=tolerance)
