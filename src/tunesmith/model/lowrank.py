"""The arithmetic of adapted projections in training: y = x W' + s (x A') B', as one step of the graph.

Parameters, names and files stay peft's; what changes is how a forward is computed: in the weights' own type, with no
activation kept twice, and projections of the same input (queries, keys, values; gate and up) in one product. Serves
plain linear bases with one active adapter; anything else keeps peft's forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn.functional import dropout, linear

from tunesmith.model.fused import how_made

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # projections of one input, in call order


class _LowRank(torch.autograd.Function):
    """Several adapted projections of one input; `parts` are a, b and scale of each, `weight` theirs one below another.

    x and noisy [..., in] (noisy is x after dropout), weight [sum of out, in], a [r, in], b [out, r] -> [..., out] each.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, noisy: Tensor, weight: Tensor, bias: Tensor | None, scales: Sequence[float], *ab: Tensor
    ) -> tuple[Tensor, ...]:
        a = torch.cat([t.to(x.dtype) for t in ab[::2]])
        b = [t.to(x.dtype) * scale for t, scale in zip(ab[1::2], scales, strict=True)]
        rows = x.reshape(-1, x.shape[-1])
        y = linear(rows, weight, bias)
        inner = linear(noisy.reshape(rows.shape), a)
        for part, low, up in zip(_split(y, b), inner.split([t.shape[1] for t in b], dim=1), b, strict=True):
            part.addmm_(low, up.T)
        ctx.again, sources = how_made(noisy)
        ctx.save_for_backward(inner, weight, a, *b, *sources)
        ctx.scales, ctx.same, ctx.shape = scales, noisy is x, x.shape
        return tuple(part.view(*x.shape[:-1], -1) for part in _split(y, b))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inner, weight, a, *rest = ctx.saved_tensors
        b, sources = rest[: len(ctx.scales)], rest[len(ctx.scales) :]
        noisy = ctx.again(*sources)
        flat = [g.reshape(-1, g.shape[-1]) for g in grads]
        lows = inner.split([t.shape[1] for t in b], dim=1)
        through = torch.cat([g @ up for g, up in zip(flat, b, strict=True)], dim=1)
        grad_a = (through.T @ noisy.reshape(-1, noisy.shape[-1])).float().split([t.shape[1] for t in b])
        grad_b = [(low.T @ g).T.float() * s for g, low, s in zip(flat, lows, ctx.scales, strict=True)]
        grad_x = grad_noisy = None
        if ctx.needs_input_grad[0]:
            grad_x = (flat[0] if len(flat) == 1 else torch.cat(flat, dim=1)) @ weight
            grad_x = (grad_x.addmm_(through, a) if ctx.same else grad_x).view(ctx.shape)
        if not ctx.same and ctx.needs_input_grad[1]:
            grad_noisy = (through @ a).view(ctx.shape)
        pairs = [g for pair in zip(grad_a, grad_b, strict=True) for g in pair]
        return grad_x, grad_noisy, None, None, None, *pairs


def _split(y: Tensor, b: Sequence[Tensor]) -> Sequence[Tensor]:
    return y.split([t.shape[0] for t in b], dim=1)


class _Siblings:
    """Adapted layers of one input. The first one's forward computes all; the others find theirs waiting."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = list(layers)
        bases = [layer.get_base_layer() for layer in layers]
        self.weight: Tensor = bases[0].weight.data
        if len(bases) > 1:  # one matrix, of which the layers' own weights become views: nothing is stored twice
            self.weight = torch.cat([base.weight.data for base in bases])
            for base, part in zip(bases, self.weight.split([len(b.weight) for b in bases]), strict=True):
                base.weight.data = part
        biases = [base.bias for base in bases]
        self.bias = torch.cat([b.data for b in biases]) if biases[0] is not None else None
        self.input: Tensor | None = None
        self.waiting: dict[int, Tensor] = {}

    def forward(self, layer: Any, x: Tensor) -> Tensor:
        if self.input is x and id(layer) in self.waiting:
            return self._take(layer)
        name = layer.active_adapters[0]
        rate = getattr(layer.lora_dropout[name], "p", 0.0)
        noisy = dropout(x, rate) if rate else x
        pairs = [w for each in self.layers for w in (each.lora_A[name].weight, each.lora_B[name].weight)]
        scales = tuple(each.scaling[name] for each in self.layers)
        outputs = _LowRank.apply(x, noisy, self.weight, self.bias, scales, *pairs)
        self.input = x
        self.waiting = {id(each): y for each, y in zip(self.layers, outputs, strict=True)}
        return self._take(layer)

    def _take(self, layer: Any) -> Tensor:
        y = self.waiting.pop(id(layer))
        if not self.waiting:
            self.input = None
        return y


def _forward(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    one = len(layer.active_adapters) == 1 and layer.active_adapters[0] in layer.lora_A
    if torch.is_autocast_enabled(x.device.type):  # it chooses types by itself
        one = False
    if not one or layer.disable_adapters or layer.merged or args or kwargs or not layer.training:
        return Linear.forward(layer, x, *args, **kwargs)
    return layer.siblings.forward(layer, x)


def use_fast_adapters(model: nn.Module) -> int:
    """Puts the fast forward on every adapted layer that it serves, instance by instance; returns how many."""
    served: set[int] = set()
    for parent in model.modules():
        for names in SIBLINGS:
            layers = [getattr(parent, name, None) for name in names]
            if all(_serves(layer) for layer in layers) and _alike(layers):
                _give(_Siblings(layers), served)
    for layer in model.modules():
        if _serves(layer) and id(layer) not in served:
            _give(_Siblings([layer]), served)
    return len(served)


def _give(siblings: _Siblings, served: set[int]) -> None:
    for layer in siblings.layers:
        layer.siblings = siblings
        layer.forward = MethodType(_forward, layer)
        served.add(id(layer))


def _serves(layer: Any) -> bool:
    if type(layer) is not Linear or type(layer.get_base_layer()) is not nn.Linear or layer.lora_variant:
        return False
    return not any(layer.lora_bias.get(name) for name in layer.lora_A)


def _alike(layers: Sequence[Any]) -> bool:
    """Whether they can go together: dropout draws its own noise for each layer, a bias must be everyone's."""
    bases = [layer.get_base_layer() for layer in layers]
    plain = not any(getattr(drop, "p", 0.0) for layer in layers for drop in layer.lora_dropout.values())
    frozen = not any(p.requires_grad for base in bases for p in base.parameters())
    return plain and frozen and len({base.bias is None for base in bases}) == 1
