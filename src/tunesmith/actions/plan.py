"""What a run will take, said before anything is loaded, and which settings would fit where it does not.

Joins the settings, the encoded rows and the base model's shape; the arithmetic is model/plan.py's, how steps are cut is
train/plan.py's. Needs no torch.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.actions.prepare import Prepared
from tunesmith.actions.rows import Part
from tunesmith.errors import RunError
from tunesmith.i18n import _
from tunesmith.model import machine
from tunesmith.model import plan as cost
from tunesmith.model.folder import locate
from tunesmith.train.plan import Plan, Row, loads, steps_to_look_at

if TYPE_CHECKING:
    from tunesmith.config.schema import Config, ModelSection, TrainingSection
    from tunesmith.model.plan import How, Memory, Shape

EVALUATED = 256  # validation rows that are looked at; the others are taken to be like them
FORWARD = 0.4  # share of a batch's time that its forward takes


@dataclass(frozen=True)
class Forecast:
    """Bytes and seconds; `seconds` is None on a GPU, whose rate is unknown. `heaviest` is the step (from 0) with the
    largest batch, `ways` are settings that fit in memory, with the bytes that they need, where these do not."""

    memory: Memory
    free_memory: int
    seconds: float | None
    disk: int
    free_disk: int
    checkpoint: int
    steps: int
    heaviest: int
    ways: Sequence[tuple[str, int]]

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.free_memory

    def lines(self) -> list[str]:
        """For the user: what it takes, and what to do where that is too much."""
        told = {
            "memory": size(self.memory.total),
            "free": size(self.free_memory),
            "disk": size(self.disk),
            "left": size(self.free_disk),
        }
        if self.seconds is None:
            text = _("It will take about {memory} of the GPU's memory ({free} free) and {disk} of disk ({left} free).")
            said = [text.format(**told)]
        else:
            text = _("It will take about {time}, {memory} of memory ({free} free) and {disk} of disk ({left} free).")
            said = [text.format(time=duration(self.seconds), **told)]
        if self.fits:
            return said
        if not self.ways:
            return [*said, _("The memory will not suffice, whatever the settings. Take a smaller model.")]
        ways = "; ".join(_("{settings} needs {memory}").format(settings=s, memory=size(n)) for s, n in self.ways)
        return [*said, _("The memory will not suffice. What fits: {ways}.").format(ways=ways)]

    def refuse_too_little_disk(self) -> None:
        """Raises RunError with the numbers where the checkpoints do not fit on the disk."""
        if self.disk <= self.free_disk:
            return
        told = {"disk": size(self.disk), "each": size(self.checkpoint), "left": size(self.free_disk)}
        text = _("The checkpoints take {disk} of disk ({each} each), and {left} are free.").format(**told)
        fitting = self.free_disk // max(1, self.checkpoint) - 1  # a new one is written before an old one goes
        how = _("Free some, or write to another disk: training.output_dir.")
        if fitting >= 2:
            how = _("Keep fewer of them: training.save_total_limit={n}.").format(n=fitting)
        raise RunError(f"{text} {how}", place="training.save_total_limit")

    def record(self) -> dict[str, Any]:
        """For run.json: bytes, seconds."""
        parts = {name: round(value) for name, value in asdict(self.memory).items()}
        return {
            "memory": {"total": self.memory.total} | parts,
            "seconds": None if self.seconds is None else round(self.seconds, 1),
            "disk": self.disk,
            "steps": self.steps,
            "heaviest_step": self.heaviest,
        }


def forecast(config: Config, prepared: Prepared, *, done: int = 0, forest: bool = True) -> Forecast | None:
    """What training will take behind its first `done` steps; None where config.json does not tell the model's shape."""
    shape = cost.Shape.read(locate(str(config.model.name_or_path), weights=False))
    if shape is None or prepared.parameters is None:
        return None
    shape = replace(shape, fused=shape.fused and config.training.kernels == "fast")
    rows = rows_of(prepared.train)
    plan = Plan.of(config.training, len(rows))
    looked_at = steps_to_look_at(plan, rows)
    steps = {step: loads(plan, rows, step, config.training, forest=forest) for step in looked_at.all}
    how = _how(config, prepared.parameters[0], shape)
    gpu = machine.gpu_memory(config.model.device)
    how = replace(how, gpu=gpu is not None)
    every = [load for found in steps.values() for load in found]
    needed = cost.memory(shape, how, every)
    heaviest = max(steps, key=lambda step: max(cost.memory(shape, how, [load]).total for load in steps[step]))
    free = machine.free_memory() if gpu is None else gpu
    left = max(0, plan.total_steps - done)
    taken = None
    if gpu is None:
        rates = machine.rates(shape.hidden, shape.inner)
        mean = sum(cost.seconds(shape, how, load, rates) for s in looked_at.typical for load in steps[s])
        mean = mean / max(1, len(looked_at.typical)) + cost.seconds_of_update(how, rates)
        trial = max(cost.seconds(shape, how, load, rates) for load in every)
        taken = cost.START + trial + left * mean + _evaluations(config, prepared, plan, left, shape, how)
    ways = [] if needed.total <= free else _ways(config, rows, shape, how, free, forest)
    each = cost.checkpoint_bytes(how)
    disk = each * checkpoints_at_once(config.training, plan)
    folder = config.training.output_dir or Path()
    return Forecast(needed, free, taken, disk, free_disk(folder), each, plan.total_steps, heaviest, ways)


