"""Devices, precision and engine, by accelerate and DeepSpeed: what the machine offers and the settings ask, settled
before training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs

from tunesmith.config.deepspeed import Known, filled, stage
from tunesmith.errors import ConfigError
from tunesmith.i18n import _
from tunesmith.train.loss import causal_model
from tunesmith.train.world import World

if TYPE_CHECKING:
    from tunesmith.config.schema import TrainingSection


def weights_dtype(dtype: str, section: TrainingSection, *, full: bool) -> str:
    """The type in which to load the weights, where `model.dtype` leaves it open (auto).

    Weights that are trained themselves stay in float32, whatever they are computed in: gradients of float16 weights
    cannot be unscaled, and small steps vanish in bfloat16. Frozen ones are kept in the type that computes.
    """
    if dtype != "auto":
        return dtype
    if full or (section.bf16 is False and not section.fp16):
        return "float32"
    return "float16" if section.fp16 else "auto"


def start(section: TrainingSection, *, weights: torch.dtype, device: str) -> Accelerator:
    """The accelerator for these settings. `weights` is the type of the loaded model, `device` where it lies.

    Autocast is left out where the weights have the type to compute in already. Raises ConfigError for what this
    machine can't do.
    """
    place = torch.device(device)
    if place.type == "cuda":  # accelerate takes the current GPU, and would move a model that lies on another
        torch.cuda.set_device(place)
    if section.fp16:
        refuse_half(device)
    precision = "no"
    if section.fp16:
        precision = "fp16"
    elif section.bf16 and weights == torch.float32:
        precision = "bf16"
    AcceleratorState._reset_state(True)  # a process may train twice, in another precision
    plain = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    return Accelerator(mixed_precision=precision, cpu=place.type == "cpu", kwargs_handlers=[plain])


def sharded(section: TrainingSection) -> bool:
    """Whether no process ever holds all weights: then nothing may look at them beside the engine."""
    if section.deepspeed is not None:
        return stage(section.deepspeed) == 3
    return section.fsdp is not None


def place(device: str, section: TrainingSection, world: World) -> str:
    """Where a process loads the model: on its own GPU; in memory where the engine then spreads it."""
    if sharded(section):
        return "cpu"
    if world.several and device in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{world.local_rank}"
    return device


def computes_on(model: Any, world: World) -> str:
    """The device of a process: the model's own, or its GPU for a model that is spread from memory."""
    spread = torch.cuda.is_available() and str(model.device) == "cpu" and torch.distributed.is_initialized()
    return f"cuda:{world.local_rank}" if spread else str(model.device)


def settings_of_deepspeed(section: TrainingSection, world: World, model: Any, precision: str) -> dict[str, Any] | None:
    """DeepSpeed's settings with every `auto` filled in; None where it does not train. Raises ConfigError."""
    if section.deepspeed is None:
        return None
    hidden = causal_model(model).config.get_text_config().hidden_size
    return filled(section.deepspeed, Known(section, world.size, hidden, precision == "bf16"))


def refuse_half(device: str) -> None:
    """Raises ConfigError where float16 would have to train on a CPU."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        raise ConfigError(
            _("float16 does not train on a CPU. Leave fp16 out: bfloat16 is used where the CPU can, else float32."),
            place="training.fp16",
        )
