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

import numpy as np
import torch
from accelerate import Accelerator

from tunesmith.errors import Stopped
from tunesmith.model.plan import Price
from tunesmith.model.trunk import Trunk
from tunesmith.tokens.forest import grow
from tunesmith.train import checkpoint as checkpoints
from tunesmith.train import memory, track, watch
from tunesmith.train.batch import Batch
from tunesmith.train.deal import deal, nothing
from tunesmith.train.engines import make_engine
from tunesmith.train.loss import Trainee
from tunesmith.train.optim import rate_at
from tunesmith.train.plan import AT_ONCE, Chooser, Hooks, Plan, Row, State, cut, takes_trunks

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
        price: Price | None = None,
        deepspeed: dict[str, Any] | None = None,
    ) -> None:
        """`price`: what tokens, pairs and targets cost beside each other; `deepspeed`: DeepSpeed's settings."""
        self.accelerator, self.section, self.run = accelerator, section, run
        self.rows, self.validation = rows, validation
        self.forest, self.pad_id, self.hooks = forest, pad_id, hooks or Hooks()
        self.engine = make_engine(accelerator, trainee, section, deepspeed)
        self.model, self.optimizer, self.trainee = self.engine.model, self.engine.optimizer, trainee
        self.price = price or Price()
        self.state = State.of(Chooser.of(section))
        self.plan = Plan.of(section, len(rows), accelerator.num_processes)

    def resume(self, folder: Path) -> None:
        """Goes on behind `folder`'s step: same order, random states and counters (weights are loaded already)."""
        moments, stored = checkpoints.load(folder)
        self.engine.restore(moments)
        self.state = State.of(Chooser.of(self.section), stored)
        track.drop_after(self.run, self.state.step)

    def train(self) -> State:
        """Runs to the end. Raises RunError when a loss or gradient is not finite, before that step is taken; Stopped
        where that was asked for, behind a checkpoint."""
        state, total = self.state, self.plan.total_steps
        if state.is_over(self.section.early_stopping_patience):  # a crash came between the last checkpoint and the end
            return state
        self.model.train()
        started, measuring, tokens_then = time.monotonic(), 0.0, 0
        for step in range(state.step, total):
            rate, state.eval_loss, state.value = rate_at(step, total, self.section), None, None
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            if self.accelerator.num_processes > 1:  # each rank its own noise, the same again behind a resume
                torch.manual_seed(hash((self.section.seed, step, self.accelerator.process_index)))
            rows = [self.rows[i] for i in self.plan.conversations(step)]
            loss, weight, tokens, norm = self._fitting_step(rows, step)
            state.step, state.epoch = step + 1, round((step + 1) / self.plan.steps_per_epoch, 4)
            state.pending_loss += loss
            state.pending_weight += weight
            state.pending_tokens += tokens
            tokens_then += tokens
            record: dict[str, Any] = {}
            if state.step % self.section.logging_steps == 0 or state.step == total:
                seconds = time.monotonic() - started
                record |= self._loss_record(rows, rate, norm, tokens_then / max(1e-9, seconds - measuring))
                record |= {"seconds": round(seconds, 3)} | track.usage(self.accelerator.device)
            if self.plan.evaluates(state.step, total):
                began = time.monotonic()
                record |= self._evaluate()
                measuring += time.monotonic() - began
            if record:
                record = {"step": state.step, "epoch": state.epoch} | record
                if self.accelerator.is_main_process:
                    track.write(self.run, record)
            self.hooks.progress({"step": state.step, "total": total} | record)
            stop = state.value is not None and state.is_over(self.section.early_stopping_patience)
            asked = self._over_ranks(self.hooks.stop()) > 0
            if state.is_best or stop or asked or state.step == total or state.step % self.plan.save_steps == 0:
                self._save()
            if stop:
                break
            if asked and state.step < total:
                raise Stopped
        return state

    # --- one step -------------------------------------------------------------------------------------------------

    def _fitting_step(self, rows: Sequence[Row], step: int) -> tuple[float, float, int, float]:
        try:
            return self._step(rows, step)
        except (MemoryError, RuntimeError) as error:
            if memory.ran_out(error):
                raise watch.no_room(self, rows, step) from error
            raise

    def _step(self, rows: Sequence[Row], step: int) -> tuple[float, float, int, float]:
        """(sum of weighted losses, weight, tokens of the samples, gradient norm) of one optimizer step."""
        weight = sum(row.weight for row in rows)
        if weight == 0:
            return 0.0, 0.0, 0, 0.0
        world = self.accelerator.num_processes
        shared, batches = self.batches(rows)
        trunk = Trunk(shared) if shared else None
        if trunk:
            self.model(Batch.of_trunk(trunk, self.accelerator.device, fast=self.fast))
        total = 0.0
        for i, batch in enumerate(batches):
            with self.engine.part(last=i == len(batches) - 1):
                loss, _losses = self.model(self.batch(batch, trunk))
                self.engine.backward(loss * world / weight)
            total += loss.item()
        if trunk:
            trunk.backward()
        total = self._over_ranks(total)
        norm = self.engine.norm(self.section.max_grad_norm or math.inf)
        if not (math.isfinite(total) and math.isfinite(norm)):
            raise watch.not_finite(self, rows, step, norm)
        self.engine.step()
        return total, weight, sum(len(a) for row in rows for a in row.answers), norm

    def batches(self, rows: Sequence[Row]) -> tuple[list[int], list[list[Row]]]:
        """What a step's rows begin with, where that is computed apart, and the batches that this rank computes."""
        size, world = self.section.per_device_train_batch_size, self.accelerator.num_processes
        if world == 1:
            return cut(rows, size, AT_ONCE, forest=self.forest, trunk=takes_trunks(self.section))
        mine = deal(rows, world, self.price, forest=self.forest)[self.accelerator.process_index]
        return [], self._as_many(cut(mine, size, AT_ONCE, forest=self.forest, trunk=False)[1])

    def _as_many(self, batches: list[list[Row]]) -> list[list[Row]]:
        """As many batches on every rank, since each is met by all of them in the engine: some that weigh nothing."""
        most = int(self._over_ranks(len(batches), "max"))
        return batches + [[nothing(self.pad_id)]] * (most - len(batches))

    def batch(self, rows: Sequence[Row], trunk: Trunk | None = None) -> Batch:
        answers = [a for row in rows for a in row.answers]
        if self.forest:
            return Batch.of_forest(grow(answers), self.accelerator.device, fast=self.fast, trunk=trunk)
        return Batch.of_rows(answers, self.pad_id, self.accelerator.device)

    @property
    def fast(self) -> bool:
        """Whether attention takes its fast form: autocast knows the library's, not ours."""
        return self.section.kernels == "fast" and self.accelerator.mixed_precision == "no"

    def _over_ranks(self, value: float, how: str = "sum") -> float:
        if self.accelerator.num_processes == 1:
            return value
        found = torch.tensor(value, dtype=torch.float64, device=self.accelerator.device)
        torch.distributed.all_reduce(found, getattr(torch.distributed.ReduceOp, how.upper()))
        return found.item()

    # --- measuring and keeping ------------------------------------------------------------------------------------

    def _loss_record(self, rows: Sequence[Row], rate: float, norm: float, speed: float) -> dict[str, Any]:
        state = self.state
        state.loss = state.pending_loss / max(1e-12, state.pending_weight)
        record: dict[str, Any] = {
            "loss": state.loss,
            "learning_rate": rate,
            "grad_norm": norm,
            "tokens": state.pending_tokens,
            "tokens_per_second": round(speed, 1),
        }
        if watch.is_spike(state.recent, state.loss):
            record["spike"] = watch.places(rows)
        state.recent = [*state.recent, state.loss][-watch.USUAL :]
        state.pending_loss, state.pending_weight, state.pending_tokens = 0.0, 0.0, 0
        return record

    def _evaluate(self) -> dict[str, float]:
        """Loss and perplexity of the validation rows, by the loss of training, and whatever the evaluators measure."""
        record: dict[str, float] = {}
        self.model.eval()
        if self.validation:
            record["eval_loss"], record["eval_perplexity"] = self.evaluation_loss(self.validation)
        with torch.random.fork_rng(range(torch.cuda.device_count())):  # an answer's draws are none of the training's
            for evaluator in self.hooks.evaluators:
                record |= evaluator(self.trainee.model, self.state.step)
        self.model.train()
        self.state.measured(record)
        return record

    @torch.no_grad()
    def evaluation_loss(self, rows: Sequence[Row]) -> tuple[float, float]:
        """Over all trained tokens of `rows`: the weighted mean of the loss, and exp of the unweighted one."""
        size, world = self.section.per_device_eval_batch_size, self.accelerator.num_processes
        mine = rows[self.accelerator.process_index :: world]
        batches = self._as_many(cut(mine, size, AT_ONCE, forest=self.forest, trunk=False)[1])
        total, nats, tokens = 0.0, 0.0, 0.0
        for batch in batches:
            loss, losses = self.model(self.batch(batch))
            answers = [answer for row in batch for answer in row.answers]
            each = losses[np.concatenate([leaf.targets for leaf in grow(answers).leaves])] if self.forest else losses
            trained = each[[weight > 0 for answer in answers for weight in answer.weights]]
            total, nats, tokens = total + loss.item(), nats + trained.double().sum().item(), tokens + len(trained)
        mean = self._over_ranks(total) / sum(row.weight for row in rows)
        return mean, float(np.exp(self._over_ranks(nats) / self._over_ranks(tokens)))

    def _save(self) -> None:
        watch.refuse_broken_weights(self)
        moments, weights = self.engine.moments(), self.engine.weights()  # every rank has a part of them
        if self.accelerator.is_main_process:
            if self.state.step not in self.state.written:
                self.state.written.append(self.state.step)
            folder = checkpoints.save(
                self.run,
                self.state.step,
                self.trainee.model,
                moments,
                asdict(self.state),
                self.hooks.write_extra,
                weights,
            )
            checkpoints.rotate(self.run, self.section.save_total_limit, set(self.state.written))
            self.hooks.saved(folder)
        self.accelerator.wait_for_everyone()
