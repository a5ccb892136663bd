"""What a run is made of: its rows, which of them a step holds, what the loop remembers, whom it tells.

Values and arithmetic alone: nothing here computes with a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tunesmith.model.plan import Load
from tunesmith.tokens.answer import Answer
from tunesmith.tokens.forest import common_beginning, grow, one_path

if TYPE_CHECKING:
    from torch import nn

    from tunesmith.config.schema import TrainingSection

AT_ONCE = 1024  # computed tokens: more of them make no product faster, and each keeps its activations
LOOKED_AT = 48  # steps from which the cost of all steps is told
WORTH = 256  # tokens that a pass of its own for what a step's answers begin with must save


@dataclass(frozen=True)
class Row:
    """A conversation ready to train: its answers, and where it came from for messages (file:line)."""

    answers: tuple[Answer, ...]
    place: str = ""

    @property
    def weight(self) -> float:
        return sum(sum(a.weights) for a in self.answers)


@dataclass(frozen=True)
class Chooser:
    """The figure that says which checkpoint is best, as a record of the metrics names it."""

    metric: str
    greater_is_better: bool

    @classmethod
    def of(cls, section: TrainingSection) -> Chooser:
        name = section.metric_for_best_model or "loss"
        name = name if name.startswith("eval_") else f"eval_{name}"
        greater = section.greater_is_better
        return cls(name, not name.endswith(("loss", "perplexity")) if greater is None else greater)


@dataclass
class State:
    """What the loop knows and a checkpoint keeps. Losses are sums of weight x loss, with their weights beside them.

    `value` is what this step's evaluation found of `metric`, by which the best checkpoint is chosen.
    """

    step: int = 0
    epoch: float = 0.0
    loss: float | None = None
    eval_loss: float | None = None
    metric: str = "eval_loss"
    greater_is_better: bool = False
    value: float | None = None
    best_value: float | None = None
    evaluations_without_gain: int = 0
    pending_loss: float = 0.0
    pending_weight: float = 0.0
    pending_tokens: int = 0
    written: list[int] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, chooser: Chooser, stored: Mapping[str, Any] = MappingProxyType({})) -> State:
        """A new state, or one that a checkpoint kept; what was best by another figure says nothing by this one."""
        known = {("best_value" if key == "best_eval_loss" else key): value for key, value in stored.items()}
        state = cls(**known)
        if (state.metric, state.greater_is_better) != (chooser.metric, chooser.greater_is_better):
            state.value, state.best_value, state.evaluations_without_gain = None, None, 0
        state.metric, state.greater_is_better = chooser.metric, chooser.greater_is_better
        return state

    def measured(self, record: Mapping[str, float]) -> None:
        """Takes in what an evaluation found. A figure that is no finite number is never the best."""
        self.eval_loss, self.value = record.get("eval_loss"), record.get(self.metric)
        if self.value is None:
            return
        best = self.best_value
        gain = best is None or (self.value > best if self.greater_is_better else self.value < best)
        if math.isfinite(self.value) and gain:
            self.best_value, self.evaluations_without_gain = self.value, 0
        else:
            self.evaluations_without_gain += 1

    def is_over(self, patience: int | None) -> bool:
        """Whether as many evaluations as that brought no gain."""
        return patience is not None and self.evaluations_without_gain >= patience

    @property
    def is_best(self) -> bool:
        """Whether this step's evaluation found more than every one before."""
        return self.value is not None and self.evaluations_without_gain == 0


@dataclass(frozen=True)
class Hooks:
    """What the loop tells others, and what it asks of them."""

    progress: Callable[[dict[str, Any]], None] = lambda event: None
    saved: Callable[[Path], None] = lambda checkpoint: None
    write_extra: Callable[[Path], None] = lambda folder: None
    evaluators: Sequence[Callable[[nn.Module, int], dict[str, float]]] = ()
    stop: Callable[[], bool] = lambda: False


def cut(
    rows: Sequence[Row], size: int, budget: int, *, forest: bool = True, trunk: bool = True
) -> tuple[list[int], list[list[Row]]]:
    """A step's rows in batches that are computed at once: at most `size` rows, about `budget` computed tokens.

    Rows that begin alike come together, so that what they share is computed once. What they all begin with comes
    first, where that saves enough: it is computed once for all batches, and counts in none of them. Without a forest
    nothing is shared: every answer is a row of its own, and padding counts.
    """
    if not forest:
        return [], _cut_padded(rows, size, budget)
    if trunk:
        shared = common_beginning([a for row in rows for a in row.answers])
        batches = _cut(rows, size, budget, shared)
        if len(shared) * (len(batches) - 1) >= WORTH:
            return shared, batches
    return [], _cut(rows, size, budget, [])


def _cut(rows: Sequence[Row], size: int, budget: int, shared: list[int]) -> list[list[Row]]:
    batches: list[list[Row]] = []
    tokens = 0
    before: list[int] = []
    for row in sorted(rows, key=lambda row: row.answers[0].context_ids):
        new, last = _new_tokens(row, before)
        if not batches or len(batches[-1]) == size or tokens + new > budget:
            batches.append([])
            tokens, new = 0, _new_tokens(row, shared)[0]
        batches[-1].append(row)
        tokens, before = tokens + new, last
    return batches


