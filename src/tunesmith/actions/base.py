"""The base model before any weight is read: its tokenizer, its template, and how many parameters will be trained.

Loads no torch, unless the model is a GGUF file that has to be converted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.errors import ConfigError, ModelError
from tunesmith.i18n import _
from tunesmith.tokens.encode import Encoder

if TYPE_CHECKING:
    from tunesmith.config.schema import Config, ModelSection, TemplateSection

TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "chat_template*", "config.json", "generation_config.json")


def make_encoder(model: ModelSection, template: TemplateSection, text: str | None = None) -> Encoder:
    name = model.tokenizer or model.name_or_path
    if not name:
        raise _no_model()
    return Encoder.load(tokenizer_folder(name), template, text)


def tokenizer_folder(name: str) -> Path:
    """The folder with the tokenizer of a model: itself, a converted GGUF file, or what the hub sends."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        from tunesmith.model.load import gguf_folder

        return gguf_folder(path)
    from huggingface_hub import snapshot_download

    reason = _("is neither a folder or file here nor a model that the hub sends.")
    for offline in (True, False):
        try:
            found = Path(snapshot_download(name, allow_patterns=list(TOKENIZER_FILES), local_files_only=offline))
        except (OSError, ValueError):
            continue
        if (found / "tokenizer.json").is_file():
            return found
        reason = _("has no tokenizer.json. Name a tokenizer's folder in model.tokenizer.")
    raise ModelError(reason, place=name)


def count_parameters(config: Config) -> tuple[int, int] | None:
    """(trainable, all) as the weights' file headers say; None where these do not tell: a model that is still on the
    hub, layers named by a pattern.

    Raises ModelError for files that are missing or damaged, and for target_modules that the model does not have.
    """
    from tunesmith.model.shapes import adapter_parameters, all_parameters

    name = config.model.name_or_path
    if not name:
        raise _no_model()
    folder = tokenizer_folder(name)
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
        m for m in ([wanted] if isinstance(wanted, str) else wanted) if not adapter_parameters(folder, 1, _one(m))
    ]
    if absent:
        text = _("The model has no linear layer {names}. all-linear takes every one that it has.")
        raise ModelError(text.format(names=", ".join(absent)), place="lora.target_modules")
    added = adapter_parameters(folder, config.lora.r, wanted)
    return added, total + added


def _one(module: str) -> str | list[str]:
    return module if module == "all-linear" else [module]


def _no_model() -> ConfigError:
    return ConfigError(_("There is no model. Name one: --model NAME, or model.name_or_path in YAML."))
