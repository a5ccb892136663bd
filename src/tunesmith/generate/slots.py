"""Where rows stand while they are written: the keys and values of each in a slot, and attention over them.

Goes in through transformers' attention interface in the place of its cache: the tokens of all rows are one flat row,
nothing is padded but what attention reads, and what all rows begin with is computed once. Slots are filled from the
left, so a row is computed in the same way whatever stands beside it. Knows nothing of how tokens are chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "tunesmith_slots"
# Whatever stands beside a row, its sums have one order if keys and queries come in whole blocks, and no product has
# so few rows that the library takes another way.
KEYS, QUERIES = 64, 32

LEAST = 4  # tokens of a forward


@dataclass(frozen=True)
class Part:
    """Tokens of one forward that belong to a slot: the slot, its place among the forward's tokens, its first depth."""

    slot: int
    start: int
    stop: int
    depth: int


class Slots:
    """So many rows at once; slots below `writing` get one token in a step, those behind them come in with many."""

    def __init__(self, model: Any, count: int, windows: Sequence[int | None]) -> None:
        self._model, self.count, self._windows = model, count, windows
        self.device: torch.device = model.device
        self.lengths: list[int] = []  # tokens in each slot that is taken
        self.prefix: list[int] = []  # what every slot begins with
        self._keys: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}
        self._width = 0

    def hold(self, prefix: list[int]) -> None:
        """What the next rows begin with; computed whole: it never depends on the rows before. No slot is taken."""
        if prefix == self.prefix:
            return
        self.prefix = prefix
        if not prefix:
            return
        self.lengths = [0]
        self.forward([prefix], writing=0)
        for store in (*self._keys.values(), *self._values.values()):
            store[1:, :, : len(prefix)] = store[:1, :, : len(prefix)]
        self.lengths = []

    def take(self) -> None:
        """One more slot, behind the others; its row goes on behind the prefix."""
        self.lengths.append(len(self.prefix))

    def free(self, slot: int) -> None:
        """Gives a slot up; the last one moves to its place."""
        last, begin = len(self.lengths) - 1, len(self.prefix)
        length = self.lengths.pop()
        if slot != last:
            self.lengths[slot] = length
            for store in (*self._keys.values(), *self._values.values()):
                store[slot, :, begin:length] = store[last, :, begin:length]

    def forward(self, tokens: Sequence[list[int]], writing: int) -> Tensor:
        """The next tokens of every slot -> logits [slots, vocabulary] behind the last of each.

        The first `writing` slots have one token each.
        """
        parts: list[Part] = []
        flat: list[int] = []
        depths: list[int] = []
        for slot, (ids, depth) in enumerate(zip(tokens, self.lengths, strict=True)):
            parts.append(Part(slot, len(flat), len(flat) + len(ids), depth))
            flat += ids
            depths += range(depth, depth + len(ids))
        self.lengths = [part.depth + part.stop - part.start for part in parts]
        self._widen(max(self.lengths))
        step = Step(self, parts, writing, depths)
        idle = [0] * (LEAST - len(flat))  # tokens that no slot has
        output = self._model(
            input_ids=torch.tensor([flat + idle], device=self.device),
            position_ids=torch.tensor([depths + idle], device=self.device),
            use_cache=False,
            logits_to_keep=torch.tensor([part.stop - 1 for part in parts], device=self.device),
            slots=step,
        )
        return output.logits[0]

    def store(self, layer: int, key: Tensor, value: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """New keys and values [kv_heads, tokens, d] into their slots -> the layer's [slots, kv_heads, width, d]."""
        kept = []
        for stores, new in ((self._keys, key), (self._values, value)):
            if layer not in stores:
                stores[layer] = new.new_zeros(self.count, new.shape[0], self._width, new.shape[2])
            stores[layer][step.slot.to(new.device), :, step.depth.to(new.device)] = new.transpose(0, 1)[
                : len(step.slot)
            ]
            kept.append(stores[layer])
        return kept[0], kept[1]

    def window(self, layer: int) -> int | None:
        return self._windows[layer]

    def _widen(self, needed: int) -> None:
        if needed <= self._width:
            return
        self._width = _blocks(max(needed, self._width + self._width // 2))
        for stores in (self._keys, self._values):
            for layer, old in stores.items():
                stores[layer] = old.new_zeros(*old.shape[:2], self._width, old.shape[3])
                stores[layer][:, :, : old.shape[2]] = old


class Step:
    """One forward's tokens and who of them sees what; the same for all layers."""

    def __init__(self, slots: Slots, parts: Sequence[Part], writing: int, depths: list[int]) -> None:
        self.slots, self.writing, self.entering = slots, writing, parts[writing:]
        self.slot = torch.tensor([part.slot for part in parts for _ in range(part.start, part.stop)])
        self.depth = torch.tensor(depths)
        self.seen = _blocks(max(slots.lengths[:writing], default=0))
        self._masks: dict[Any, Tensor | None] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """query [heads, tokens, d], key and value [kv_heads, tokens, d] -> [tokens, heads, d]."""
        keys, values = self.slots.store(layer, key, value, self)
        window, m = self.slots.window(layer), self.writing
        found = []
        if m:  # heads that share keys are queries of one product
            q = query[:, :m].unflatten(0, (key.shape[0], -1)).permute(2, 0, 1, 3)
            k, v = keys[:m, :, : self.seen], values[:m, :, : self.seen]
            mask = self._mask(self.depth[:m, None, None, None], self.seen, window, query, "writing")
            found.append(scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).flatten(1, 2))
        found += [self._enter(part, query, keys, values, window, scale) for part in self.entering]
        idle = query.shape[1] - len(self.slot)
        if idle:
            found.append(query.new_zeros(idle, query.shape[0], value.shape[-1]))
        return found[0] if len(found) == 1 else torch.cat(found)

    def _enter(
        self, part: Part, query: Tensor, keys: Tensor, values: Tensor, window: int | None, scale: float | None
    ) -> Tensor:
        """The many tokens of a slot that comes in -> [its tokens, heads, d]."""
        n, seen, kv = part.stop - part.start, _blocks(part.depth + part.stop - part.start), keys.shape[1]
        k, v = (s[part.slot, :, None, :seen].expand(-1, len(query) // kv, -1, -1) for s in (keys, values))
        q = _filled(query[:, part.start : part.stop].unflatten(0, (kv, -1)), -2)
        depth = _filled(self.depth[part.start : part.stop], -1)
        mask = self._mask(depth[:, None], seen, window, query, part)
        found = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
        return found.flatten(0, 1)[:, :n].transpose(0, 1)

    def _mask(self, depth: Tensor, seen: int, window: int | None, like: Tensor, name: object) -> Tensor | None:
        """What queries at `depth` see of the first `seen` keys, to be added to scores; None where that is all."""
        if (name, window) not in self._masks:
            key = torch.arange(seen)
            hidden = key > depth
            if window is not None:
                hidden |= key <= depth - window
            mask = torch.zeros(hidden.shape, dtype=like.dtype).masked_fill_(hidden, float("-inf"))
            self._masks[name, window] = mask.to(like.device) if bool(hidden.any()) else None
        return self._masks[name, window]


def _filled(states: Tensor, dim: int) -> Tensor:
    """With its first entry again and again behind the last, up to whole blocks."""
    n = states.shape[dim]
    idle = states.narrow(dim, 0, 1).expand(*states.shape[:dim], _blocks(n, QUERIES) - n, *states.shape[dim:][1:])
    return torch.cat([states, idle], dim)


def slot_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    slots: Step,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """As transformers calls it: query [1, heads, n, d], key and value [1, kv_heads, n, d] -> [1, n, heads, d]."""
    if softcap is not None or s_aux is not None:
        raise NotImplementedError("scores with a cap or with sinks")
    return slots.attend(module.layer_idx, query[0], key[0], value[0], scaling)[None], None


AttentionInterface.register(NAME, slot_attention)
AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)


def _blocks(tokens: int, block: int = KEYS) -> int:
    return -(-tokens // block) * block


@contextmanager
def slot_attending(model: nn.Module) -> Iterator[None]:
    """The model's layers attend over slots; as they were afterwards."""
    causal: Any = model
    before = causal.config._attn_implementation
    causal.set_attn_implementation(NAME)
    try:
        yield
    finally:
        causal.set_attn_implementation(before)


def common_length(rows: Sequence[list[int]]) -> int:
    """How many tokens all rows begin with."""
    first, last = min(rows), max(rows)  # the two that differ first in the order of words
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
