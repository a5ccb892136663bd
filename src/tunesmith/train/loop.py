"""The training loop: steps over conversations, one loss for the whole step, evaluation, checkpoints, resume.

A step is the conversations that the sampler drew; how they are cut and computed changes nothing in it. The loop is
given rows of answers, a module with a loss, and functions to call; it reads no settings but its own section.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from tunesmith import rundir
from tunesmith.errors import RunError
from tunesmith.i18n import _
from tunesmith.tokens.encode import Answer
from tunesmith.tokens.forest import grow
from tunesmith.train import checkpoint as checkpoints
from tunesmith.train.loss import Batch, Trainee
from tunesmith.train.optim import make_optimizer, rate_at

if TYPE_CHECKING:
    from tunesmith.config.schema import TrainingSection


@dataclass(frozen=True)
class Row:
    """A conversation ready to train: its answers, and where it came from for messages (file:line)."""

    answers: tuple[Answer, ...]
    place: str = ""

    @property
    def weight(self) -> float:
        return sum(sum(a.weights) for a in self.answers)


@dataclass
class State:
    """What the loop knows and a checkpoint keeps. Losses are sums of weight x loss, with their weights beside them."""

    step: int = 0
    epoch: float = 0.0
    loss: float | None = None
    eval_loss: float | None = None
    best_eval_loss: float | None = None
    evaluations_without_gain: int = 0
    pending_loss: float = 0.0
    pending_weight: float = 0.0
    pending_tokens: int = 0
    written: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Hooks:
    """What the loop tells others, and what it asks of them."""

    progress: Callable[[dict[str, Any]], None] = lambda event: None
    saved: Callable[[Path], None] = lambda checkpoint: None
    write_extra: Callable[[Path], None] = lambda folder: None
    evaluators: Sequence[Callable[[nn.Module, int], dict[str, float]]] = ()


class Loop:
    """One run of training in one run folder."""

    def __init__(
        self,
        accelerator: Accelerator,
        trainee: Trainee,
        rows: Sequence[Row],
        validation: Sequence[Row],
        section: TrainingSection,
        run: Path,
        *,
        forest: bool,
        pad_id: int,
        hooks: Hooks | None = None,
    ) -> None:
        self.accelerator, self.section, self.run = accelerator, section, run
        self.rows, self.validation = rows, validation
        self.forest, self.pad_id, self.hooks = forest, pad_id, hooks or Hooks()
        optimizer = make_optimizer(trainee.model, section)
        self.model, self.optimizer = accelerator.prepare(trainee, optimizer)
        self.trainee = trainee
        self.state = State()
        self.plan = Plan.of(section, len(rows), accelerator.num_processes)

    def resume(self, folder: Path) -> None:
        """Goes on behind `folder`'s step: same order, random states and counters (weights are loaded already)."""
        stored = checkpoints.load(folder, self.trainee.model, self.optimizer.optimizer)
        self.state = State(**stored)
        _drop_metrics_after(self.run, self.state.step)

    def train(self) -> State:
        """Runs to the end. Raises RunError when a loss or gradient is not finite, before that step is taken."""
        state, total = self.state, self.plan.total_steps
        self.model.train()
        started, tokens_then = time.monotonic(), 0
        for step in range(state.step, total):
            rate = rate_at(step, total, self.section)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            indices = self.plan.conversations(step)
            loss, weight, tokens, norm = self._step([self.rows[i] for i in indices], step)
            state.step, state.epoch = step + 1, round((step + 1) / self.plan.steps_per_epoch, 4)
            state.pending_loss += loss
            state.pending_weight += weight
            state.pending_tokens += tokens
            tokens_then += tokens
            record: dict[str, Any] = {}
            if state.step % self.section.logging_steps == 0 or state.step == total:
                record |= self._loss_record(rate, norm, tokens_then / max(1e-9, time.monotonic() - started))
            if self.plan.evaluates(state.step, total):
                record |= self._evaluate()
            if record:
                record = {"step": state.step, "epoch": state.epoch} | record
                self._write_metrics(record)
            self.hooks.progress({"step": state.step, "total": total} | record)
            stop = self._patience_is_over()
            if stop or state.step == total or state.step % self.plan.save_steps == 0:
                self._save()
            if stop:
                break
        return state

    # --- one step -------------------------------------------------------------------------------------------------

    def _step(self, rows: Sequence[Row], step: int) -> tuple[float, float, int, float]:
        """(sum of weighted losses, weight, tokens of the samples, gradient norm) of one optimizer step."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        weight = sum(row.weight for row in rows)
        if weight == 0:
            return 0.0, 0.0, 0, 0.0
        mine = rows[rank::world]
        size = self.section.per_device_train_batch_size
        batches = [mine[i : i + size] for i in range(0, len(mine), size)]
        total = 0.0
        for i, batch in enumerate(batches):
            with self._sync_on(i == len(batches) - 1):
                loss, _losses = self.model(self._batch(batch))
                self.accelerator.backward(loss * world / weight)
            total += loss.item()
        total = self._over_ranks(total)
        norm = float(self._clip())
        if not (math.isfinite(total) and math.isfinite(norm)):
            raise self._not_finite(rows, step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total, weight, sum(len(a) for row in rows for a in row.answers), norm

    def _batch(self, rows: Sequence[Row]) -> Batch:
        answers = [a for row in rows for a in row.answers]
        if self.forest:
            return Batch.of_forest(grow(answers), self.accelerator.device)
        return Batch.of_rows(answers, self.pad_id, self.accelerator.device)

    def _sync_on(self, last: bool) -> Any:
        """Gradients travel between ranks with a step's last batch alone."""
        return torch.enable_grad() if last else self.accelerator.no_sync(self.model)

    def _clip(self) -> torch.Tensor:
        limit = self.section.max_grad_norm or math.inf
        return self.accelerator.clip_grad_norm_(self.trainee.model.parameters(), limit)

    def _over_ranks(self, value: float) -> float:
        if self.accelerator.num_processes == 1:
            return value
        total = self.accelerator.reduce(torch.tensor(value, dtype=torch.float64), "sum")
        return total.item()

    def _not_finite(self, rows: Sequence[Row], step: int) -> RunError:
        last = rundir.latest(self.run)
        return RunError(
            _(
                "The loss or the gradient of step {step} is not a finite number; the step was not taken. Its rows:"
                " {rows}. Learning rate {rate:.2e}. Last good checkpoint: {checkpoint}. Try a lower"
                " training.learning_rate, or look at these rows."
            ).format(
                step=step + 1,
                rows=", ".join(row.place for row in rows),
                rate=self.optimizer.param_groups[0]["lr"],
                checkpoint=last.path.name if last else _("none"),
            ),
            place=str(self.run),
        )

    # --- measuring and keeping ------------------------------------------------------------------------------------

    def _loss_record(self, rate: float, norm: float, speed: float) -> dict[str, Any]:
        state = self.state
        state.loss = state.pending_loss / max(1e-12, state.pending_weight)
        record = {
            "loss": state.loss,
            "learning_rate": rate,
            "grad_norm": norm,
            "tokens": state.pending_tokens,
            "tokens_per_second": round(speed, 1),
        }
        state.pending_loss, state.pending_weight, state.pending_tokens = 0.0, 0.0, 0
        return record

    def _evaluate(self) -> dict[str, float]:
        """Loss on the validation rows, by the loss of training, and whatever the evaluators measure."""
        record: dict[str, float] = {}
        self.model.eval()
        if self.validation:
            self.state.eval_loss = record["eval_loss"] = self.evaluation_loss(self.validation)
            best = self.state.best_eval_loss
            if best is None or record["eval_loss"] < best:
                self.state.best_eval_loss, self.state.evaluations_without_gain = record["eval_loss"], 0
            else:
                self.state.evaluations_without_gain += 1
        for evaluator in self.hooks.evaluators:
            record |= evaluator(self.trainee.model, self.state.step)
        self.model.train()
        return record

    @torch.no_grad()
    def evaluation_loss(self, rows: Sequence[Row]) -> float:
        """Weighted mean of the loss over all trained tokens of `rows`."""
        size, world = self.section.per_device_eval_batch_size, self.accelerator.num_processes
        mine = rows[self.accelerator.process_index :: world]
        total = 0.0
        for i in range(0, len(mine), size):
            total += self.trainee(self._batch(mine[i : i + size]))[0].item()
        return self._over_ranks(total) / sum(row.weight for row in rows)

    def _patience_is_over(self) -> bool:
        patience = self.section.early_stopping_patience
        return patience is not None and self.state.evaluations_without_gain >= patience

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            if self.state.step not in self.state.written:
                self.state.written.append(self.state.step)
            folder = checkpoints.save(
                self.run,
                self.state.step,
                self.trainee.model,
                self.optimizer.optimizer,
                asdict(self.state),
                self.hooks.write_extra,
            )
            checkpoints.rotate(self.run, self.section.save_total_limit, set(self.state.written))
            self.hooks.saved(folder)
        self.accelerator.wait_for_everyone()

    def _write_metrics(self, record: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            with (self.run / rundir.METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


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
        order = np.random.default_rng([self.seed, epoch]).permutation(self.rows)
        return order[place * self.step_size : (place + 1) * self.step_size].tolist()

    def evaluates(self, step: int, total: int) -> bool:
        return step % self.eval_steps == 0 or step == total


def _drop_metrics_after(run: Path, step: int) -> None:
    """Records of steps that a resume takes again are cut off, and with them a line that a crash left half."""
    kept = [record for record in rundir.metrics(run) if record.get("step", 0) <= step]
    path = run / rundir.METRICS
    path.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")


