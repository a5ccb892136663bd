"""`train`: everything is checked, then the run folder is made, then the model is loaded and trained."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith import log, rundir
from tunesmith.actions.check import say_ledger
from tunesmith.actions.plan import Forecast, forecast, rows_of
from tunesmith.actions.prepare import Prepared, prepare
from tunesmith.actions.record import amend, claim, date_of, now, same_run, whole_paths, write_record, write_settings
from tunesmith.actions.voice import Journal, Voice
from tunesmith.errors import ConfigError, RunError
from tunesmith.i18n import _
from tunesmith.model.quantize import require

if TYPE_CHECKING:
    from tunesmith.config.load import Loaded
    from tunesmith.config.schema import Config
    from tunesmith.rundir import Checkpoint

PICTURE = 60  # seconds of training between two pictures of the loss: one takes half a second


def train(loaded: Loaded, voice: Voice, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Trains and returns the run folder. Whatever can be wrong is found before any weight is read."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(_("Training with several processes is not there yet. Start one: tunesmith train ..."))
    config = whole_paths(loaded.config)
    if config.training.fp16:
        from tunesmith.train.launch import refuse_half

        refuse_half(config.model.device)
    if config.model.load_in_4bit or config.model.load_in_8bit:
        require()
    run = config.training.output_dir
    asked: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "settings": loaded.path}
    checkpoint = claim(run, config, voice, **asked) if run else None
    recorded = date_of(run) if run and resume else None
    config.template.date = recorded or config.template.date or f"{datetime.now():%Y-%m-%d}"
    prepared = prepare(config, voice)
    assert run is not None  # without data there is none, and prepare has refused that
    if checkpoint is not None:
        same_run(run, config, prepared)
        _steps_left(config, prepared, checkpoint)
    planned = forecast(config, prepared, done=checkpoint.step if checkpoint else 0)
    if planned is not None:
        planned.refuse_too_little_disk()
    if overwrite and run.exists():
        going = ", ".join(sorted(path.name for path in run.iterdir()))
        voice.say(_("{run} is replaced; this is deleted: {names}").format(run=run, names=going))
        shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True, exist_ok=True)
    with log.open_log(run / rundir.LOG, config.logging.level) as journal:
        voice = Journal(voice, journal)
        if checkpoint is None:
            write_record(run, config, prepared)
        write_settings(run, config, loaded)
        say_ledger(prepared, voice)
        for line in planned.lines() if planned else []:
            voice.say(line)
        journal.info("training in %s: %s", run, json.dumps(prepared.ledger))
        try:
            _train(run, config, prepared, planned, checkpoint, voice)
        except KeyboardInterrupt:
            voice.say(_how_to_go_on(run))
            raise
        except Exception:
            journal.exception("training broke off")
            raise
    return run


def _steps_left(config: Config, prepared: Prepared, checkpoint: Checkpoint) -> None:
    from tunesmith.train.plan import Plan

    total = Plan.of(config.training, len(prepared.train)).total_steps
    if checkpoint.step >= total:
        text = _(
            "{done} steps are done and the settings ask for {total}. Raise training.num_train_epochs or max_steps."
        )
        raise RunError(text.format(done=checkpoint.step, total=total), place=str(checkpoint.path))


def _how_to_go_on(run: Path) -> str:
    last = rundir.latest(run)
    if last is None:
        return _("No checkpoint was written yet. Begin anew with: tunesmith train {run} --overwrite").format(run=run)
    return _("{name} is kept. Go on with: tunesmith train {run} --resume").format(name=last.path.name, run=run)


def _train(
    run: Path,
    config: Config,
    prepared: Prepared,
    planned: Forecast | None,
    checkpoint: Checkpoint | None,
    voice: Voice,
) -> None:
    import torch

    from tunesmith.model import weights
    from tunesmith.model.adapter import add_adapter, describe_parameters
    from tunesmith.model.folder import locate
    from tunesmith.model.kernels import use_fast_kernels
    from tunesmith.model.load import choices, load_model, load_target
    from tunesmith.train import launch, memory
    from tunesmith.train.checkpoint import clear_leftovers
    from tunesmith.train.loop import Loop
    from tunesmith.train.loss import Trainee
    from tunesmith.train.trial import rehearse

    name = str(config.model.name_or_path)
    base = locate(name)
    full = config.method == "full"
    given = choices(config.model) | {"dtype": launch.weights_dtype(config.model.dtype, config.training, full=full)}
    if checkpoint is not None:
        target = rundir.find(str(run), checkpoint=str(checkpoint.step))
        model, _info = load_target(target, trainable=True, **given)
    else:
        model = load_model(name, **given)
        if not full:
            model = add_adapter(model, config.lora, config.training.seed)
    voice.say(describe_parameters(model))
    able = _abilities(run, model, prepared, checkpoint)
    if able.reason:
        voice.say(able.reason)
    if config.training.kernels == "fast":
        use_fast_kernels(model)
    if config.training.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    mark = weights.fingerprint(base)
    amend(run, base_fingerprint=mark, finished=False)
    accelerator = launch.start(config.training, weights=next(model.parameters()).dtype, device=str(model.device))
    clear_leftovers(run)
    torch.manual_seed(config.training.seed)
    with _trackers(run, config, checkpoint, voice) as measured, voice.progress(_("Training")) as advance:
        loop = Loop(
            accelerator,
            Trainee(model, fast_head=able.fast_head and config.training.kernels == "fast"),
            rows_of(prepared.train),
            rows_of(getattr(prepared, prepared.chooser)) if prepared.chooser else [],
            config.training,
            run,
            forest=able.forest,
            pad_id=prepared.encoder.pad_id,
            hooks=_hooks(run, prepared, name, mark, advance, measured),
        )
        if checkpoint is not None:
            voice.say(_("Going on behind {name}.").format(name=checkpoint.path.name))
            loop.resume(checkpoint.path)
        if planned is not None:
            amend(run, plan=planned.record(), trial=asdict(rehearse(loop, planned.heaviest)))
        started = time.monotonic()
        try:
            state = loop.train()
        finally:  # a run that was stopped has its picture too
            _draw_loss(run)
    took = {"seconds": round(time.monotonic() - started, 1), "memory": memory.peak(accelerator.device)}
    amend(run, finished=True, steps=state.step, took=took, ended=now())
    best = rundir.best(run)
    if best is not None and best.eval_loss is not None:
        voice.say(_("Best is {name}, evaluation loss {loss:.3f}.").format(name=best.path.name, loss=best.eval_loss))


@contextmanager
def _trackers(
    run: Path, config: Config, checkpoint: Checkpoint | None, voice: Voice
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Where each record of metrics.jsonl goes besides: the log, and whatever tracking.trace names."""
    from tunesmith.train.trackers import Traced, Trackers

    section, begun = config.tracking, rundir.record(run)["started"]
    traced = Traced(
        run / "tracking",
        section.project,
        section.experiment or run.name,
        hashlib.sha256(f"{run} {begun}".encode()).hexdigest()[:16],
        config.model_dump(mode="json"),
        checkpoint.step if checkpoint else 0,
    )
    trackers = Trackers(section.trace, traced, voice.say)

    def measured(record: dict[str, Any]) -> None:
        log.get().log(logging.INFO if "eval_loss" in record else logging.DEBUG, "%s", json.dumps(record))
        trackers.log(record)

    try:
        yield measured
    finally:
        trackers.finish()


