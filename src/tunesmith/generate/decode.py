"""Contexts to new tokens, many rows at once: a row that ends leaves, and one that waits takes its place.

Whether a model can be asked in this way is tried, not assumed. Knows ids alone: no text, no conversations.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from tunesmith.generate.choose import Choice
from tunesmith.generate.slots import Slots, common_length, slot_attending

if TYPE_CHECKING:
    from tunesmith.config.schema import GenerationSection

ENTERING = 4096  # prompt tokens of one forward, unless a single prompt has more
KINDS = {"full_attention", "sliding_attention"}
MOVING = {"dynamic", "longrope"}  # rotations that depend on the longest row of a forward
# Share of the logits' spread. Wrong attention moves them by half of it or more, bfloat16 on odd tokens by a twentieth.
FORGIVEN = {torch.float32: 1e-3, torch.float64: 1e-6}
FORGIVEN_HALF = 0.2


@dataclass(frozen=True, slots=True)
class Written:
    """The new tokens of one context, the one that stopped included; `seconds` is its share of the time."""

    number: int
    ids: list[int]
    seconds: float


@dataclass(eq=False)
class _Row:
    """One answer under way."""

    number: int
    context: list[int]
    chance: torch.Generator
    new: list[int] = field(default_factory=list)
    seconds: float = 0.0


class Decoder:
    """Answers contexts with a model that is `slot_attending`, under one set of settings."""

    def __init__(self, model: Any, section: GenerationSection, stop_ids: frozenset[int]) -> None:
        self._section, self._stop_ids, self._choose = section, stop_ids, Choice(section)
        self._slots = Slots(model, section.batch_size, _windows(model))

    @torch.inference_mode()
    def answers(self, contexts: Sequence[list[int]], seeds: Sequence[int]) -> Iterator[Written]:
        """Each context's answer when it is done. The longest begin, so that those in work are of like length."""
        order = sorted(range(len(contexts)), key=lambda i: -len(contexts[i]))
        device = self._slots.device
        waiting = deque(_Row(i, contexts[i], torch.Generator(device).manual_seed(seeds[i])) for i in order)
        self._share(contexts)
        rows: list[_Row] = []
        while waiting or rows:
            began = time.monotonic()
            writing = len(rows)
            rows += self._entering(waiting, self._slots.count - writing)
            self._write(rows, writing)
            took = (time.monotonic() - began) / len(rows)
            for row in rows:
                row.seconds += took
            for row in self._leaving(rows):
                yield Written(row.number, row.new, row.seconds)

    def _entering(self, waiting: deque[_Row], room: int) -> list[_Row]:
        taken: list[_Row] = []
        tokens = 0
        while waiting and len(taken) < room and (not taken or tokens + len(waiting[0].context) <= ENTERING):
            taken.append(waiting.popleft())
            tokens += len(taken[-1].context)
            self._slots.take()
        return taken

    def _leaving(self, rows: list[_Row]) -> list[_Row]:
        """Takes the rows that are done out of `rows`, which stay in the order of their slots."""
        done = [r for r in rows if r.new[-1] in self._stop_ids or len(r.new) == self._section.max_new_tokens]
        for row in done:
            slot = rows.index(row)
            self._slots.free(slot)
            rows[slot] = rows[-1]
            rows.pop()
        return done

    def _share(self, contexts: Sequence[list[int]]) -> None:
        """Has what all contexts begin with computed, but for a token that each needs of its own to ask with."""
        shared = min(common_length(contexts), min(map(len, contexts)) - 1) if len(contexts) > 1 else 0
        self._slots.hold(contexts[0][:shared])

    def _write(self, rows: list[_Row], writing: int) -> None:
        """One more token for every row."""
        held = len(self._slots.prefix)
        logits = self._slots.forward([r.new[-1:] if r.new else r.context[held:] for r in rows], writing)
        if self._choose.plain:
            chosen = logits.argmax(-1).tolist()
        else:
            chosen = [int(self._chosen(row, logits[i : i + 1])) for i, row in enumerate(rows)]
        for row, token in zip(rows, chosen, strict=True):
            row.new.append(token)

    def _chosen(self, row: _Row, logits: Tensor) -> Tensor:
        return self._choose(torch.tensor([row.context + row.new], device=logits.device), logits, row.chance)


def _windows(model: Any) -> list[int | None]:
    """For each layer how many tokens it sees; None is all."""
    return [getattr(layer, "sliding_window", None) for layer in DynamicCache(config=model.config).layers]


@torch.inference_mode()
def can_decode(model: Any) -> bool:
    """Whether the model's state is keys and values alone, and it finds the same in slots as by itself."""
    if not _states_are_keys_and_values(model):
        return False
    n = model.config.vocab_size
    rows = [[(7 * i + 3 + (i > 5) * j) % n for i in range(8 + j)] for j in range(2)]  # they part behind the sixth
    wanted = [model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0] for ids in rows]
    try:
        with slot_attending(model):
            slots = Slots(model, 2, _windows(model))
            slots.hold(rows[0][:5])
            for _row in rows:
                slots.take()
            found = [slots.forward([ids[5:-1] for ids in rows], 0), slots.forward([ids[-1:] for ids in rows], 2)]
    except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError, LookupError):
        return False  # layers that know no slots, a head that gives all logits or none
    pairs = [(found[step][i], wanted[i][step - 2]) for step in range(2) for i in range(2)]
    apart = [(a.float() - b.float()).norm() / (b.float() - b.float().mean()).norm() for a, b in pairs]
    return bool(max(apart) <= FORGIVEN.get(model.dtype, FORGIVEN_HALF))


def _states_are_keys_and_values(model: Any) -> bool:
    config = model.config
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {part.get("rope_type") for part in (rope, *rope.values()) if isinstance(part, dict)}
    return (
        all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in DynamicCache(config=config).layers)
        and set(getattr(config, "layer_types", None) or ()) <= KINDS
        and config.get_text_config() is config
        and not kinds & MOVING
        and model._can_set_attn_implementation()
    )