def rows_of(part: Part) -> list[Row]:
    return [Row(e.answers, str(c.origin)) for c, e in zip(part.conversations, part.encoded, strict=True)]


def _how(config: Config, trained: int, shape: Shape) -> How:
    model, training, full = config.model, config.training, config.method == "full"
    weight = float(_weight_bytes(model, training, full))
    compute = 2 if training.bf16 or weight == 2 else 4
    if model.load_in_4bit or model.load_in_8bit:  # a 4-bit number brings its share of a block's scale
        packed = shape.matrices * (0.57 if model.load_in_4bit else 1.0)
        weight = (packed + (shape.parameters - shape.matrices) * weight) / shape.parameters
    return cost.How(full, trained, weight, compute, training.gradient_checkpointing)


def _weight_bytes(model: ModelSection, training: TrainingSection, full: bool) -> int:
    if model.dtype != "auto":
        return 4 if model.dtype == "float32" else 2
    if full or (training.bf16 is False and not training.fp16):
        return 4
    able = training.fp16 or machine.gpu_memory(model.device) is not None or machine.computes_bfloat16()
    return 2 if able else 4


def _evaluations(config: Config, prepared: Prepared, plan: Plan, left: int, shape: Shape, how: How) -> float:
    """Seconds for measuring the loss on the rows that choose the best checkpoint."""
    if prepared.chooser is None:
        return 0.0
    rows = rows_of(getattr(prepared, prepared.chooser))
    some = rows[:EVALUATED]
    rates = machine.rates(shape.hidden, shape.inner)
    found = loads(Plan.of(config.training, len(some)), some, None, config.training)
    once = FORWARD * sum(cost.seconds(shape, how, load, rates) for load in found) * len(rows) / len(some)
    return once * math.ceil(left / plan.eval_steps)


def _ways(config: Config, rows: list[Row], shape: Shape, how: How, free: int, forest: bool) -> list[tuple[str, int]]:
    """Other settings that train the same steps and fit, the one that costs least first."""
    found = []
    for training, text in _changes(config.training):
        plan = Plan.of(training, len(rows))
        batches = [b for s in steps_to_look_at(plan, rows).all for b in loads(plan, rows, s, training, forest=forest)]
        other = replace(how, checkpointing=training.gradient_checkpointing)
        needed = cost.memory(shape, other, batches).total
        if needed <= free:
            found.append((text, needed))
    if not found and how.full:
        text = "method=lora training.gradient_checkpointing=true"
        lora = replace(how, full=False, trained=shape.matrices // 50, weight_bytes=2, compute_bytes=2)
        lora = replace(lora, checkpointing=True)
        plan = Plan.of(config.training, len(rows))
        batches = [b for s in steps_to_look_at(plan, rows).all for b in loads(plan, rows, s, config.training)]
        needed = cost.memory(shape, lora, batches).total
        found = [(text, needed)] if needed <= free else []
    return found[:2]


def _changes(section: TrainingSection) -> Iterator[tuple[TrainingSection, str]]:
    checkpointing = "training.gradient_checkpointing=true"
    sizes = [(section.per_device_train_batch_size, section.gradient_accumulation_steps)]
    while sizes[-1][0] % 2 == 0:
        sizes.append((sizes[-1][0] // 2, sizes[-1][1] * 2))
    for again in (False, True):
        for batch, accumulation in sizes:
            names = [checkpointing] if again and not section.gradient_checkpointing else []
            if batch != section.per_device_train_batch_size:
                names.append(f"training.per_device_train_batch_size={batch}")
                names.append(f"training.gradient_accumulation_steps={accumulation}")
            if names:
                values = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
                values["gradient_checkpointing"] = again or section.gradient_checkpointing
                yield section.model_copy(update=values), " ".join(names)


def checkpoints_at_once(section: TrainingSection, plan: Plan) -> int:
    """How many checkpoints lie on the disk when they are most: those kept, and one that is being written."""
    written = math.ceil(plan.total_steps / plan.save_steps)
    limit = section.save_total_limit
    return written if limit is None else min(written, max(limit, 2) + 1)


def free_disk(run: Path) -> int:
    """Bytes for checkpoints in the run folder; the ones that lie there already make room, or are counted already."""
    folder = next(p for p in (run.absolute(), *run.absolute().parents) if p.exists())
    old = sum(f.stat().st_size for f in run.glob("checkpoint-*/**/*") if f.is_file())
    return shutil.disk_usage(folder).free + old


def size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 100:
        return _("{n} s").format(n=round(seconds))
    if minutes < 100:
        return _("{n} min").format(n=minutes)
    return _("{h} h {n} min").format(h=minutes // 60, n=minutes % 60)
