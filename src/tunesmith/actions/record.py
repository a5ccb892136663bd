"""The run folder before and around training: whose it is, what it records of its making, and whether a resume fits it.

Holds settings, versions and hashes. Knows nothing of weights; checkpoints are the loop's, questions to them rundir's.
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
from tunesmith.actions.rows import data_files
from tunesmith.actions.voice import Voice
from tunesmith.config.load import load
from tunesmith.config.write import dump
from tunesmith.data import write
from tunesmith.errors import Problem, RunError
from tunesmith.i18n import _

if TYPE_CHECKING:
    from tunesmith.config.load import Loaded
    from tunesmith.config.schema import Config
    from tunesmith.rundir import Checkpoint

PACKAGES = ("torch", "transformers", "peft", "accelerate", "tokenizers")
CONFIG = "config.yaml"
TOLD = ("thinking", "enable_thinking", "system", "date", "kwargs")  # of the template: what an answer depends on
SYSTEMS = 20  # different system prompts that a run remembers

# What may differ when a run goes on: how long, how often, where. Everything else would make it another run.
MAY_CHANGE = {
    *("training.output_dir", "training.num_train_epochs", "training.max_steps", "training.early_stopping_patience"),
    *("training.logging_steps", "training.eval_steps", "training.save_steps", "training.save_total_limit"),
    *("training.per_device_eval_batch_size", "training.gradient_checkpointing"),
    *("model.name_or_path", "model.tokenizer", "model.device", "model.trust_remote_code"),  # the weights are compared
    *(
        "data.train",
        "data.validation",
        "data.test",
        "data.max_dropped",
        "data.num_proc",
        "data.cache",
        "template.path",
        "template.fallback",
    ),  # so here
}
FREE = ("evaluation.", "generation.", "tracking.", "logging.")
LENGTH = ("num_train_epochs", "max_steps")


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


def claim(
    run: Path, config: Config, voice: Voice, *, resume: bool, overwrite: bool, settings: Path | None = None
) -> Checkpoint | None:
    """The checkpoint to go on from, if any. Refuses to touch what another run left, unless that was asked for, and to
    delete what the new one needs; `settings` is the file of its settings."""
    if run.exists() and not run.is_dir():
        raise RunError(_("This is a file. Choose another folder with -o DIR."), place=str(run))
    if not (run / rundir.RUN).exists():
        if resume:
            raise RunError(_("There is no run to go on with. Leave out --resume to begin one."), place=str(run))
        if run.exists() and any(run.iterdir()):
            raise RunError(_("The folder holds other files. Choose another with -o DIR."), place=str(run))
        return None
    if overwrite:
        _nothing_needed_inside(run, config, settings)
        return None
    found = taken(run)
    if not resume:
        if found:
            raise RunError(found, place=str(run))
        return None
    if rundir.record(run).get("finished") and not longer(run, config):
        text = _("This run is finished. To go on, raise training.num_train_epochs; or choose another folder with -o.")
        raise RunError(text, place=str(run))
    checkpoint = _newest_whole(run, voice)
    if checkpoint is None:
        text = _("There is no whole checkpoint to go on from.")
        how = _("Begin anew with --overwrite.") if found else _("Leave out --resume to begin anew.")
        raise RunError(f"{text} {how}", place=str(run))
    return checkpoint


def taken(run: Path) -> str | None:
    """Why no other run may begin in this folder, and what to do; None where it may."""
    if not (run / rundir.RUN).is_file():
        return None
    finished, kept = rundir.record(run).get("finished"), rundir.checkpoints(run)
    if not finished and not kept and not rundir.metrics(run):
        return None  # it broke off before its first step: nothing is lost
    how = _("Replace it with --overwrite, or choose another folder with -o DIR.")
    if not finished and kept:
        how = _("Go on with --resume, start over with --overwrite, or choose another folder with -o DIR.")
    return _("There is a run already.") + " " + how


def _newest_whole(run: Path, voice: Voice) -> Checkpoint | None:
    """The newest checkpoint whose files are what was written; damaged ones are named and passed over."""
    for checkpoint in reversed(rundir.checkpoints(run)):
        problems = checkpoint.verify()
        if not problems:
            return checkpoint
        for problem in problems:
            voice.say(problem)
        voice.say(_("{name} is damaged and passed over.").format(name=checkpoint.path.name))
    return None


def longer(run: Path, config: Config) -> bool:
    before = load(run / CONFIG, files=False).config.training
    return any(getattr(config.training, name) > getattr(before, name) for name in LENGTH)


def _nothing_needed_inside(run: Path, config: Config, settings: Path | None) -> None:
    """Raises RunError with all that the new run reads and --overwrite would delete: data, base model, settings."""
    model, template = config.model, config.template
    named: list[Any] = [*data_files(config.data), model.name_or_path, model.tokenizer, template.path, template.fallback]
    named += [config.data.format, *(config.evaluation.metrics or [])]
    if settings is not None and settings.resolve() != (run / CONFIG).resolve():  # that one is written again
        named.append(settings)
    inside = [path for path in map(Path, filter(None, named)) if path.exists() and _inside(path.resolve(), run)]
    if inside:
        text = _("The new run needs this, and --overwrite would delete it. Choose another folder with -o DIR.")
        raise RunError([Problem(str(path), text) for path in inside])


def _inside(path: Path, folder: Path) -> bool:
    return folder.resolve() in (path, *path.parents)


def date_of(run: Path) -> str | None:
    """The day that the run's template calls today."""
    return (rundir.record(run).get("template") or {}).get("date")


