"""The Python door, by the names of ChatML training scripts: `get_config`, `SFTTrainer`, `ChatMLDataProcessor`.

Thin over actions, as the command line is. Holds no setting: what a field is called here, config/names.py knows.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith import rundir
from tunesmith.config.load import load
from tunesmith.config.names import explain, named, suggest
from tunesmith.config.settings import sections, settings
from tunesmith.errors import ConfigError, Problem
from tunesmith.i18n import _

CHATML = Path("data/chatml_data.json")  # where such scripts keep their rows
IGNORED = -100  # the label of a token that is not trained, as torch has it
_FIELDS = {"model.name_or_path": "model_name", "model.dtype": "torch_dtype", "data.train": "train_data_path"}


class ChatMLDataProcessor:
    """Makes ChatML rows and writes them to a file."""

    def create_chatml_sample(self, *, user: str, assistant: str, system: str | None = None) -> dict[str, Any]:
        """One row: `{"messages": [...]}` with a question and its answer, behind a system prompt if there is one."""
        said = {"system": system, "user": user, "assistant": assistant}
        return {"messages": [{"role": role, "content": text} for role, text in said.items() if text is not None]}

    def save_chatml_data(self, data: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
        """Writes the rows as one JSON list, which replaces what was there. Folders on the way are made."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(list(data), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        return path


def get_config(name: str) -> dict[str, dict[str, Any]]:
    """The settings of a preset as three parts, model, data and training, to be changed and given to SFTTrainer.

    What the preset says beyond these parts stays with it: it is named in the model's part. ConfigError.
    """
    config = load(values={"preset": name}, files=False, place="get_config").config
    parts: dict[str, dict[str, Any]] = {"model": {"preset": name}}
    for section in ("model", "data", "training"):
        for key, value in getattr(config, section).model_dump(exclude_none=True).items():
            parts.setdefault(section, {})[_FIELDS.get(f"{section}.{key}", key)] = value
    parts["data"] = {"train_data_path": str(CHATML), **parts["data"], "ignore_index": IGNORED}
    return parts


class SFTTrainer:
    """Trains by three parts of settings: mappings, dataclasses or any objects with fields.

    A field is a setting by its own name (`num_train_epochs`), by that of older scripts (`model_name`), or with its
    group (`lora.r`, or `lora` with a mapping). Raises ConfigError that names every field it does not know.
    """

    def __init__(self, model_args: Any, data_args: Any = None, training_args: Any = None) -> None:
        parts = {"model": _fields(model_args), "data": _fields(data_args), "training": _fields(training_args)}
        self.ignore_index = int(parts["data"].pop("ignore_index", IGNORED))
        self.loaded = load(values=_values(parts), place="SFTTrainer")

    def train(self, *, resume: bool = False, overwrite: bool = False) -> Path:
        """Trains, prints the folder that `from_pretrained` loads, and returns it: the run's best checkpoint."""
        from tunesmith.actions.train import train
        from tunesmith.cli.terminal import Terminal

        run = train(self.loaded, Terminal(), resume=resume, overwrite=overwrite)
        checkpoint = rundir.best(run) or rundir.latest(run)
        assert checkpoint is not None  # a run that ends has saved its last step
        print(checkpoint.path)
        return checkpoint.path

    def export_labels(self, path: str | Path) -> int:
        """Writes every trained answer as a JSON line with `input_ids` and `labels`; returns their number.

        Only here is there an `ignore_index`: the label of tokens that are not trained.
        """
        from tunesmith.actions.check import export_pairs
        from tunesmith.cli.terminal import Terminal

        return export_pairs(self.loaded.config, Path(path), Terminal(), ignore_index=self.ignore_index)


def _fields(given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return dict(given)
    if dataclasses.is_dataclass(given):
        return {field.name: getattr(given, field.name) for field in dataclasses.fields(given)}
    return dict(vars(given))


def _values(parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Settings by dotted name. ConfigError for all fields at once that are none, or that say one setting twice."""
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for place, field, value in _given(parts):
        name = named(field) if explain(field) is None else None
        if name not in settings():
            problems.append(Problem(place, _unknown(field)))
        elif name in values and values[name] != value:
            text = _("{setting} is given twice, as {first} and as {second}. Keep one.")
            problems.append(Problem(place, text.format(setting=name, first=values[name], second=value)))
        else:
            values[name] = value
    if problems:
        raise ConfigError(problems)
    return values


def _unknown(field: str) -> str:
    text = _("{name} is not a setting.").format(name=field.rpartition(".")[2])
    near = suggest(field)
    return f"{text} {explain(field) or (near and _('Did you mean {name}?').format(name=near)) or ''}".rstrip()


def _given(parts: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str, Any]]:
    """(which argument, dotted field, value) of every field that has a value."""
    for section, fields in parts.items():
        for key, value in fields.items():
            group = named(key)
            if isinstance(value, Mapping) and group in sections():
                yield from ((f"{section}_args", f"{group}.{inner}", each) for inner, each in value.items())
            elif value is not None:
                yield f"{section}_args", key if "." in key else f"{section}.{key}", value
