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


def start(section: TrainingSection, *, weights: torch.dtype, device: str) -> Accelerator:
    """The accelerator for these settings. `weights` is the type of the loaded model, `device` where it lies.

    Autocast is left out where the weights have the type to compute in already. Raises ConfigError for what this
    machine can't do.
    """
    on_cpu = torch.device(device).type == "cpu"
    if section.fp16:
        refuse_half(device)
    precision = "no"
    if section.fp16:
        precision = "fp16"
    elif section.bf16 and weights == torch.float32:
        precision = "bf16"
    AcceleratorState._reset_state(True)  # a process may train twice, in another precision
    return Accelerator(mixed_precision=precision, cpu=on_cpu)


def refuse_half(device: str) -> None:
    """Raises ConfigError where float16 would have to train on a CPU."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        raise ConfigError(
            _("float16 does not train on a CPU. Leave fp16 out: bfloat16 is used where the CPU can, else float32."),
            place="training.fp16",
        )
