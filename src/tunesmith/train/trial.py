"""Step 0: the largest batch of a run, forward and backward, before the first step; nothing of it stays.

Shows what a batch costs on this machine, and that it fits, before hours are spent. Gradients are thrown away and the
random state is put back, so that a run with a trial and one without are the same run.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from tunesmith.i18n import _
from tunesmith.model.trunk import Trunk
from tunesmith.train import memory
from tunesmith.train.batch import Batch

if TYPE_CHECKING:
    from tunesmith.train.loop import Loop
    from tunesmith.train.plan import Row


@dataclass(frozen=True)
class Trial:
    """What the largest batch took. `seconds` hold what a machine does once for a new shape; `peak` in bytes is the
    process's (on a GPU the GPU's), with the optimizer's state that the first step will add."""

    tokens: int
    targets: int
    seconds: float
    peak: int


def rehearse(loop: Loop, step: int) -> Trial:
    """Tries the largest batch of step `step` (from 0). Raises memory.Full where it does not fit."""
    device, rows = loop.accelerator.device, [loop.rows[i] for i in loop.plan.conversations(step)]
    shared, batches = loop.batches(rows)
    largest = max(batches, key=lambda batch: loop.batch(batch).input_ids.numel())
    loop.model.train()
    started = time.monotonic()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            batch = _pass(loop, shared, largest)
        except (MemoryError, RuntimeError) as error:
            if not memory.ran_out(error):
                raise
            text = _("The largest batch ({n} tokens) does not fit into memory.")
            raise memory.Full(text.format(n=loop.batch(largest).input_ids.numel())) from error
    seconds = round(time.monotonic() - started, 3)
    loop.engine.forget()
    return Trial(
        tokens=batch.input_ids.numel() + len(shared),
        targets=len(batch.target),
        seconds=seconds,
        peak=memory.peak(device) + _state_to_come(loop),
    )


def _pass(loop: Loop, shared: list[int], rows: list[Row]) -> Batch:
    trunk = Trunk(shared) if shared else None
    if trunk:
        loop.model(Batch.of_trunk(trunk, loop.accelerator.device, fast=loop.fast))
    batch = loop.batch(rows, trunk)
    with loop.engine.part(last=True):
        loop.engine.backward(loop.model(batch)[0])
    if trunk:
        trunk.backward()
    return batch


def _state_to_come(loop: Loop) -> int:
    """Bytes of AdamW's two moments, where they do not lie there already."""
    trained = [p for group in loop.optimizer.param_groups for p in group["params"]]
    return sum(2 * p.numel() * p.element_size() for p in trained) if not loop.optimizer.state else 0