def _abilities(run: Path, model: Any, prepared: Prepared, checkpoint: Checkpoint | None) -> Any:
    """What the model was found able to do: tried out once, and kept for every resume, whose steps must be the same."""
    from tunesmith.model.attention import use_forest_attention
    from tunesmith.train.probe import Abilities, probe

    known = rundir.record(run).get("abilities") if checkpoint else None
    if known:
        use_forest_attention(model)
        return Abilities(**known)
    able = probe(model, prepared.train.longest)
    amend(run, abilities=asdict(able))
    return able


def _hooks(run: Path, prepared: Prepared, base: str, mark: str, advance: Any, measured: Any) -> Any:
    from tunesmith.model.weights import write_origin
    from tunesmith.train.plan import Hooks

    folder = prepared.encoder.tokenizer.folder
    told = {name: value for name, value in rundir.record(run)["template"].items() if name != "text"}
    shown: dict[str, str] = {}  # an evaluation's figure stays beside the bar until the next

    def write_extra(checkpoint: Path) -> None:
        for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
            if (folder / file).is_file() and not (checkpoint / file).exists():
                shutil.copyfile(folder / file, checkpoint / file)
        (checkpoint / rundir.TEMPLATE).write_text(prepared.encoder.template.text, encoding="utf-8")
        write_origin(checkpoint, base, mark, told)

    def progress(event: dict[str, Any]) -> None:
        figures = [
            (_("loss"), "loss", "{:.3f}"),
            (_("evaluation loss"), "eval_loss", "{:.3f}"),
            (_("tokens/s"), "tokens_per_second", "{:.0f}"),
        ]
        shown.update((title, form.format(event[key])) for title, key, form in figures if key in event)
        text = "  ".join(f"{title} {value}" for title, value in shown.items())
        advance(event["step"], event["total"], text)
        record = {key: value for key, value in event.items() if key != "total"}
        if len(record) > 1:
            measured(record)

    drawn = time.monotonic()

    def saved(checkpoint: Path) -> None:
        nonlocal drawn
        if time.monotonic() - drawn > PICTURE:
            _draw_loss(run)
            drawn = time.monotonic()

    return Hooks(progress=progress, saved=saved, write_extra=write_extra)


def _draw_loss(run: Path) -> None:
    from tunesmith.evaluate.plot import loss_curve

    if records := rundir.metrics(run):
        loss_curve(records, run / "loss.png")
