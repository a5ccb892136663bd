"""A new LoRA adapter on a model, and how many parameters it trains.

The settings arrive as their section; files, loading and the arithmetic of training are other files' business.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from tunesmith.config.schema import LoraSection
from tunesmith.errors import ModelError
from tunesmith.i18n import _
from tunesmith.model.load import quiet


def add_adapter(model: PreTrainedModel, section: LoraSection, seed: int) -> PeftModel:
    """The model with a trainable adapter in float32; everything else is frozen.

    `seed` alone decides the new weights; the caller's random state stays as it is. Raises ModelError where
    `lora.target_modules` or `lora.layers_to_transform` name nothing in this model.
    """
    alpha: Any = section.lora_alpha
    _check_layers(model, section)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=section.r,
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha,  # others read the file and expect 16, not 16.0
        lora_dropout=section.lora_dropout,
        target_modules=_linear_names(model) if _some_layers(section) else section.target_modules,
        layers_to_transform=section.layers_to_transform,
        modules_to_save=section.modules_to_save or None,
        trainable_token_indices=section.trainable_token_indices,
        use_rslora=section.use_rslora,
        use_dora=section.use_dora,
    )
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(seed)
        try:
            adapted = get_peft_model(model, config, autocast_adapter_dtype=True)
        except ValueError as error:
            problem = _("{names} cannot carry an adapter in this model. Its linear layers are {known}.")
            text = problem.format(names=section.target_modules, known=", ".join(_linear_names(model)))
            raise ModelError(text, "lora.target_modules") from error
    assert isinstance(adapted, PeftModel)
    return adapted


def _some_layers(section: LoraSection) -> bool:
    """peft takes layers for modules that are named, and not for all-linear."""
    return section.layers_to_transform is not None and section.target_modules == "all-linear"


def _check_layers(model: PreTrainedModel, section: LoraSection) -> None:
    layers = model.config.get_text_config().num_hidden_layers
    beyond = [i for i in section.layers_to_transform or () if i >= layers]
    if beyond:
        problem = _("The model has the layers 0 to {last}; there is no {beyond}.")
        text = problem.format(last=layers - 1, beyond=", ".join(map(str, beyond)))
        raise ModelError(text, "lora.layers_to_transform")


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(trainable, all) parameters, as peft counts them: the adapter is among all, packed 4-bit weights count twice."""
    if isinstance(model, PeftModel):
        return model.get_nb_trainable_parameters()
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)


def describe_parameters(model: nn.Module) -> str:
    """One line for the user; a second sentence names expert weights that no adapter reaches."""
    trainable, total = count_parameters(model)
    share = 100 * trainable / total
    said = _("{trainable:,} of {total:,} parameters are trained ({share:.2f} %).").format(
        trainable=trainable, total=total, share=share
    )
    missed = _fused_experts(model) if isinstance(model, PeftModel) else []
    if missed:
        said += " " + _("The experts' {count:,} weights are not linear layers and get no adapter.").format(
            count=sum(p.numel() for p in missed)
        )
    return said


def _fused_experts(model: nn.Module) -> list[nn.Parameter]:
    """Weights of all experts in one tensor [experts, in, out]: peft adapts linear layers and passes them by."""
    return [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim == 3 and re.search(r"\bexperts\b", name) and not parameter.requires_grad
    ]


def _linear_names(model: nn.Module) -> list[str]:
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    found = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }
    return sorted(found)
