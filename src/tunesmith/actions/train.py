"""`train`: everything is checked, then the run folder is made, then the model is loaded and trained."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith import log, rundir
from tunesmith.actions.check import say_ledger
from tunesmith.actions.during import Exam, evaluators, exam
from tunesmith.actions.plan import Forecast, forecast, price_of, rows_of, smaller
from tunesmith.actions.prepare import Prepared, prepare
from tunesmith.actions.record import amend, now, whole_paths, write_record, write_settings
from tunesmith.actions.resume import (
    claim,
    date_of,
    keep_step,
    other_versions,
    own,
    refuse_unknown,
    same_run,
    steps_left,
)
from tunesmith.actions.together import Begin, heard, refuse_unfit, shared
from tunesmith.actions.voice import Journal, Voice
from tunesmith.durable import FULL, remove_folder
from tunesmith.errors import Problem, RunError, Stopped
from tunesmith.i18n import _
from tunesmith.model.quantize import require
from tunesmith.train.world import World

if TYPE_CHECKING:
    from tunesmith.config.load import Loaded
    from tunesmith.config.schema import Config
    from tunesmith.rundir import Checkpoint
    from tunesmith.train.probe import Abilities

PICTURE = 60  # seconds of training between two pictures of the loss: one takes half a second


def train(
    loaded: Loaded,
    voice: Voice,
    *,
    resume: bool = False,
    overwrite: bool = False,
    allow_changed: Collection[str] = (),
) -> Path:
    """Trains and returns the run folder. Whatever can be wrong is found before any weight is read.

    A run that broke off goes on where nothing changed; with `resume` it must be there, and may be made longer. What
    `allow_changed` names (settings, data, template, base) may differ from what the run began with.
    """
    world = World.of_environment()
    with world.together(voice.say):
        if not world.first:
            config = whole_paths(loaded.config)
            begin, prepared = heard(config, world, any_base="base" in allow_changed)
            _train(begin, config, prepared, exam(config, prepared), Voice(), world)
            return begin.run
        return _lead(loaded, voice, world, resume=resume, overwrite=overwrite, allow_changed=allow_changed)


def _lead(
    loaded: Loaded, voice: Voice, world: World, *, resume: bool, overwrite: bool, allow_changed: Collection[str]
) -> Path:
    """What the first of several processes does, or the only one: it alone prepares, speaks and writes."""
    config = whole_paths(loaded.config)
    refuse_unknown(allow_changed, config)
    refuse_unfit(config, world)
    if config.training.fp16:
        from tunesmith.train.launch import refuse_half

        refuse_half(config.model.device)
    if config.model.load_in_4bit or config.model.load_in_8bit:
        require()
    run = config.training.output_dir
    with own(run) if run else nullcontext():
        asked: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "settings": loaded.path}
        checkpoint = claim(run, config, voice, **asked) if run else None
        recorded = date_of(run) if run and checkpoint else None
        config.template.date = recorded or config.template.date or f"{datetime.now():%Y-%m-%d}"
        if run and checkpoint:
            keep_step(run, config, world.size, voice)
        prepared = prepare(shared(config, world), voice)
        questions = exam(config, prepared)
        assert run is not None  # without data there is none, and prepare has refused that
        if checkpoint is not None:
            same_run(run, config, prepared, resume=resume, allowed=allow_changed, world=world.size)
            steps_left(run, config, prepared, checkpoint, world.size)
            if remark := other_versions(run):
                voice.say(remark)
        planned = forecast(config, prepared, done=checkpoint.step if checkpoint else 0, world=world)
        if planned is not None:
            planned.refuse_too_little_disk()
        if overwrite:
            _clear(run, voice)
        with _said_where_it_breaks_off(run, config, prepared, planned):
            write_record(run, config, prepared, begins=checkpoint is None)
            write_settings(run, config, loaded)
            with log.open_log(run / rundir.LOG, config.logging.level) as journal:
                voice = Journal(voice, journal)
                say_ledger(prepared, voice)
                for line in planned.lines() if planned else []:
                    voice.say(line)
                journal.info("training in %s: %s", run, json.dumps(prepared.ledger))
                amend(run, world=world.size, **({"plan": planned.record()} if planned else {}))
                begin = Begin(run, checkpoint, planned.heaviest if planned else None, any_base="base" in allow_changed)
                begin.tell(config, world)
                try:
                    _train(begin, config, prepared, questions, voice, world)
                except (KeyboardInterrupt, Stopped):
                    voice.say(_how_to_go_on(run))
                    raise
                except Exception:
                    journal.exception("training broke off")
                    raise
    return run


def _clear(run: Path, voice: Voice) -> None:
    """Empties the folder but for run.json, which goes last, in exchange: while that is there, the run is replaced."""
    going = sorted(path.name for path in run.iterdir() if path.name != rundir.LOCK)
    if going:
        voice.say(_("{run} is replaced; this is deleted: {names}").format(run=run, names=", ".join(going)))
    for path in (run / name for name in going if name != rundir.RUN):
        if path.is_dir() and not path.is_symlink():
            remove_folder(path)
        else:
            path.unlink()


@contextmanager
def _said_where_it_breaks_off(
    run: Path, config: Config, prepared: Prepared, planned: Forecast | None
) -> Iterator[None]:
    """A full disk, and memory that does not suffice, with what is kept and what to do."""
    from tunesmith.train.memory import Full

    try:
        yield
    except Full as error:
        ways = smaller(config, prepared, planned) if planned else []
        more = _("Settings that need less, for the same result: {ways}.").format(ways="; ".join(ways)) if ways else ""
        raise RunError([*error.problems, *([Problem("", more)] if more else [])]) from error
    except OSError as error:
        if error.errno not in FULL:
            raise
        text = _("The disk is full: {free:.3f} GB are free. {kept} Make room, then type the same command again.")
        free = shutil.disk_usage(run).free / 1e9
        raise RunError(text.format(free=free, kept=_kept(run)), place=str(run)) from error


def _how_to_go_on(run: Path) -> str:
    if rundir.latest(run) is None:
        return _("{kept} Begin anew with: tunesmith train {run}").format(kept=_kept(run), run=run)
    return _("{kept} Go on with: tunesmith train {run} --resume").format(kept=_kept(run), run=run)


def _kept(run: Path) -> str:
    last = rundir.latest(run)
    return _("{name} is kept.").format(name=last.path.name) if last else _("No checkpoint was written yet.")


def _made_ready(begin: Begin, config: Config, prepared: Prepared, voice: Voice, world: World) -> tuple[Any, Abilities]:
    """The model that is trained, from the base or behind a checkpoint, and what it was found able to do."""
    from tunesmith.model.adapter import add_adapter, describe_parameters
    from tunesmith.model.kernels import use_fast_kernels
    from tunesmith.model.load import choices, load_model, load_target
    from tunesmith.train import launch

    run, checkpoint, name = begin.run, begin.checkpoint, str(config.model.name_or_path)
    full, section = config.method == "full", config.training
    given = choices(config.model) | {"dtype": launch.weights_dtype(config.model.dtype, section, full=full)}
    given["device"] = launch.place(config.model.device, section, world)
    if checkpoint is not None:
        target = rundir.find(str(run), checkpoint=str(checkpoint.step), model=name)
        model, _info = load_target(target, trainable=True, any_base=begin.any_base, **given)
    else:
        model = load_model(name, **given)
        if not full:
            model = add_adapter(model, config.lora, config.training.seed)
    voice.say(describe_parameters(model))
    able = _abilities(run, model, prepared, checkpoint, world)
    if able.reason:
        voice.say(able.reason)
    if section.kernels == "fast" and not launch.sharded(section):  # they keep weights, which then come and go
        use_fast_kernels(model)
    if section.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    return model, able


def _train(begin: Begin, config: Config, prepared: Prepared, questions: Exam, voice: Voice, world: World) -> None:
    import torch

    from tunesmith.model import weights
    from tunesmith.model.folder import locate
    from tunesmith.train import launch, memory
    from tunesmith.train.loop import Loop
    from tunesmith.train.loss import Trainee
    from tunesmith.train.stop import Stop
    from tunesmith.train.trial import rehearse

    run, checkpoint, name, section = begin.run, begin.checkpoint, str(config.model.name_or_path), config.training
    if world.several or section.deepspeed or section.fsdp:
        world.join(section.ddp_timeout)
    model, able = _made_ready(begin, config, prepared, voice, world)
    mark = weights.fingerprint(locate(name))
    if world.first:
        amend(run, base_fingerprint=mark, finished=False)
    accelerator = launch.start(section, weights=next(model.parameters()).dtype, device=launch.computes_on(model, world))
    deepspeed = launch.settings_of_deepspeed(section, world, model, accelerator.mixed_precision)
    _same_threads(run, checkpoint, world)
    torch.manual_seed(config.training.seed)
    with (
        _trackers(run, config, checkpoint, voice) if world.first else nullcontext(_unheard) as measured,
        voice.progress(_("Training")) as advance,
        Stop(run, voice.say) as stop,
    ):
        hooks = _hooks(run, prepared, name, mark, advance, measured)
        watching = evaluators(questions, run, config, prepared, voice, advance, world)
        loop = Loop(
            accelerator,
            Trainee(model, fast_head=able.fast_head and config.training.kernels == "fast"),
            rows_of(prepared.train),
            rows_of(getattr(prepared, prepared.chooser)) if prepared.chooser else [],
            config.training,
            run,
            forest=able.forest,
            pad_id=prepared.encoder.pad_id,
            hooks=replace(hooks, evaluators=watching, stop=stop),
            price=price_of(config, prepared),
            deepspeed=deepspeed,
        )
        if checkpoint is not None:
            voice.say(_("Going on behind {name}.").format(name=checkpoint.path.name))
            loop.resume(checkpoint.path)
        if begin.heaviest is not None and deepspeed is None:  # DeepSpeed takes no gradient back
            tried = rehearse(loop, begin.heaviest)
            if world.first:
                amend(run, trial=asdict(tried))
        started = time.monotonic()
        try:
            state = loop.train()
        except Stopped:
            raise stop.stopped() from None
        finally:  # a run that was stopped has its picture too
            if world.first:
                _draw_loss(run)
    if not world.first:
        return
    took = {"seconds": round(time.monotonic() - started, 1), "memory": memory.peak(accelerator.device)}
    amend(run, finished=True, steps=state.step, took=took, ended=now())
    best = rundir.best(run)
    if best is not None and best.value is not None:
        text = _("Best is {name}, {figure} {value:.3f}.")
        voice.say(text.format(name=best.path.name, figure=best.figure, value=best.value))


def _unheard(_record: dict[str, Any]) -> None:
    """Where the records of every process but the first go."""


def _same_threads(run: Path, checkpoint: Checkpoint | None, world: World) -> None:
    """Sums are split among threads: with as many of them as at the beginning they are the same to the last bit."""
    import torch

    known = rundir.record(run).get("threads")
    if checkpoint and known:
        torch.set_num_threads(known)
    if world.first:
        amend(run, threads=torch.get_num_threads())


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


def _abilities(run: Path, model: Any, prepared: Prepared, checkpoint: Checkpoint | None, world: World) -> Abilities:
    """What the model was found able to do: tried out once, and kept for every resume, whose steps must be the same."""
    from tunesmith.model.attention import use_forest_attention
    from tunesmith.train.probe import Abilities, probe

    known = rundir.record(run).get("abilities") if checkpoint else None
    if known:
        use_forest_attention(model)
        return Abilities(**known)
    found = [Abilities(**each) for each in world.gathered(asdict(probe(model, prepared.train.longest)))]
    able = min(found, key=lambda each: (each.forest, each.fast_head))  # what one can't do, all leave
    if world.first:
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
            (_("accuracy"), "eval_accuracy", "{:.1%}"),
            (_("tokens/s"), "tokens_per_second", "{:.0f}"),
        ]
        shown.update((title, form.format(event[key])) for title, key, form in figures if key in event)
        text = "  ".join(f"{title} {value}" for title, value in shown.items())
        advance(event["step"], event["total"], text)
        if "spike" in event:
            text = _("The loss of step {step} is {loss:.3f}, far above those before it. Its rows: {rows}.")
            log.get().warning(text.format(step=event["step"], loss=event["loss"], rows=event["spike"]))
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
        with suppress(OSError):  # no picture is worth a training
            loss_curve(records, run / "loss.png")
