"""AdamW and the course of the learning rate: a function of the step alone, so that there is nothing to save."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from tunesmith.config.schema import TrainingSection


def make_optimizer(model: nn.Module, section: TrainingSection) -> torch.optim.AdamW:
    """AdamW over what is trainable; biases and norms (vectors) do not decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": section.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]],
        lr=section.learning_rate,
        betas=(section.adam_beta1, section.adam_beta2),
        eps=section.adam_epsilon,
    )


def warmup_steps(section: TrainingSection, total: int) -> int:
    return section.warmup_steps or math.ceil(section.warmup_ratio * total)


def rate_at(step: int, total: int, section: TrainingSection) -> float:
    """Learning rate of step `step` (from 0) of `total`: a linear rise, then linear, cosine or constant."""
    rise = warmup_steps(section, total)
    if step < rise:
        return section.learning_rate * (step + 1) / rise
    done = (step - rise) / max(1, total - rise)
    if section.lr_scheduler_type == "linear":
        return section.learning_rate * (1 - done)
    if section.lr_scheduler_type == "cosine":
        return section.learning_rate * (1 + math.cos(math.pi * done)) / 2
    return section.learning_rate
