"""Attention over a forest: every token sees its path and nothing else, at the cost of the paths alone.

Goes in through transformers' attention interface, so that a family's own layers stay as they are; a call without a
forest (generation, plain rows) is transformers' own. Knows how tokens see each other, not what is trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tunesmith.model.path_attention import path_attention
from tunesmith.model.paths import Paths

NAME = "tunesmith_forest"
_in_forest: ContextVar[bool] = ContextVar("in_forest", default=False)


def forest_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    paths: Paths | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query [1, heads, n, d], key and value [1, kv_heads, n, d] -> [1, n, heads, d]. `s_aux` [heads] are sinks."""
    by_hand = softcap is not None or s_aux is not None  # SDPA knows neither
    if paths is None:
        if by_hand:
            return _by_hand(query, key, value, attention_mask, scaling, softcap, s_aux).transpose(1, 2), None
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if paths.trunk is not None:
        if paths.above:
            key, value = paths.trunk.before(module.layer_idx, key, value)
        else:
            paths.trunk.keep(module.layer_idx, key, value)
    if paths.fast and not by_hand and query.device.type == "cpu":
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        groups = paths.groups(sliding_window, query.shape[1], key.shape[1])
        shares = sum(group.bias.numel() for group in groups) * query.shape[1] * query.element_size()
        keep = paths.keeps(id(module), shares)
        return path_attention(query[0], key[0], value[0], groups, scale, keep)[None], None
    outputs = []
    for block in paths.blocks(sliding_window):
        q = query[:, :, block.start : block.stop]
        k, v = _gather(key, block.ranges), _gather(value, block.ranges)
        if by_hand:
            outputs.append(_by_hand(q, k, v, block.mask, scaling, softcap, s_aux))
        else:
            outputs.append(
                scaled_dot_product_attention(
                    q,
                    k,
                    v,
                    attn_mask=block.mask,
                    is_causal=block.mask is None,
                    scale=scaling,
                    enable_gqa=q.shape[1] != k.shape[1],
                )
            )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _gather(states: Tensor, ranges: tuple[tuple[int, int], ...]) -> Tensor:
    if len(ranges) == 1:
        return states[:, :, ranges[0][0] : ranges[0][1]]
    return torch.cat([states[:, :, a:b] for a, b in ranges], dim=2)


def _by_hand(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float | None, softcap: float | None, sinks: Any
) -> Tensor:
    """Attention with capped scores or with sinks, which take their share of the softmax over the whole path."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = q @ k.transpose(2, 3) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is None:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril(k.shape[2] - q.shape[2])
    scores = scores.masked_fill(~mask, float("-inf"))
    if sinks is None:
        return scores.softmax(-1, dtype=torch.float32).to(q.dtype) @ v
    sink = sinks.reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1).to(scores.dtype)
    shares = torch.cat([scores, sink], dim=-1).softmax(-1, dtype=torch.float32)
    return shares[..., :-1].to(q.dtype) @ v


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    return None if _in_forest.get() else sdpa_mask(*args, **kwargs)


AttentionInterface.register(NAME, forest_attention)
AttentionMaskInterface.register(NAME, _mask)


def use_forest_attention(model: Any) -> None:
    """Lets every layer of a transformers model take a forest; calls without one go on as before."""
    model.set_attn_implementation(NAME)


@contextmanager
def no_dense_mask() -> Iterator[None]:
    """While the model's forward runs on a forest: its n x n mask is not made, blocks say who sees whom."""
    token = _in_forest.set(True)
    try:
        yield
    finally:
        _in_forest.reset(token)
