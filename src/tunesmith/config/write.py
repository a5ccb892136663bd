"""Settings as YAML that people read: the resolved config with each value's origin, and the draft of a new one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tunesmith.config.load import load
from tunesmith.config.nodes import flow
from tunesmith.config.settings import settings
from tunesmith.i18n import _
from tunesmith.log import escape

if TYPE_CHECKING:
    from tunesmith.config.schema import Config

# What a draft sets, since most runs change it; the two without a default begin with an example.
_USUAL = (
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


def dump(config: Config, origin: Mapping[str, str]) -> str:
    """Every setting of `config`, its origin as a comment. Loaded again it is an equal Config."""
    lines = []
    for name, indent, key, value in _rows(config):
        lines.append(
            f"{indent}{key}:" if name not in settings() else f"{indent}{key}: {flow(value)}  # {escape(origin[name])}"
        )
    return "\n".join(lines) + "\n"


def draft(preset: str | None = None) -> str:
    """A YAML file to begin with: every setting with its meaning; the usual ones set, the others as comments."""
    lines = [_("# Set what you need. A line that begins with '#' shows what holds without it.")]
    for name, indent, key, value in _rows(load(values={"preset": preset}, files=False).config):
        if name not in settings():
            lines += ["", f"{indent}{key}:"]
            continue
        shown = preset if name == "preset" else _EXAMPLES.get(name) if value is None else value
        used = name in _USUAL or (name == "preset" and preset is not None)
        lines.append(f"{indent}{'' if used else '# '}{key}: {flow(shown)}  # {_(settings()[name]['description'])}")
    return "\n".join(lines) + "\n"


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
