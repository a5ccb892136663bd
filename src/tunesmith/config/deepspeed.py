"""DeepSpeed's own file of settings: found, every `auto` filled from ours, held against ours, before anything starts.

Ours are the ones that train: what says the same twice must agree, and what only DeepSpeed knows is left as it stands.
Loads neither torch nor DeepSpeed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.config.layers import PRESETS
from tunesmith.errors import ConfigError, Problem
from tunesmith.i18n import _

if TYPE_CHECKING:
    from tunesmith.config.schema import TrainingSection

AUTO = "auto"
OLD = {"ds_config": "zero2", "ds_config_lora": "zero2", "ds_config_zero3": "zero3"}  # names in older scripts
SCHEDULES = {"WarmupLR": "constant", "WarmupDecayLR": "linear", "WarmupCosineLR": "cosine"}
# What our loop decides and DeepSpeed must not: adapters in float32 on a base in bfloat16 are no test of its optimizer.
OURS = {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False, "steps_per_print": 10**9}


@dataclass(frozen=True)
class Known:
    """What DeepSpeed's settings speak of and ours decide. `autocast`: weights in float32 are computed in bfloat16."""

    training: TrainingSection
    world: int
    hidden: int
    autocast: bool = False

    def values(self) -> dict[str, Any]:
        """Dotted name of DeepSpeed's -> our value."""
        ours = self.training
        batch, times = ours.per_device_train_batch_size, ours.gradient_accumulation_steps
        return {
            "train_batch_size": batch * times * self.world,
            "train_micro_batch_size_per_gpu": batch,
            "gradient_accumulation_steps": times,
            "gradient_clipping": ours.max_grad_norm,
            "bf16.enabled": self.autocast,
            "fp16.enabled": ours.fp16,
            "optimizer.params.lr": ours.learning_rate,
            "optimizer.params.betas": [ours.adam_beta1, ours.adam_beta2],
            "optimizer.params.eps": ours.adam_epsilon,
            "optimizer.params.weight_decay": ours.weight_decay,
        }

    def sizes(self) -> dict[str, int]:
        """What only DeepSpeed has and fits to the model's width, as transformers fits it."""
        return {
            "zero_optimization.reduce_bucket_size": self.hidden**2,
            "zero_optimization.stage3_prefetch_bucket_size": int(0.9 * self.hidden**2),
            "zero_optimization.stage3_param_persistence_threshold": 10 * self.hidden,
        }


def shipped(path: Path) -> Path | None:
    """The file that comes with tunesmith under this name, or under the one that older scripts gave it."""
    file = PRESETS / "deepspeed" / f"{OLD.get(path.stem, path.stem)}.json"
    return file if file.is_file() and path.suffix in ("", ".json") else None


def read(path: Path) -> dict[str, Any]:
    """DeepSpeed's settings as they stand. Raises ConfigError."""
    file = path if path.is_file() else shipped(path)
    if file is None:
        names = ", ".join(sorted(each.stem for each in (PRESETS / "deepspeed").glob("*.json")))
        text = _("There is no such file, and none of this name comes with tunesmith: {names}.")
        raise ConfigError(text.format(names=names), str(path))
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(_("This is no JSON file: {why}.").format(why=error), str(file)) from None
    if not isinstance(found, dict):
        raise ConfigError(_("This is no file of DeepSpeed's settings: an object is expected."), str(file))
    return found


def stage(path: Path) -> int:
    """Of ZeRO: from 3 on, no process holds all weights. Raises ConfigError."""
    return int(read(path).get("zero_optimization", {}).get("stage", 0))


def filled(path: Path, known: Known) -> dict[str, Any]:
    """The settings to start DeepSpeed with. Raises ConfigError with every contradiction to ours."""
    given = read(path)
    problems = [Problem(f"{path}: {name}", said) for name, said in _contradictions(given, known)]
    if problems:
        raise ConfigError(problems)
    ours = known.values() | known.sizes()
    result = {name: value for name, value in given.items() if name not in ("optimizer", "scheduler")}
    for name, value in _flat(result):
        if value == AUTO:
            _put(result, name, ours[name])
    for name, value in known.values().items():
        if not name.startswith("optimizer."):
            _put(result, name, value if name != "bf16.enabled" else _at(result, name) or value)
    return OURS | result


def _contradictions(given: dict[str, Any], known: Known) -> Iterator[tuple[str, str]]:
    ours, sizes = known.values(), known.sizes()
    for name, value in _flat(given):
        if name.startswith("scheduler."):
            yield from _schedule(name, value, known.training)
        elif name == "optimizer.type":
            if value not in ("Adam", "AdamW"):
                yield name, _("tunesmith trains with AdamW. Leave the optimizer out, or name AdamW.")
        elif name == "bf16.enabled" and value is True:
            if known.training.bf16 is False or known.training.fp16:
                yield name, _("It is on here, and training.bf16 or training.fp16 say otherwise. Write auto.")
        elif value == AUTO:
            if name not in ours and name not in sizes:
                yield name, _("tunesmith has no value for this: write one instead of auto.")
        elif name in ours and not _same(value, ours[name]):
            text = _("It is {value} here and {ours} by tunesmith's settings. Write auto, or make them agree.")
            yield name, text.format(value=json.dumps(value), ours=json.dumps(ours[name]))
        elif name.startswith("optimizer.params.") and name not in ours:
            yield name, _("tunesmith's AdamW does not know this. Leave it out.")
    if given.get("zero_optimization", {}).get("stage", 0) not in (0, 1, 2, 3):
        yield "zero_optimization.stage", _("The stages are 0, 1, 2 and 3.")


def _schedule(name: str, value: Any, training: TrainingSection) -> Iterator[tuple[str, str]]:
    if name == "scheduler.type" and SCHEDULES.get(value) != training.lr_scheduler_type:
        text = _("The rate follows training.lr_scheduler_type, which is {ours}. Leave the scheduler out.")
        yield name, text.format(ours=training.lr_scheduler_type)
    elif name.startswith("scheduler.params.") and value != AUTO:
        yield name, _("The course of the rate is set in training. Write auto, or leave the scheduler out.")


def _same(value: Any, ours: Any) -> bool:
    if isinstance(value, int | float) and isinstance(ours, int | float):
        return float(value) == float(ours)
    return bool(value == ours)


def _flat(tree: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in list(tree.items()):
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield above + name, value


def _at(tree: dict[str, Any], name: str) -> Any:
    for part in name.split("."):
        tree = tree.get(part, {}) if isinstance(tree, dict) else {}
    return tree


def _put(tree: dict[str, Any], name: str, value: Any) -> None:
    *above, last = name.split(".")
    for part in above:
        tree[part] = dict(tree.get(part) or {})
        tree = tree[part]
    tree[last] = value
