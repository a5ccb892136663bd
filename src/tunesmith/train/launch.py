"""Devices and precision, by accelerate: what the machine offers and what the settings ask, settled before training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from tunesmith.errors import ConfigError
from tunesmith.i18n import _

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
    return Accelerator(mixed_precision=precision, cpu=place.type == "cpu")


def refuse_half(device: str) -> None:
    """Raises ConfigError where float16 would have to train on a CPU."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        raise ConfigError(
            _("float16 does not train on a CPU. Leave fp16 out: bfloat16 is used where the CPU can, else float32."),
            place="training.fp16",
        )