def _cut_padded(rows: Sequence[Row], size: int, budget: int) -> list[list[Row]]:
    """Answers of like length together: the last and longest one of a batch says how wide it is."""
    batches: list[list[Row]] = []
    answers = [Row((answer,), row.place) for row in rows for answer in row.answers]
    for row in sorted(answers, key=lambda row: len(row.answers[0])):
        width = len(row.answers[0]) - 1
        if not batches or len(batches[-1]) == size or (len(batches[-1]) + 1) * width > budget:
            batches.append([])
        batches[-1].append(row)
    return batches


def _new_tokens(row: Row, before: list[int]) -> tuple[int, list[int]]:
    """How many tokens a row adds behind one that ends in `before`, and what it ends in itself."""
    new = 0
    for answer in row.answers:
        ids = answer.context_ids + answer.answer_ids
        shared = next((i for i, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), None)
        new += len(ids) - (min(len(before), len(ids)) if shared is None else shared)
        before = ids
    return new, before


@dataclass(frozen=True)
class Plan:
    """Which conversations a step holds, and when to measure and save: a function of settings and seed alone."""

    rows: int
    step_size: int
    steps_per_epoch: int
    total_steps: int
    save_steps: int
    eval_steps: int
    seed: int

    @classmethod
    def of(cls, section: TrainingSection, rows: int, world: int = 1) -> Plan:
        size = section.per_device_train_batch_size * section.gradient_accumulation_steps * world
        per_epoch = max(1, math.ceil(rows / size))
        total = section.max_steps if section.max_steps > 0 else math.ceil(section.num_train_epochs * per_epoch)
        save = section.save_steps or per_epoch
        return cls(rows, size, per_epoch, total, save, section.eval_steps or save, section.seed)

    def conversations(self, step: int) -> list[int]:
        """Indices of the rows of step `step`, in order: each epoch is its own permutation of all rows."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = _order(self.rows, self.seed, epoch)
        return order[place * self.step_size : (place + 1) * self.step_size].tolist()

    def evaluates(self, step: int, total: int) -> bool:
        return step % self.eval_steps == 0 or step == total


@lru_cache(maxsize=1)
def _order(rows: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(rows)


@dataclass(frozen=True)
class Sample:
    """Steps (from 0) that stand for all: `typical` ones, evenly spread, and the one with the longest row."""

    typical: list[int]
    longest: int

    @property
    def all(self) -> list[int]:
        return sorted({*self.typical, self.longest})


def steps_to_look_at(plan: Plan, sizes: npt.NDArray[np.int64]) -> Sample:
    """Of the first epoch; all of its steps where they are few. `sizes` are the tokens of each row."""
    steps = range(min(plan.steps_per_epoch, plan.total_steps))
    typical = sorted({int(s) for s in np.linspace(0, len(steps) - 1, LOOKED_AT)})
    ordered = sizes[_order(plan.rows, plan.seed, 0)]
    largest = np.maximum.reduceat(ordered, np.arange(0, len(ordered), plan.step_size))
    return Sample(typical, int(largest[: len(steps)].argmax()))


def takes_trunks(section: TrainingSection) -> bool:
    """Whether what a step begins with may be computed apart: checkpointing would run its first pass twice.

    With several processes it never is: the engines average gradients while a backward that began in the loss meets
    every trained weight, and what goes back through the first pass comes after that and meets only some.
    """
    return not section.gradient_checkpointing


def loads(
    plan: Plan,
    rows: Sequence[Row],
    step: int | None,
    section: TrainingSection,
    *,
    forest: bool = True,
    world: int = 1,
) -> list[Load]:
    """What step `step` computes, batch by batch; without a step, what an evaluation of all rows does. With several
    processes it is a share of the rows that stands for that of each."""
    if step is None:
        chosen, size = list(rows), section.per_device_eval_batch_size
    else:  # the rows of one step: there may be a million
        chosen, size = [rows[i] for i in plan.conversations(step)], section.per_device_train_batch_size
    chosen = chosen[::world]
    trunk = step is not None and world == 1 and takes_trunks(section)
    shared, batches = cut(chosen, size, AT_ONCE, forest=forest, trunk=trunk)
    first = one_path(shared).pairs
    found = [Load(len(shared), first, 0)] if shared else []
    for batch in batches:
        answers = [answer for row in batch for answer in row.answers]
        if forest:
            grown = grow(answers)
            tokens, pairs = len(grown) - len(shared), grown.pairs - first
            found.append(Load(tokens, pairs, len(grown.target), len(shared)))
        else:
            width = max(map(len, answers)) - 1
            targets = sum(len(answer.answer_ids) for answer in answers)
            found.append(Load(len(answers) * width, len(answers) * width**2, targets))
    return found
