"""The base model before any weight is read: its tokenizer, its template, and how many parameters will be trained.

Loads no torch, unless the model is a GGUF file that has to be converted.
"""

from __future__ import annotations

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


def count_parameters(config: Config) -> tuple[int, int] | None:
    """(trainable, all) as the weights' file headers say; None where these do not tell: a model that is still on the
    hub, layers named by a pattern.

    Raises ModelError for files that are missing or damaged, and for target_modules that the model does not have.
    """
    from tunesmith.config.schema import LoraSection
    from tunesmith.model.shapes import adapter_parameters, all_parameters

    name = config.model.name_or_path
    if not name:
        raise _no_model()
    folder = locate(name, weights=False)
    try:
        total = all_parameters(folder)
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
    return added, total + added


def _one(module: str) -> str | list[str]:
    return module if module == "all-linear" else [module]


def _no_model() -> ConfigError:
    return ConfigError(_("There is no model. Name one: --model NAME, or model.name_or_path in YAML."))
