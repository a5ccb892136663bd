"""The base model before any weight is read: its tokenizer, its template, and how many parameters will be trained.

Loads no torch, unless the model is a GGUF file that has to be converted.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.errors import ConfigError, ModelError
from tunesmith.i18n import _
from tunesmith.model.folder import locate
from tunesmith.tokens.encode import Encoder

if TYPE_CHECKING:
    from tunesmith.config.schema import Config, ModelSection, TemplateSection


def make_encoder(model: ModelSection, template: TemplateSection, text: str | None = None) -> Encoder:
    name = model.tokenizer or model.name_or_path
    if not name:
        raise _no_model()
    return Encoder.load(locate(name, weights=False), template, text)


def window(model: ModelSection) -> int | None:
    """How many tokens the base model was made for, as its config.json says; None where nothing says it."""
    from tunesmith.model.weights import read_config, text_config

    try:
        found = text_config(read_config(locate(model.name_or_path or "", weights=False)))
    except ModelError:
        return None
    limit = found.get("max_position_embeddings")
    return limit if isinstance(limit, int) else None


def check_output(config: Config) -> None:
    """Raises ConfigError where a run folder can't be made, or would lie in the base model, whose files stay as they
    are."""
    out, base = config.training.output_dir, Path(config.model.name_or_path or "").expanduser()
    if out is None:
        return
    if config.model.name_or_path and base.is_dir() and out.resolve().is_relative_to(base.resolve()):
        text = _("{out} lies in the folder of the base model, where nothing may change. Choose another.")
        raise ConfigError(text.format(out=out), place="training.output_dir")
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if os.path.lexists(folder))
    if not os.path.isdir(there) or not os.access(there, os.W_OK | os.X_OK):
        text = _("{out} can't be made: {folder} is no folder that may be written to. Choose another.")
        raise ConfigError(text.format(out=out, folder=there), place="training.output_dir")


def count_parameters(config: Config) -> tuple[int, int] | None:
    """(trainable, all) as the weights' file headers say; None where these do not tell: a model that is still on the
    hub, layers named by a pattern.

    Raises ModelError for files that are missing or damaged, and for target_modules that the model does not have.
    """
    from tunesmith.config.schema import LoraSection
    from tunesmith.model.check import refuse_unfit
    from tunesmith.model.shapes import adapter_parameters, all_parameters
    from tunesmith.model.weights import read_config, tensors

    name = config.model.name_or_path
    if not name:
        raise _no_model()
    folder = locate(name, weights=False)
    try:
        total = all_parameters(folder)
        refuse_unfit(tensors(folder), read_config(folder), folder)
    except ModelError:
        if Path(name).expanduser().exists():
            raise
        return None
    if config.method == "full":
        return total, total
    wanted = config.lora.target_modules
    absent = [
        name
        for name in ([wanted] if isinstance(wanted, str) else wanted)
        if not adapter_parameters(folder, LoraSection(r=1, target_modules=_one(name)))
    ]
    if absent:
        text = _("The model has no linear layer {names}. all-linear takes every one that it has.")
        raise ModelError(text.format(names=", ".join(absent)), place="lora.target_modules")
    added = adapter_parameters(folder, config.lora)
    if not added:
        text = _("By these settings nothing would be trained: {targets} in the layers {layers}.")
        found = text.format(targets=wanted, layers=config.lora.layers_to_transform or _("all"))
        raise ModelError(found, place="lora.target_modules, lora.layers_to_transform")
    return added, total + added


def _one(module: str) -> str | list[str]:
    return module if module == "all-linear" else [module]


def _no_model() -> ConfigError:
    return ConfigError(_("There is no model. Name one: --model NAME, or model.name_or_path in YAML."))
