"""Settings as YAML that people read: the resolved config with each value's origin, and the draft of a new one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tunesmith.config.load import load
from tunesmith.config.nodes import flow
from tunesmith.config.settings import settings, wanted
from tunesmith.errors import ConfigError
from tunesmith.i18n import _
from tunesmith.log import escape

if TYPE_CHECKING:
    from tunesmith.config.schema import Config

# What a draft sets, since most runs change it; the two without a default begin with an example.
_USUAL = (
    "method",
    "model.name_or_path",
    "data.train",
    "data.test_ratio",
    "data.max_length",
    "lora.r",
    "lora.lora_alpha",
    "training.num_train_epochs",
    "training.learning_rate",
    "training.per_device_train_batch_size",
)
_EXAMPLES = {"model.name_or_path": "Qwen/Qwen3-4B-Instruct-2507", "data.train": "data.jsonl"}
STYLES = ("short", "medical", "reference")


def dump(config: Config, origin: Mapping[str, str]) -> str:
    """Every setting of `config`, its origin as a comment. Loaded again it is an equal Config."""
    lines = []
    for name, indent, key, value in _rows(config):
        lines.append(
            f"{indent}{key}:" if name not in settings() else f"{indent}{key}: {flow(value)}  # {escape(origin[name])}"
        )
    return "\n".join(lines) + "\n"


def draft(preset: str | None = None, style: str = "short") -> str:
    """A YAML file to begin with, in the reader's language: `short` sets what most runs change, `medical` a whole run
    of that field, `reference` explains every setting. ConfigError for another style or preset."""
    if style not in STYLES:
        text = _("There is no style {name}; there are {names}.")
        raise ConfigError(text.format(name=escape(style), names=", ".join(STYLES)), "--style")
    below = load(values={"preset": preset}, files=False)
    example = _EXAMPLES | (_medical() if style == "medical" else {})
    used = {*_USUAL, *example, *(["preset"] if preset else [])}
    lines = [_opening(style), ""]
    for name, indent, key, value in _rows(below.config):
        if name not in settings():
            if style == "reference" or any(each.startswith(f"{name}.") for each in used):
                lines += [*([""] if lines[-1] else []), f"{indent}{key}:"]
            continue
        given = example.get(name, value) if below.origin[name] == "default" else value
        line = f"{key}: {flow(preset if name == 'preset' else given)}"
        meaning = _(settings()[name]["description"])
        if style == "reference":
            line = line if name in used else f"#{line}"
            lines += [f"{indent}# {meaning}", f"{indent}# {_takes(name)}", indent + line, ""]
        elif name in used:
            lines.append(f"{indent}{line}  # {meaning}")
    return "\n".join(lines).rstrip() + "\n"


def _opening(style: str) -> str:
    if style == "reference":
        return _("# Every setting, with what holds without it. Take the '#' before a name away to set it.")
    return _("# A run's settings. tunesmith init --style reference explains all the others.")


def _takes(name: str) -> str:
    prop = settings()[name]
    if prop["default"] is None:
        return _("Takes {wanted}.").format(wanted=wanted(prop))
    return _("Takes {wanted}; the default is {value}.").format(wanted=wanted(prop), value=flow(prop["default"]))


def _medical() -> dict[str, Any]:
    """A run on questions to a doctor: answers are long, mistakes dear, so a part is held back to choose and to test."""
    system = _("You are a careful medical assistant. Where you are not sure, say so and advise seeing a doctor.")
    return {
        "model.name_or_path": "Qwen/Qwen2.5-7B-Instruct",
        "template.system": system,
        "data.train": "medical.jsonl",
        "data.test_ratio": 0.1,
        "data.validation_ratio": 0.05,
        "lora.r": 16,
        "lora.lora_alpha": 32,
        "lora.lora_dropout": 0.05,
        "training.output_dir": "runs/medical",
        "training.per_device_train_batch_size": 4,
        "training.gradient_accumulation_steps": 4,
        "training.gradient_checkpointing": True,
        "training.save_steps": 100,
        "training.early_stopping_patience": 3,
        "generation.max_new_tokens": 512,
    }


def _rows(config: Config) -> Iterator[tuple[str, str, str, Any]]:
    """Each setting as (dotted name, indent, own name, value), and before the first of a group a row for the group."""
    values = config.model_dump(mode="json")
    group = ""
    for name in settings():
        head, dot, key = name.rpartition(".")
        if head != group:
            group = head
            yield head, "", head, None
        yield name, "  " if dot else "", key, values[head][key] if dot else values[key]
