"""What the numbers of a step tell: rows whose loss is no number, a loss far above the usual, a machine out of memory.

Says it with rows and places. What to do about it is the loop's and the user's decision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

import torch

from tunesmith import rundir
from tunesmith.errors import RunError
from tunesmith.i18n import _
from tunesmith.train import memory

if TYPE_CHECKING:
    from tunesmith.train.loop import Loop
    from tunesmith.train.plan import Row

SHOWN = 8  # rows that a sentence names
USUAL, FEW = 32, 8  # losses that say what is usual, and how many of them it takes


def is_spike(before: Sequence[float], loss: float) -> bool:
    """Whether a loss lies far above those before: twice their median, and eight times their usual distance from it."""
    if len(before) < FEW:
        return False
    middle = median(before)
    return loss > max(2 * middle, middle + 8 * median(abs(other - middle) for other in before))


def not_finite(loop: Loop, rows: Sequence[Row], step: int, norm: float) -> RunError:
    """For a step (from 0) that was not taken, since its loss or gradient is no finite number."""
    text = _(
        "The loss or the gradient (norm {norm}) of step {step} is not a finite number; the step was not taken. Rows:"
        " {rows}. Learning rate {rate:.2e}. Last good checkpoint: {checkpoint}. Try a lower training.learning_rate, or"
        " look at these rows."
    )
    rate = loop.optimizer.param_groups[0]["lr"]
    told = {"rows": places(_culprits(loop, rows) or rows), "rate": rate, "checkpoint": _last(loop)}
    return RunError(text.format(norm=norm, step=step + 1, **told), place=str(loop.run))


def refuse_broken_weights(loop: Loop) -> None:
    """Raises RunError where a step left weights that are no finite numbers: they are never written."""
    if all(bool(torch.isfinite(p).all()) for p in loop.trainee.model.parameters() if p.requires_grad):
        return
    text = _(
        "Step {step} left weights that are not finite numbers; they are not saved. Learning rate {rate:.2e}. Last good"
        " checkpoint: {checkpoint}. Try a lower training.learning_rate."
    )
    rate = loop.optimizer.param_groups[0]["lr"]
    told = text.format(step=loop.state.step, rate=rate, checkpoint=_last(loop))
    raise RunError(told, place=str(loop.run))


def no_room(loop: Loop, rows: Sequence[Row], step: int) -> memory.Full:
    """For a step (from 0) that did not fit into memory."""
    text = _("Step {step} does not fit into memory. Its rows: {rows}. Last good checkpoint: {checkpoint}.")
    return memory.Full(text.format(step=step + 1, rows=places(rows), checkpoint=_last(loop)), place=str(loop.run))


def places(rows: Sequence[Row]) -> str:
    more = _(", and {n} more").format(n=len(rows) - SHOWN) if len(rows) > SHOWN else ""
    return ", ".join(row.place for row in rows[:SHOWN]) + more


@torch.no_grad()
def _culprits(loop: Loop, rows: Sequence[Row]) -> list[Row]:
    """The rows whose own loss is no number; none where all are (a gradient may overflow on its own), or where a rank
    alone can't compute."""
    if loop.accelerator.num_processes > 1:
        return []
    return [row for row in rows if row.weight and not math.isfinite(loop.trainee(loop.batch([row]))[0].item())]


def _last(loop: Loop) -> str:
    last = rundir.latest(loop.run)
    return last.path.name if last else _("none")
