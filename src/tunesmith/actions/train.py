"""`train`: everything is checked, then the run folder is made, then the model is loaded and trained."""

from __future__ import annotations

import json
import platform
import shutil
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith import log, rundir
from tunesmith.actions.check import say_ledger
from tunesmith.actions.prepare import Part, Prepared, prepare, rejected_rows
from tunesmith.actions.voice import Voice
from tunesmith.config.write import dump
from tunesmith.data.dataset import Dataset
from tunesmith.errors import ConfigError, RunError
from tunesmith.i18n import _

if TYPE_CHECKING:
    from tunesmith.config.load import Loaded
    from tunesmith.config.schema import Config
    from tunesmith.rundir import Checkpoint

PACKAGES = ("torch", "transformers", "peft", "accelerate", "tokenizers")


def train(loaded: Loaded, voice: Voice, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Trains and returns the run folder. Whatever can be wrong is found before any weight is read."""
    config = loaded.config
    run = run_folder(config)
    checkpoint = _claim(run, resume, overwrite)
    config.template.date = _date_of(run, config) if resume else (config.template.date or f"{datetime.now():%Y-%m-%d}")
    prepared = prepare(config, voice)
    say_ledger(prepared, voice)
    if overwrite:
        shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True, exist_ok=True)
    with log.open_log(run / "tunesmith.log") as journal:
        if checkpoint is None:
            _write_run(run, loaded, prepared)
        else:
            _same_data(run, prepared)
            voice.say(_("Going on behind {name}.").format(name=checkpoint.path.name))
        journal.info("training in %s: %s", run, json.dumps(prepared.ledger))
        _train(run, config, prepared, checkpoint, voice)
        journal.info("training ended")
    return run


def run_folder(config: Config) -> Path:
    if config.training.output_dir:
        return config.training.output_dir
    first = config.data.train[0] if isinstance(config.data.train, list) else config.data.train
    if first is None:
        raise ConfigError(_("There is no training data. Name a file: tunesmith train DATA, or data.train in YAML."))
    return Path("runs") / first.stem


def _claim(run: Path, resume: bool, overwrite: bool) -> Checkpoint | None:
    """The checkpoint to go on from, if any. Refuses to touch what another run left, unless that was asked for."""
    if not (run / rundir.RUN).exists():
        if run.exists() and any(run.iterdir()):
            raise RunError(_("The folder holds other files. Choose another with -o DIR."), place=str(run))
        return None
    if overwrite:
        return None
    if not resume:
        finished = rundir.record(run).get("finished")
        how = _("Replace it with --overwrite, or choose another folder with -o DIR.")
        if not finished:
            how = _("Go on with --resume, start over with --overwrite, or choose another folder with -o DIR.")
        raise RunError(_("There is a run already.") + " " + how, place=str(run))
    if rundir.record(run).get("finished"):
        raise RunError(_("This run is finished. Choose another folder with -o DIR."), place=str(run))
    return rundir.latest(run)


def _date_of(run: Path, config: Config) -> str | None:
    recorded = rundir.record(run).get("template", {}) if (run / rundir.RUN).exists() else {}
    return recorded.get("date") or config.template.date


def _write_run(run: Path, loaded: Loaded, prepared: Prepared) -> None:
    config, encoder = loaded.config, prepared.encoder
    (run / "config.yaml").write_text(dump(config, loaded.origin), encoding="utf-8")
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
            "thinking": config.template.thinking,
            "system": config.template.system,
            "date": config.template.date,
            "kwargs": config.template.kwargs,
        },
        "data_sha256": prepared.data_sha256,
        "seed": config.training.seed,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "finished": False,
    }
    rundir.write_json(run / rundir.RUN, record)
    rundir.write_json(run / "ledger.json", prepared.ledger)
    Dataset(rejected=rejected_rows(prepared)).write_rejected(run / "rejected.jsonl")


def _same_data(run: Path, prepared: Prepared) -> None:
    recorded = rundir.record(run)
    changed = []
    if recorded.get("data_sha256") != prepared.data_sha256:
        changed.append(_("the data files"))
    if recorded.get("template", {}).get("sha256") != prepared.encoder.template.sha256:
        changed.append(_("the chat template"))
    if changed:
        text = _("Since the run began, {what} changed. Start over with --overwrite, or choose another folder with -o.")
        raise RunError(text.format(what=", ".join(changed)), place=str(run))


def _train(run: Path, config: Config, prepared: Prepared, checkpoint: Checkpoint | None, voice: Voice) -> None:
    import torch

    from tunesmith.model import weights
    from tunesmith.model.adapter import add_adapter, describe_parameters
    from tunesmith.model.fused import use_fused_layers
    from tunesmith.model.load import load_model, load_target, locate
    from tunesmith.model.lowrank import use_fast_adapters
    from tunesmith.train import launch
    from tunesmith.train.checkpoint import clear_leftovers
    from tunesmith.train.loop import Loop
    from tunesmith.train.loss import Trainee
    from tunesmith.train.probe import probe

    name = str(config.model.name_or_path)
    base = locate(name)
    full = config.method == "full"
    dtype = "float32" if full and config.model.dtype == "auto" else config.model.dtype
    given: dict[str, Any] = {
        "dtype": dtype,
        "device": config.model.device,
        "trust_remote_code": config.model.trust_remote_code,
    }
    if checkpoint is not None:
        target = rundir.find(str(run), checkpoint=str(checkpoint.step))
        model, _info = load_target(target, trainable=True, **given)
    else:
        model = load_model(name, **given)
        if not full:
            model = add_adapter(model, config.lora, config.training.seed)
    voice.say(describe_parameters(model))
    able = probe(model, prepared.train.longest)
    if able.reason:
        voice.say(able.reason)
    use_fast_adapters(model)
    use_fused_layers(model)
    if config.training.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    mark = weights.fingerprint(base)
    rundir.write_json(run / rundir.RUN, rundir.record(run) | {"base_fingerprint": mark})
    accelerator = launch.start(config.training, weights=next(model.parameters()).dtype, device=str(model.device))
    clear_leftovers(run)
    torch.manual_seed(config.training.seed)
    with voice.progress(_("Training")) as advance:
        loop = Loop(
            accelerator,
            Trainee(model, fast_head=able.fast_head),
            _rows(prepared.train),
            _rows(_chooser(prepared, voice)),
            config.training,
            run,
            forest=able.forest,
            pad_id=prepared.encoder.pad_id,
            hooks=_hooks(run, prepared, name, mark, advance),
        )
        if checkpoint is not None:
            loop.resume(checkpoint.path)
        state = loop.train()
    _draw_loss(run)
    ended = {"finished": True, "steps": state.step, "ended": datetime.now().astimezone().isoformat(timespec="seconds")}
    rundir.write_json(run / rundir.RUN, rundir.record(run) | ended)


def _chooser(prepared: Prepared, voice: Voice) -> Part:
    """The rows that choose the best checkpoint: validation; where there are none, test, and that is said."""
    if prepared.validation.conversations:
        return prepared.validation
    if prepared.test.conversations:
        voice.say(
            _("No validation rows: the test rows choose the best checkpoint, so its test result flatters a little.")
        )
    return prepared.test


def _rows(part: Part) -> list[Any]:
    from tunesmith.train.plan import Row

    return [Row(e.answers, str(c.origin)) for c, e in zip(part.conversations, part.encoded, strict=True)]


def _hooks(run: Path, prepared: Prepared, base: str, mark: str, advance: Any) -> Any:
    from tunesmith.model.weights import write_origin
    from tunesmith.train.plan import Hooks

    folder = prepared.encoder.tokenizer.folder
    shown: dict[str, str] = {}  # an evaluation's figure stays beside the bar until the next

    def write_extra(checkpoint: Path) -> None:
        for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
            if (folder / file).is_file() and not (checkpoint / file).exists():
                shutil.copyfile(folder / file, checkpoint / file)
        (checkpoint / "chat_template.jinja").write_text(prepared.encoder.template.text, encoding="utf-8")
        write_origin(checkpoint, base, mark)

    def progress(event: dict[str, Any]) -> None:
        figures = [
            (_("loss"), "loss", "{:.3f}"),
            (_("evaluation loss"), "eval_loss", "{:.3f}"),
            (_("tokens/s"), "tokens_per_second", "{:.0f}"),
        ]
        shown.update((title, form.format(event[key])) for title, key, form in figures if key in event)
        text = "  ".join(f"{title} {value}" for title, value in shown.items())
        advance(event["step"], event["total"], text)

    return Hooks(progress=progress, saved=lambda checkpoint: _draw_loss(run), write_extra=write_extra)


def _draw_loss(run: Path) -> None:
    from tunesmith.evaluate.plot import loss_curve

    loss_curve(rundir.metrics(run), run / "loss.png")
