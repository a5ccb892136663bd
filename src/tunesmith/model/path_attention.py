"""Attention by paths in few large products: runs of like size go together, padded, and no scores are kept.

The fast form of what attention.py says run by run; forward and backward are written out, because the library's
backward costs more per call than such small blocks are worth. Serves scaled softmax attention without caps and sinks.
Rows are (token, head) pairs, token first; a group says which of them it asks and which it sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, _softmax_backward_data

from tunesmith.model.paths import Group


def path_attention(
    query: Tensor, key: Tensor, value: Tensor, over: Sequence[Group], scale: float, keep: bool
) -> Tensor:
    """query [heads, n, d], key and value [kv_heads, tokens seen, d] -> [n, heads, d].

    `keep`: the shares are kept for the backward, which else makes them again in a fourth of its time.
    """
    return _PathAttention.apply(query, key, value, over, scale, keep)


class _PathAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, over: Sequence[Group], scale: float, keep: bool
    ) -> Tensor:
        heads, n, _d = query.shape
        rows = _rows(query, padding=True).mul_(scale), _rows(key), _rows(value)
        out = rows[0].new_empty((n + 1) * heads, value.shape[-1])
        kept = []
        for group in over:
            q, k, v = _taken(rows, group)
            shares = _shares(q, k, group)
            _put(out, torch.bmm(shares, v), group)
            kept.append(shares if keep else None)
        out = out[: n * heads].view(n, heads, -1)
        ctx.save_for_backward(*rows, *kept)
        ctx.over, ctx.scale, ctx.kv = over, scale, key.shape[0]
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        rows, kept = saved[:3], saved[3:]
        n, heads, _d = grad.shape
        grad = _rows(grad.transpose(0, 1), padding=True)
        to_query = torch.empty_like(rows[0])
        to_key, to_value = (torch.zeros(t.shape, dtype=torch.float32, device=t.device) for t in rows[1:])
        for group, shares in zip(ctx.over, kept, strict=True):
            q, k, v = _taken(rows, group)
            g = grad.index_select(0, group.queries.flatten()).view(q.shape[0], q.shape[1], -1)
            shares = _shares(q, k, group) if shares is None else shares
            inner = _softmax_backward_data(torch.bmm(g, v.transpose(1, 2)), shares, -1, shares.dtype)
            _put(to_query, torch.bmm(inner, k), group)
            _add(to_key, torch.bmm(inner.transpose(1, 2), q), group)
            _add(to_value, torch.bmm(shares.transpose(1, 2), g), group)
        to_query = to_query[: n * heads].mul_(ctx.scale).view(n, heads, -1)
        to_key, to_value = (t.to(grad.dtype).view(-1, ctx.kv, t.shape[-1]) for t in (to_key, to_value))
        return *(t.transpose(0, 1) for t in (to_query, to_key, to_value)), None, None, None


def _rows(states: Tensor, padding: bool = False) -> Tensor:
    """[heads, n, d] -> [n * heads, d]; `padding` appends the zeros that padded queries read and write."""
    states = states.transpose(0, 1)
    if padding:
        states = torch.cat([states, states.new_zeros(1, *states.shape[1:])])
    return states.reshape(-1, states.shape[-1])


def _taken(rows: Sequence[Tensor], group: Group) -> list[Tensor]:
    """q [b * kv, g * w, d], k and v [b * kv, s, d]: the heads that share keys are rows of one product."""
    where = (group.queries, group.keys, group.keys)
    return [t.index_select(0, w.flatten()).view(*w.shape, -1) for t, w in zip(rows, where, strict=True)]


def _shares(q: Tensor, k: Tensor, group: Group) -> Tensor:
    """What each query takes of each key, [b * kv, g * w, s]: the softmax is in fp32, its result in the type of q."""
    scores = torch.bmm(q, k.transpose(1, 2)).float()
    b, _one, w, s = group.bias.shape
    scores.view(b, -1, w, s).add_(group.bias)
    return scores.softmax(-1).to(q.dtype)


def _put(total: Tensor, rows: Tensor, group: Group) -> None:
    total.index_copy_(0, group.queries.flatten(), rows.flatten(0, 1))


def _add(total: Tensor, rows: Tensor, group: Group) -> None:
    """Many runs share a key, so the sum is fp32."""
    total.index_add_(0, group.keys.flatten(), rows.flatten(0, 1).float())
