"""Whose a run folder is, whether a training may begin or go on in it, behind which checkpoint, and what has changed.

Every refusal names the setting that lets it through. Writes nothing: that is record's and the loop's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith import rundir
from tunesmith.actions.prepare import Prepared
from tunesmith.actions.record import CONFIG, PACKAGES
from tunesmith.actions.rows import data_files
from tunesmith.actions.voice import Voice
from tunesmith.config.load import load
from tunesmith.durable import locked
from tunesmith.errors import ConfigError, Problem, RunError
from tunesmith.i18n import _
from tunesmith.model.folder import locate
from tunesmith.model.weights import fingerprint

if TYPE_CHECKING:
    from tunesmith.config.schema import Config
    from tunesmith.rundir import Checkpoint

CONTENT = ("data", "template", "base")  # what is compared by what it holds, wherever it lies
# What changes no number: where things lie, and how many processes read them.
ELSEWHERE = {
    *("preset", "training.output_dir", "model.name_or_path", "model.tokenizer", "model.device"),
    *("model.trust_remote_code", "data.train", "data.validation", "data.test", "data.max_dropped", "data.num_proc"),
    *("data.cache", "template.path", "template.fallback"),
    *("training.deepspeed", "training.fsdp", "training.ddp_timeout"),
}
FREE = ("evaluation.", "generation.", "tracking.", "logging.", "clean.")
# What may be decided anew when a run goes on, if that is asked for: how long, how often, by which figure.
ANEW = {
    *("training.num_train_epochs", "training.max_steps", "training.early_stopping_patience"),
    *("training.logging_steps", "training.eval_steps", "training.save_steps", "training.save_total_limit"),
    *("training.metric_for_best_model", "training.greater_is_better"),
    *("training.per_device_eval_batch_size", "training.gradient_checkpointing"),
}
LENGTH = ("num_train_epochs", "max_steps")
STEP = ("training.per_device_train_batch_size", "training.gradient_accumulation_steps")


@contextmanager
def own(run: Path) -> Iterator[None]:
    """The run folder, made where it is missing, with nobody else writing in it. Raises RunError where somebody does."""
    if run.exists() and not run.is_dir():
        raise RunError(_("This is a file. Choose another folder with -o DIR."), place=str(run))
    run.mkdir(parents=True, exist_ok=True)
    try:
        with locked(run / rundir.LOCK):
            yield
    finally:
        with suppress(OSError):  # only an empty folder goes: nothing came of it
            run.rmdir()


def claim(
    run: Path, config: Config, voice: Voice, *, resume: bool, overwrite: bool, settings: Path | None = None
) -> Checkpoint | None:
    """The checkpoint to go on from, if any. Refuses to touch what another run left, unless that was asked for, and to
    delete what the new one needs; `settings` is the file of its settings."""
    if not (run / rundir.RUN).exists():
        if resume:
            raise RunError(_("There is no run to go on with. Leave out --resume to begin one."), place=str(run))
        begun = (rundir.LOCK, f".{rundir.RUN}.")  # a start that was killed leaves no more than these
        if any(not path.name.startswith(begun) for path in run.iterdir()):
            raise RunError(_("The folder holds other files. Choose another with -o DIR."), place=str(run))
        rundir.settle(run)
        return None
    rundir.settle(run)
    if overwrite:
        _nothing_needed_inside(run, config, settings)
        return None
    if rundir.record(run).get("finished") and not (resume and longer(run, config)):
        text = _("This run is finished. To go on, raise training.num_train_epochs; or choose another folder with -o.")
        raise RunError(text if resume else str(taken(run)), place=str(run))
    checkpoint = _newest_whole(run, voice)
    if checkpoint is None and (resume or rundir.checkpoints(run)):
        text = _("There is no whole checkpoint to go on from.")
        damaged = rundir.checkpoints(run)
        how = _("Begin anew with --overwrite.") if damaged else _("Leave out --resume to begin anew.")
        raise RunError(f"{text} {how}", place=str(run))
    if checkpoint is None:
        voice.say(_("The run broke off before its first checkpoint; it begins anew."))
    return checkpoint


def taken(run: Path) -> str | None:
    """What a reader should know before training in this folder; None where nothing is lost by it."""
    if not (run / rundir.RUN).is_file():
        return None
    if rundir.record(run).get("finished"):
        how = _("Replace it with --overwrite, or choose another folder with -o DIR.")
        longer = _("To train it longer, add --resume and raise training.num_train_epochs.")
        return " ".join([_("There is a run already."), how, longer])
    if not rundir.checkpoints(run):
        return None  # it broke off before its first checkpoint
    text = _("There is an unfinished run. The same command goes on with it; --overwrite starts over.")
    return text + " " + _("Or choose another folder with -o DIR.")


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


def steps_left(run: Path, config: Config, prepared: Prepared, checkpoint: Checkpoint, world: int = 1) -> None:
    """Raises RunError where a checkpoint is beyond what the settings ask for. One that is just there, by the settings
    of its own run, has only the end of it to come."""
    from tunesmith.train.plan import Plan

    total = Plan.of(config.training, len(prepared.train), world).total_steps
    before = load(run / CONFIG, files=False).config.training
    same = all(getattr(before, name) == getattr(config.training, name) for name in LENGTH)
    if checkpoint.step > total or (checkpoint.step == total and not same):
        text = _(
            "{done} steps are done and the settings ask for {total}. Raise training.num_train_epochs or max_steps."
        )
        raise RunError(text.format(done=checkpoint.step, total=total), place=str(checkpoint.path))


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


def refuse_unknown(allowed: Collection[str], config: Config) -> None:
    """Raises ConfigError for a KEY of --allow-changed that names nothing."""
    known = [*CONTENT, *_flat(config)]
    problems = []
    for key in set(allowed) - set(known):
        near = get_close_matches(key, known, 1)
        text = _("{key} is no setting, nor data, template or base.").format(key=key)
        hint = _("Did you mean {name}?").format(name=near[0]) if near else ""
        problems.append(Problem("--allow-changed", f"{text} {hint}".rstrip()))
    if problems:
        raise ConfigError(problems)


def keep_step(run: Path, config: Config, world: int, voice: Voice) -> None:
    """Lets a step hold as many conversations as before where another number of processes goes on with a run, by
    gradient_accumulation_steps. Raises RunError where that does not divide."""
    then, before, now = rundir.record(run).get("world", 1), load(run / CONFIG, files=False).config, config.training
    if then == world:
        return
    size = _product(_flat(before)) * then
    times, rest = divmod(size, now.per_device_train_batch_size * world)
    if rest:
        text = _(
            "A step holds {size} conversations, and {world} processes with {batch} each do not come out even. Choose a"
            " training.per_device_train_batch_size that divides {share}, or as many processes as before ({then})."
        )
        told = {"batch": now.per_device_train_batch_size, "share": f"{size / world:g}", "then": then}
        raise RunError(text.format(size=size, world=world, **told), place=str(run))
    now.gradient_accumulation_steps = times
    text = _(
        "{world} processes go on with what {then} began: a step stays {size} conversations, with"
        " training.gradient_accumulation_steps={times}."
    )
    voice.say(text.format(world=world, then=then, size=size, times=times))


def same_run(
    run: Path,
    config: Config,
    prepared: Prepared,
    *,
    resume: bool,
    allowed: Collection[str] = (),
    world: int | None = None,
) -> None:
    """Raises RunError with everything that changed since the run began and would make it another one, but for what is
    `allowed`. Without `resume` nothing was asked for, so that nothing may be decided anew either."""
    base = fingerprint(locate(str(config.model.name_or_path)))
    found = content(run, base=base, data=prepared.data_sha256, template=prepared.encoder.template.sha256)
    problems = [problem for problem in found + changes(run, config, world) if problem.place not in allowed]
    keys = " ".join(f"--allow-changed {problem.place}" for problem in problems)
    if not resume and (decided := _differing(run, config, ANEW)):
        problems += [p for p in decided if p.place not in allowed]
        keys = f"--resume {keys}".rstrip()
    if not problems:
        return
    text = _("Go on with what the run began with, choose another folder with -o DIR, or let it pass: {keys}")
    raise RunError([*problems, Problem("", text.format(keys=keys))])


def content(run: Path, **now: str) -> list[Problem]:
    """Which of base, data and template, given as they are now (fingerprint, hash), the run did not begin with."""
    record = rundir.record(run)
    before = {"base": record.get("base_fingerprint"), "data": record.get("data_sha256")}
    before["template"] = (record.get("template") or {}).get("sha256")
    said = {
        "base": _("The base model's weights changed since the run began."),
        "data": _("The data files changed since the run began."),
        "template": _("The chat template changed since the run began."),
    }
    return [Problem(name, said[name]) for name, value in now.items() if before[name] != value]


def changes(run: Path, config: Config, world: int | None = None) -> list[Problem]:
    """The settings that differ from those with which the run began and would make it another one. `world`: how many
    processes train, by default as many as before."""
    then = rundir.record(run).get("world", 1)
    before, now = _flat(load(run / CONFIG, files=False).config), _flat(config)
    held = ELSEWHERE | ANEW
    if all(name in before for name in STEP) and _product(before) * then == _product(now) * (world or then):
        held = held | set(STEP)  # the same conversations a step, cut otherwise
    return _differing(run, config, {name for name in now if name not in held and not name.startswith(FREE)})


def _product(flat: dict[str, Any]) -> int:
    return flat[STEP[0]] * flat[STEP[1]]


def _differing(run: Path, config: Config, names: Collection[str]) -> list[Problem]:
    before, now = _flat(load(run / CONFIG, files=False).config), _flat(config)
    text = _("This was {before} when the run began and is {now} now.")
    return [
        Problem(name, text.format(before=before.get(name), now=now.get(name)))
        for name in sorted(names)
        if before.get(name) != now.get(name)
    ]


def _flat(config: Config) -> dict[str, Any]:
    """Dotted setting -> value."""
    flat: dict[str, Any] = {}
    for name, value in config.model_dump(mode="json").items():
        inside = isinstance(value, dict)
        flat |= {f"{name}.{key}": inner for key, inner in value.items()} if inside else {name: value}
    return flat


def other_versions(run: Path) -> str | None:
    """A sentence where the libraries are no longer those with which the run began."""
    record = rundir.record(run)
    before = {"tunesmith": record.get("tunesmith")} | (record.get("versions") or {})
    now = {name: version(name) for name in ("tunesmith", *PACKAGES)}
    changed = [f"{name} {before[name]} -> {now[name]}" for name in now if before.get(name) not in (None, now[name])]
    if not changed:
        return None
    return _("Since the run began: {changes}. The last bits may differ.").format(changes=", ".join(changed))