def same_run(run: Path, config: Config, prepared: Prepared) -> None:
    """Raises RunError with everything that changed since the run began and would make it another one."""
    problems = changes(run, config, prepared.data_sha256)
    if (rundir.record(run).get("template") or {}).get("sha256") != prepared.encoder.template.sha256:
        problems.insert(0, Problem("template", _("The chat template changed since the run began.")))
    if problems:
        raise RunError(problems)


def changes(run: Path, config: Config, data_sha256: str) -> list[Problem]:
    """What differs from the data and settings with which the run began and would make it another one; what to do is
    the last of them."""
    problems = []
    if rundir.record(run).get("data_sha256") != data_sha256:
        problems.append(Problem("data", _("The data files changed since the run began.")))
    before, now = _flat(load(run / CONFIG, files=False).config), _flat(config)
    for name in sorted(now.keys() - MAY_CHANGE):
        if before.get(name) != now[name] and not name.startswith(FREE):
            text = _("This was {before} when the run began and is {now} now.")
            problems.append(Problem(name, text.format(before=before.get(name), now=now[name])))
    advice = _("Go on with what the run began with, or choose another folder with -o DIR.")
    return [*problems, Problem("", advice)] if problems else []


def _flat(config: Config) -> dict[str, Any]:
    """Dotted setting -> value."""
    flat: dict[str, Any] = {}
    for name, value in config.model_dump(mode="json").items():
        inside = isinstance(value, dict)
        flat |= {f"{name}.{key}": inner for key, inner in value.items()} if inside else {name: value}
    return flat


def write_settings(run: Path, config: Config, loaded: Loaded) -> None:
    (run / CONFIG).write_text(dump(config, loaded.origin), encoding="utf-8")


def write_record(run: Path, config: Config, prepared: Prepared) -> None:
    """run.json, ledger.json and rejected.jsonl of a run that begins; numbers of one that never took off are removed."""
    encoder = prepared.encoder
    record: dict[str, Any] = {
        "format": 1,
        "tunesmith": version("tunesmith"),
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
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "started": now(),
        "finished": False,
    }
    (run / rundir.METRICS).unlink(missing_ok=True)
    rundir.write_json(run / "ledger.json", prepared.ledger)
    write.rows(run / "rejected.jsonl", (row.as_dict() for row in prepared.rows.rejected()))
    rundir.write_json(run / rundir.RUN, record)


def now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def amend(run: Path, **values: Any) -> None:
    """Adds to run.json."""
    rundir.write_json(run / rundir.RUN, rundir.record(run) | values)
