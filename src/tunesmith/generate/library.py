"""Batches through transformers' own `generate`: for models whose state is more than keys and values."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from tunesmith.config.schema import GenerationSection
from tunesmith.generate.choose import as_library_settings
from tunesmith.generate.decode import Written


def answers(
    model: Any,
    contexts: Sequence[list[int]],
    seeds: Sequence[int],
    section: GenerationSection,
    stop_ids: frozenset[int],
    pad_id: int,
) -> Iterator[Written]:
    """As `Decoder.answers`, but rows of a batch end together, and their draws depend on it."""
    order = sorted(range(len(contexts)), key=lambda i: -len(contexts[i]))
    for first in range(0, len(order), section.batch_size):
        rows = order[first : first + section.batch_size]
        began = time.monotonic()
        model.generation_config = as_library_settings(section, stop_ids, pad_id)  # else the model's own would fill in
        with _seeded(seeds[rows[0]], model.device, section.do_sample):
            new = _generate(model, [contexts[i] for i in rows], pad_id)
        seconds = (time.monotonic() - began) / len(rows)
        for i, ids in zip(rows, new, strict=True):
            yield Written(i, _through_stop(ids, stop_ids), seconds)


@torch.inference_mode()
def _generate(model: Any, contexts: list[list[int]], pad_id: int) -> list[list[int]]:
    """Padding stands left, is masked, and takes up no position."""
    width = max(map(len, contexts))
    padded = [[pad_id] * (width - len(ids)) + ids for ids in contexts]
    mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in contexts]
    given = {"input_ids": padded, "attention_mask": mask}
    written = model.generate(**{name: torch.tensor(rows, device=model.device) for name, rows in given.items()})
    return written[:, width:].tolist()


@contextmanager
def _seeded(seed: int, device: torch.device, draws: bool) -> Iterator[None]:
    """Draws of this block start from `seed`; whoever else draws by chance, such as a training, notices nothing."""
    with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=draws):
        if draws:
            torch.manual_seed(seed)
        yield


def _through_stop(ids: list[int], stop_ids: frozenset[int]) -> list[int]:
    """A row of a batch without what pads it after its end."""
    end = next((i + 1 for i, token in enumerate(ids) if token in stop_ids), len(ids))
    return ids[:end]
