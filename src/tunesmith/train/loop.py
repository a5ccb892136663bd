"""The training loop: steps over conversations, one loss for the whole step, evaluation, checkpoints, resume.

A step is the conversations that the sampler drew; how they are cut and computed changes nothing in it. The loop is
given rows of answers, a module with a loss, and functions to call; it reads no settings but its own section.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator

from tunesmith import rundir
from tunesmith.errors import RunError
from tunesmith.i18n import _
from tunesmith.model.trunk import Trunk
from tunesmith.tokens.forest import grow
from tunesmith.train import checkpoint as checkpoints
from tunesmith.train import memory, track
from tunesmith.train.batch import Batch
from tunesmith.train.loss import Trainee
from tunesmith.train.optim import make_optimizer, rate_at
from tunesmith.train.plan import AT_ONCE, Hooks, Plan, Row, State, cut, takes_trunks

if TYPE_CHECKING:
    from tunesmith.config.schema import TrainingSection


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
        track.drop_after(self.run, self.state.step)

    def train(self) -> State:
        """Runs to the end. Raises RunError when a loss or gradient is not finite, before that step is taken."""
        state, total = self.state, self.plan.total_steps
        self.model.train()
        started, tokens_then = time.monotonic(), 0
        for step in range(state.step, total):
            rate, state.eval_loss = rate_at(step, total, self.section), None
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
                seconds = time.monotonic() - started
                record |= self._loss_record(rate, norm, tokens_then / max(1e-9, seconds))
                record |= {"seconds": round(seconds, 3)} | track.usage(self.accelerator.device)
            if self.plan.evaluates(state.step, total):
                record |= self._evaluate()
            if record:
                record = {"step": state.step, "epoch": state.epoch} | record
                if self.accelerator.is_main_process:
                    track.write(self.run, record)
            self.hooks.progress({"step": state.step, "total": total} | record)
            best = state.eval_loss is not None and state.eval_loss == state.best_eval_loss
            stop = state.eval_loss is not None and self._patience_is_over()
            if best or stop or state.step == total or state.step % self.plan.save_steps == 0:
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
        shared, batches = self.batches(rows[rank::world])
        trunk = Trunk(shared) if shared else None
        if trunk:
            self.model(Batch.of_trunk(trunk, self.accelerator.device, fast=self.fast))
        total = 0.0
        for i, batch in enumerate(batches):
            memory.give_back(self.accelerator.device)
            with self._sync_on(i == len(batches) - 1):
                loss, _losses = self.model(self.batch(batch, trunk))
                self.accelerator.backward(loss * world / weight)
            total += loss.item()
        if trunk:
            trunk.backward()
        total = self._over_ranks(total)
        parameters, limit = self.trainee.model.parameters(), self.section.max_grad_norm or math.inf
        norm = float(self.accelerator.clip_grad_norm_(parameters, limit))
        if not (math.isfinite(total) and math.isfinite(norm)):
            raise self._not_finite(rows, step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total, weight, sum(len(a) for row in rows for a in row.answers), norm

    def batches(self, rows: Sequence[Row]) -> tuple[list[int], list[list[Row]]]:
        """What a step's rows begin with, where that is computed apart, and the batches that are computed at once."""
        size, world = self.section.per_device_train_batch_size, self.accelerator.num_processes
        return cut(rows, size, AT_ONCE, forest=self.forest, trunk=takes_trunks(self.section, world))

    def batch(self, rows: Sequence[Row], trunk: Trunk | None = None) -> Batch:
        answers = [a for row in rows for a in row.answers]
        if self.forest:
            return Batch.of_forest(grow(answers), self.accelerator.device, fast=self.fast, trunk=trunk)
        return Batch.of_rows(answers, self.pad_id, self.accelerator.device)

    @property
    def fast(self) -> bool:
        """Whether attention takes its fast form: autocast knows the library's, not ours."""
        return self.section.kernels == "fast" and self.accelerator.mixed_precision == "no"

    def _sync_on(self, last: bool) -> Any:
        """Gradients travel between ranks with a step's last batch alone."""
        return torch.enable_grad() if last else self.accelerator.no_sync(self.model)

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
        batches = cut(mine, size, AT_ONCE, forest=self.forest, trunk=False)[1]
        total = sum(self.trainee(self.batch(batch))[0].item() for batch in batches)
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
