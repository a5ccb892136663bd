"""What a run folder records of its making: settings, versions and hashes.

Knows nothing of weights; checkpoints are the loop's, questions to them rundir's, what may go on in a folder resume's.
"""

from __future__ import annotations

import os
import platform
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith import rundir
from tunesmith.actions.prepare import Prepared
from tunesmith.config.write import dump
from tunesmith.data import write
from tunesmith.durable import write_text

if TYPE_CHECKING:
    from tunesmith.config.load import Loaded
    from tunesmith.config.schema import Config

PACKAGES = ("torch", "transformers", "peft", "accelerate", "tokenizers")
CONFIG = "config.yaml"
TOLD = ("thinking", "enable_thinking", "system", "date", "kwargs")  # of the template: what an answer depends on
SYSTEMS = 20  # different system prompts that a run remembers


def whole_paths(config: Config) -> Config:
    """The config with every path of this machine absolute: a run is asked from other folders later."""
    config = config.model_copy(deep=True)
    model, template, data = config.model, config.template, config.data
    model.name_or_path, model.tokenizer = _whole(model.name_or_path), _whole(model.tokenizer)
    template.path = _whole(template.path)
    data.train = [_whole(path) for path in data.train] if isinstance(data.train, list) else _whole(data.train)
    data.validation, data.test = _whole(data.validation), _whole(data.test)
    for named, key in ((template, "fallback"), (data, "format")):  # a shipped one's name, or a file
        if str(getattr(named, key)).endswith((".py", ".jinja")):
            setattr(named, key, _whole(getattr(named, key)))
    metrics = config.evaluation.metrics or []
    config.evaluation.metrics = [_whole(m) if m.endswith(".py") else m for m in metrics] or None
    first = data.train[0] if isinstance(data.train, list) else data.train
    if config.training.output_dir is None and first is not None:
        config.training.output_dir = Path("runs") / first.stem
    if config.training.output_dir is not None:
        config.training.output_dir = config.training.output_dir.expanduser().absolute()
    return config


def _whole(path: Any) -> Any:
    """An absolute path of the same type where something lies there; a hub id, or nothing, stays as it is."""
    if path is None or not os.path.exists(found := os.path.abspath(os.path.expanduser(path))):
        return path
    return type(path)(found)


def write_settings(run: Path, config: Config, loaded: Loaded) -> None:
    write_text(run / CONFIG, dump(config, loaded.origin))


def write_record(run: Path, config: Config, prepared: Prepared, *, begins: bool) -> None:
    """run.json, ledger.json and rejected.jsonl. Of a run that `begins`, numbers of one that never took off are removed;
    of one that goes on, what it is made from now is noted."""
    encoder = prepared.encoder
    record: dict[str, Any] = {
        "format": 1,
        "base": config.model.name_or_path,
        "tokenizer": config.model.tokenizer,
        "method": config.method,
        "template": {
            "text": encoder.template.text,
            "sha256": encoder.template.sha256,
            "source": encoder.template.source,
            **{name: getattr(config.template, name) for name in TOLD},
            "systems": prepared.train.systems(SYSTEMS),
        },
        "data_sha256": prepared.data_sha256,
        "best_by": prepared.chooser,
        "seed": config.training.seed,
        "finished": False,
    }
    if begins:
        versions = {name: version(name) for name in PACKAGES}
        record |= {"tunesmith": version("tunesmith"), "python": platform.python_version(), "versions": versions}
        record |= {"started": now()}
    else:
        record = rundir.record(run) | record
    rundir.write_json(run / rundir.RUN, record)
    if begins:
        (run / rundir.METRICS).unlink(missing_ok=True)
    rundir.write_json(run / "ledger.json", prepared.ledger)
    write.rows(run / "rejected.jsonl", (row.as_dict() for row in prepared.rows.rejected()))


def now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def amend(run: Path, **values: Any) -> None:
    """Adds to run.json."""
    rundir.write_json(run / rundir.RUN, rundir.record(run) | values)
