"""Attention by paths in few large products: runs of like size go together, padded, and scores are never kept.

The fast form of what attention.py says run by run; forward and backward are written out, because the library's
backward costs more per call than such small blocks are worth. Serves scaled softmax attention without caps and sinks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tunesmith.model.paths import Group


def path_attention(query: Tensor, key: Tensor, value: Tensor, over: list[Group], scale: float) -> Tensor:
    """query [heads, n, d], key and value [kv_heads, n, d] -> [n, heads, d]."""
    return _PathAttention.apply(query, key, value, over, scale)


class _PathAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, over: list[Group], scale: float) -> Tensor:
        heads, n, _d = query.shape
        rows = [t.transpose(0, 1).contiguous() for t in (query, key, value)]  # token first: gathering is copying rows
        out = torch.empty(n, heads, value.shape[-1], dtype=query.dtype, device=query.device)
        for group in over:
            q, k, v = _gathered(rows, group)
            shares = _shares(q, k, group, scale).to(q.dtype)
            _put(out, _from_heads(torch.bmm(shares, v), group, heads), group)
        ctx.save_for_backward(*rows, out)
        ctx.over, ctx.scale = over, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out = ctx.saved_tensors
        _n, heads, _d = query.shape
        grad = grad.contiguous()
        grads = torch.empty_like(query), *(torch.zeros_like(t, dtype=torch.float32) for t in (key, value))
        drawn = (grad * out).sum(-1, dtype=torch.float32)  # [n, heads]: what normalising takes back
        for group in ctx.over:
            q, k, v = _gathered((query, key, value), group)
            g = _to_kv_heads(grad[group.queries], key.shape[1])
            shares = _shares(q, k, group, ctx.scale)
            if group.real is not None:
                shares.mul_(_real(group, shares))
            back = torch.bmm(g, v.transpose(1, 2)).float()
            taken = _to_kv_heads(drawn[group.queries][..., None], key.shape[1])
            inner = back.sub_(taken).mul_(shares).mul_(ctx.scale).to(q.dtype)
            _put(grads[0], _from_heads(torch.bmm(inner, k), group, heads), group)
            _add(grads[1], torch.bmm(inner.transpose(1, 2), q), group)
            _add(grads[2], torch.bmm(shares.to(q.dtype).transpose(1, 2), g), group)
        back_to_heads = [g.to(query.dtype).transpose(0, 1) for g in grads]
        return *back_to_heads, None, None


def _gathered(rows: Sequence[Tensor], group: Group) -> tuple[Tensor, Tensor, Tensor]:
    """q [b * kv, g * w, d], k and v [b * kv, s, d]."""
    query, key, value = rows
    kv = key.shape[1]
    k, v = (t[group.keys].transpose(1, 2).flatten(0, 1) for t in (key, value))
    return _to_kv_heads(query[group.queries], kv), k, v


def _to_kv_heads(rows: Tensor, kv: int) -> Tensor:
    """[b, w, heads, d] -> [b * kv, g * w, d]: the heads that share keys become rows of one product."""
    b, w, heads, d = rows.shape
    return rows.view(b, w, kv, heads // kv, d).permute(0, 2, 3, 1, 4).reshape(b * kv, heads // kv * w, d)


def _from_heads(rows: Tensor, group: Group, heads: int) -> Tensor:
    """[b * kv, g * w, d] -> [b * w, heads, d]."""
    b, w = group.queries.shape
    kv = rows.shape[0] // b
    return rows.view(b, kv, heads // kv, w, -1).permute(0, 3, 1, 2, 4).reshape(b * w, heads, -1)


def _shares(q: Tensor, k: Tensor, group: Group, scale: float) -> Tensor:
    """What each query takes of each key, fp32 [b * kv, g * w, s]."""
    b, w = group.queries.shape
    scores = torch.bmm(q, k.transpose(1, 2)).float().mul_(scale)
    scores.view(b, -1, w, k.shape[1]).masked_fill_(~group.mask, float("-inf"))
    return scores.softmax(-1)


def _real(group: Group, like: Tensor) -> Tensor:
    """1 for real queries, 0 for padding, for the rows of `like` [b * kv, g * w, s]."""
    b, w = group.queries.shape
    assert group.real is not None
    keep = torch.zeros(b * w, dtype=like.dtype, device=like.device)
    keep[group.real] = 1
    return keep.view(b, 1, 1, w).expand(b, like.shape[0] // b, like.shape[1] // w, w).reshape(*like.shape[:2], 1)


def _put(out: Tensor, rows: Tensor, group: Group) -> None:
    tokens = group.queries.flatten()
    if group.real is not None:
        tokens, rows = tokens[group.real], rows[group.real]
    out[tokens] = rows


def _add(total: Tensor, rows: Tensor, group: Group) -> None:
    """Adds [b * kv, s, d] to the keys' tokens; many runs share them, so the sum is fp32."""
    b, s = group.keys.shape
    total.index_add_(0, group.keys.flatten(), rows.view(b, -1, s, rows.shape[-1]).transpose(1, 2).flatten(0, 1).float())
