"""Attention over a forest: every token sees its path and nothing else, at the cost of the paths alone.

Goes in through transformers' attention interface, so that a family's own layers stay as they are; a call without a
forest (generation, plain rows) is transformers' own. Knows how tokens see each other, not what is trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tunesmith.model.path_attention import LONGEST_RUN, Group, groups, path_attention
from tunesmith.tokens.forest import Forest

NAME = "tunesmith_forest"
_in_forest: ContextVar[bool] = ContextVar("in_forest", default=False)


@dataclass(frozen=True)
class Block:
    """Queries [start, stop) against the keys of `ranges`; `mask` [queries, keys] is True where a key is seen.

    Without a mask the block is causal in itself and has nothing above it.
    """

    start: int
    stop: int
    ranges: tuple[tuple[int, int], ...]
    mask: Tensor | None


@dataclass
class Paths:
    """What each token of a forest sees, as blocks; made once and used by all layers (one list for each window)."""

    forest: Forest
    device: torch.device
    fast: bool = True
    _blocks: dict[int | None, list[Block]] = field(default_factory=dict)
    _groups: dict[int | None, list[Group]] = field(default_factory=dict)

    def groups(self, window: int | None) -> list[Group]:
        """The same for attention in few large products."""
        if window not in self._groups:
            paths = []
            for i, run in enumerate(self.forest.runs):
                above = [torch.arange(a, b) for a, b in self.forest.path_of_run(i)]
                for start in range(run.start, run.stop, LONGEST_RUN):
                    stop = min(start + LONGEST_RUN, run.stop)
                    paths.append((torch.cat([*above, torch.arange(run.start, stop)]), stop - start))
            self._groups[window] = groups(paths, window)
        return self._groups[window]

    def blocks(self, window: int | None) -> list[Block]:
        if window not in self._blocks:
            self._blocks[window] = [self._block(i, window) for i in range(len(self.forest.runs))]
        return self._blocks[window]

    def _block(self, index: int, window: int | None) -> Block:
        run = self.forest.runs[index]
        above = self.forest.path_of_run(index)
        length, before = run.stop - run.start, sum(b - a for a, b in above)
        if before == 0 and (window is None or length <= window):
            return Block(run.start, run.stop, ((run.start, run.stop),), None)
        # depth, not place in the row, is what a causal or sliding window counts
        query = torch.arange(before, before + length, device=self.device)[:, None]
        key = torch.arange(before + length, device=self.device)
        mask = key <= query
        if window is not None:
            mask &= key > query - window
        if above and above[-1][1] == run.start:
            ranges = (*above[:-1], (above[-1][0], run.stop))
        else:
            ranges = (*above, (run.start, run.stop))
        return Block(run.start, run.stop, ranges, mask)


def forest_attention(
    module: nn.Module,
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
    if paths.fast and not by_hand and query.device.type == "cpu":
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return path_attention(query[0], key[0], value[0], paths.groups(sliding_window), scale)[None], None
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
