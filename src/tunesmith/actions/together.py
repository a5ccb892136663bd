"""What the processes of one training agree on before it begins: what is refused, who encodes the rows, where it starts.

The first process finds out and tells; the others hear it. How they train together is the engines' business.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith import rundir
from tunesmith.actions.encoding import usual_place
from tunesmith.actions.prepare import Prepared, prepare
from tunesmith.actions.voice import Voice
from tunesmith.config.deepspeed import Known, filled, stage
from tunesmith.errors import ConfigError, Problem
from tunesmith.i18n import _
from tunesmith.train.world import World

if TYPE_CHECKING:
    from tunesmith.config.schema import Config
    from tunesmith.rundir import Checkpoint

BEGIN = "begin"  # what the first process tells the others


@dataclass(frozen=True)
class Begin:
    """Where a training begins: its folder, the checkpoint behind which it goes on, the step that is tried first."""

    run: Path
    checkpoint: Checkpoint | None
    heaviest: int | None
    any_base: bool

    def tell(self, config: Config, world: World) -> None:
        """What the other processes can't find out for themselves."""
        if world.several:
            step, times = self.checkpoint and self.checkpoint.step, config.training.gradient_accumulation_steps
            told = {"step": step, "heaviest": self.heaviest, "date": config.template.date, "accumulation": times}
            world.tell(BEGIN, told)


def heard(config: Config, world: World, *, any_base: bool) -> tuple[Begin, Prepared]:
    """What the first process told, and the rows, which it has encoded. `config` takes on what was decided."""
    told, run = world.hear(BEGIN), config.training.output_dir
    assert run is not None  # the first process has refused that
    config.template.date, config.training.gradient_accumulation_steps = told["date"], told["accumulation"]
    leader = world.rank - world.local_rank  # on another machine the rows may have to be encoded once more
    if leader and world.local_rank:
        world.hear(f"{BEGIN}/{leader}")
    prepared = prepare(shared(config, world), Voice())
    if leader and not world.local_rank:
        world.tell(f"{BEGIN}/{leader}", True)
    checkpoint = next((c for c in rundir.checkpoints(run) if c.step == told["step"]), None)
    return Begin(run, checkpoint, told["heaviest"], any_base), prepared


def shared(config: Config, world: World) -> Config:
    """Settings by which one process encodes and the others find it done, however few the rows are."""
    if not world.several or config.data.cache != "auto":
        return config
    data = config.data.model_copy(update={"cache": str(usual_place())})
    return config.model_copy(update={"data": data})


def refuse_unfit(config: Config, world: World) -> None:
    """Raises ConfigError with all that several processes, or an engine, can't do as the settings have it."""
    training, model, problems = config.training, config.model, []
    if training.deepspeed is not None:
        try:
            filled(training.deepspeed, Known(training, world.size, hidden=1))
        except ConfigError as error:
            problems += error.problems
        if find_spec("deepspeed") is None:
            text = _("The package is missing. Type: pip install 'tunesmith[deepspeed]'")
            problems.append(Problem("training.deepspeed", text))
    if world.several and model.device_map:
        text = _("It spreads one model over all GPUs, and several processes train. Leave it out.")
        problems.append(Problem("model.device_map", text))
    if spread := is_spread(config):
        if model.load_in_4bit or model.load_in_8bit:
            text = _("Weights in 4 or 8 bit can't be spread over processes. Leave it out, or {setting}.")
            problems.append(Problem("model.load_in_4bit, load_in_8bit", text.format(setting=spread)))
        if config.evaluation.during_training or config.evaluation.samples:
            text = _("No process has all weights to answer with. Leave it out, or {setting}.")
            problems.append(Problem("evaluation.during_training, samples", text.format(setting=spread)))
    if problems:
        raise ConfigError(problems)


def is_spread(config: Config) -> str:
    """The setting by which no process holds all weights, if any."""
    if config.training.fsdp:
        return "training.fsdp"
    file = config.training.deepspeed
    try:
        return "training.deepspeed" if file is not None and stage(file) == 3 else ""
    except ConfigError:
        return ""
