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

from tunesmith.actions.base import count_parameters
from tunesmith.actions.prepare import Prepared
from tunesmith.actions.rows import Lazy, Part
from tunesmith.errors import RunError
from tunesmith.i18n import _
from tunesmith.model import machine
from tunesmith.model import plan as cost
from tunesmith.model.folder import locate
from tunesmith.train.plan import Plan, Row, loads, steps_to_look_at
from tunesmith.train.world import World

if TYPE_CHECKING:
    from tunesmith.config.schema import Config, ModelSection, TrainingSection
    from tunesmith.model.plan import How, Memory, Shape

ALONE = World()
EVALUATED = 256  # validation rows that are looked at; the others are taken to be like them
WAYS = 2  # ways out that are named
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
            return [
                *said,
                _("The memory will not suffice, and no other batch size changes that. Take a smaller model."),
            ]
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


def forecast(config: Config, prepared: Prepared, *, done: int = 0, world: World = ALONE) -> Forecast | None:
    """What training will take behind its first `done` steps; None where config.json does not tell the model's shape."""
    shape = cost.Shape.read(locate(str(config.model.name_or_path), weights=False))
    if shape is None or prepared.parameters is None:
        return None
    shape = replace(shape, fused=shape.fused and config.training.kernels == "fast")
    rows, training = rows_of(prepared.train), config.training
    plan, gpu = Plan.of(training, len(rows), world.size), machine.gpu_memory(config.model.device)
    how = _how(config, prepared.parameters[0], shape)
    sample = steps_to_look_at(plan, prepared.train.sizes)
    steps = {step: loads(plan, rows, step, training, world=world.size) for step in sample.all}
    needed = cost.memory(shape, how, [load for found in steps.values() for load in found])
    free = machine.free_memory() // world.local_size if gpu is None else gpu
    seconds = None
    if gpu is None:
        rates = machine.rates(shape.hidden, shape.inner)
        taken = {step: sum(cost.seconds(shape, how, load, rates) for load in found) for step, found in steps.items()}
        mean = sum(taken[step] for step in sample.typical) / len(sample.typical) + cost.update_seconds(how, rates)
        left = max(0, plan.total_steps - done)
        evaluated = math.ceil(left / plan.eval_steps) * _evaluation(config, prepared, shape, how)
        trial = max(cost.seconds(shape, how, load, rates) for found in steps.values() for load in found)
        seconds = cost.START + cost.LOAD * shape.parameters + trial + left * mean + evaluated
    return Forecast(
        memory=needed,
        free_memory=free,
        seconds=seconds,
        disk=cost.checkpoint_bytes(how) * checkpoints_at_once(training, plan),
        free_disk=free_disk(training.output_dir or Path()),
        checkpoint=cost.checkpoint_bytes(how),
        steps=plan.total_steps,
        heaviest=max(steps, key=lambda step: cost.memory(shape, how, steps[step]).total),
        ways=[] if needed.total <= free else _ways(config, prepared.train, shape, how.trained, free),
    )


def smaller(config: Config, prepared: Prepared, planned: Forecast) -> list[str]:
    """Settings that need clearly less memory than these, which did not fit although they may have seemed to."""
    shape = cost.Shape.read(locate(str(config.model.name_or_path), weights=False))
    if shape is None or prepared.parameters is None:
        return []
    ways = _ways(config, prepared.train, shape, prepared.parameters[0], round(0.8 * planned.memory.total))
    return [_("{settings} needs {memory}").format(settings=s, memory=size(n)) for s, n in ways]


def price_of(config: Config, prepared: Prepared) -> cost.Price:
    """What tokens, pairs and targets of this model cost beside each other, the same on whatever machine asks."""
    shape = cost.Shape.read(locate(str(config.model.name_or_path), weights=False))
    if shape is None or prepared.parameters is None:
        return cost.Price()
    return cost.price(shape, _how(config, prepared.parameters[0], shape))


def rows_of(part: Part) -> Sequence[Row]:
    """The rows ready to train, each made when it is asked for."""
    return Lazy(lambda row: Row(part.store.encoded(row).answers, str(part.store.place(row))), part.rows)


def _how(config: Config, trained: int, shape: Shape) -> How:
    model, training, full = config.model, config.training, config.method == "full"
    gpu = machine.gpu_memory(model.device) is not None
    weight = float(_weight_bytes(model, training, full, gpu))
    compute = 2 if training.bf16 or weight == 2 else 4
    if model.load_in_4bit or model.load_in_8bit:  # a 4-bit number brings its share of a block's scale
        packed = shape.matrices * (0.57 if model.load_in_4bit else 1.0)
        weight = (packed + (shape.parameters - shape.matrices) * weight) / shape.parameters
    return cost.How(full, trained, weight, compute, training.gradient_checkpointing, gpu)


def _weight_bytes(model: ModelSection, training: TrainingSection, full: bool, gpu: bool) -> int:
    """What train/launch.py and model/load.py will choose, told without torch."""
    if model.dtype != "auto":
        return 4 if model.dtype == "float32" else 2
    if full or (training.bf16 is False and not training.fp16):
        return 4
    return 2 if training.fp16 or gpu or machine.computes_bfloat16() else 4


def _evaluation(config: Config, prepared: Prepared, shape: Shape, how: How) -> float:
    """Seconds to measure the loss once on the rows that choose the best checkpoint."""
    rows = rows_of(getattr(prepared, prepared.chooser)) if prepared.chooser else []
    if not rows:
        return 0.0
    some, rates = rows[:EVALUATED], machine.rates(shape.hidden, shape.inner)
    found = loads(Plan.of(config.training, len(some)), some, None, config.training)
    return FORWARD * sum(cost.seconds(shape, how, load, rates) for load in found) * len(rows) / len(some)


def _ways(config: Config, part: Part, shape: Shape, trained: int, free: int) -> list[tuple[str, int]]:
    """Other settings that fit, the one that costs least time first; an adapter instead of all weights comes last."""
    found, rows = [], rows_of(part)
    for other, settings in _changes(config):
        plan, training = Plan.of(other.training, len(rows)), other.training
        batches = [
            load for step in steps_to_look_at(plan, part.sizes).all for load in loads(plan, rows, step, training)
        ]
        fewer = count_parameters(other) if other.method != config.method else None
        needed = cost.memory(shape, _how(other, fewer[0] if fewer else trained, shape), batches).total
        if needed <= free:
            found.append((settings, needed))
    return found[:WAYS]


def _changes(config: Config) -> Iterator[tuple[Config, str]]:
    """Smaller batches of the same step, activations computed twice, then an adapter; with the settings in words."""
    section = config.training
    sizes = [(section.per_device_train_batch_size, section.gradient_accumulation_steps)]
    while sizes[-1][0] % 2 == 0:
        sizes.append((sizes[-1][0] // 2, sizes[-1][1] * 2))
    for method in sorted({config.method, "lora"}):
        for again in sorted({section.gradient_checkpointing, True}):
            for batch, times in sizes:
                values = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": times}
                values["gradient_checkpointing"] = again
                told = [f"training.{n}={str(v).lower()}" for n, v in values.items() if v != getattr(section, n)]
                told += [f"method={method}"] if method != config.method else []
                if told:
                    update = {"method": method, "training": section.model_copy(update=values)}
                    yield config.model_copy(update=update), " ".join(told)


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
