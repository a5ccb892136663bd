"""A run folder and the questions to it: which checkpoints, which is best, what does a RUN on a command line mean.

The interface between training, evaluation, the web page and export: what they share is files, and this is where the
files' names stand. Reads JSON and file sizes; knows nothing of weights, settings or how a run was made.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.durable import clear, digest
from tunesmith.durable import write_json as write_json  # what others write into a run
from tunesmith.errors import Problem, RunError
from tunesmith.i18n import _

RUN = "run.json"
MANIFEST = "manifest.json"
METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"  # answers to the same questions, evaluation by evaluation
LOG = "tunesmith.log"
LOCK = ".lock"
STOP = "stop"  # a file of this name in a run folder has the training save and end
STATE = "state"  # in a checkpoint: what only a resume needs
ADAPTER = "adapter_config.json"
MODEL = "config.json"
ORIGIN = "tunesmith.json"  # in a checkpoint: its base, and how its conversations were written
TEMPLATE = "chat_template.jinja"
MODELSCOPE = "modelscope:"  # before a model's name: of that hub
PACKAGED = "SmolLM2-135M-Instruct"  # the one model that comes as a package and goes by its bare name

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_DEPTH = 4  # how far below its start a search for runs goes


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint folder. The numbers are None where they were not measured.

    `value` is what was found of `metric`, the figure that chooses the best checkpoint of its run.
    """

    path: Path
    step: int
    eval_loss: float | None = None
    loss: float | None = None
    epoch: float | None = None
    metric: str = "eval_loss"
    value: float | None = None
    greater_is_better: bool = False

    @property
    def figure(self) -> str:
        """The metric's name for a reader."""
        return _("evaluation loss") if self.metric == "eval_loss" else self.metric.removeprefix("eval_")

    @property
    def measured(self) -> bool:
        return self.value is not None and math.isfinite(self.value)

    def verify(self, *, state: bool = True) -> list[str]:
        """What is wrong with the manifest and the files that it lists, empty if nothing is; `state` False leaves out
        what only a resume needs."""
        try:
            manifest = _read_json(self.path / MANIFEST)
            files = {name: record for name, record in manifest["files"].items() if state or not name.startswith(STATE)}
            sizes = {name: int(record["size"]) for name, record in files.items()}
        except RunError as error:
            return [str(error)]
        except (KeyError, TypeError, ValueError, AttributeError):
            sizes, manifest = {}, {}
        if manifest.get("step") != self.step or manifest.get("sha256", seal(manifest)) != seal(manifest):
            return [_("{file} has changed since it was written.").format(file=self.path / MANIFEST)]
        problems = []
        for name, size in sizes.items():
            file = self.path / name
            if not file.is_file():
                problems.append(_("{file} is missing.").format(file=file))
            elif (found := file.stat().st_size) != size:
                text = _("{file} has {found} bytes; {expected} were written.")
                problems.append(text.format(file=file, found=found, expected=size))
            elif digest(file) != files[name]:
                problems.append(_("{file} has changed since it was written.").format(file=file))
        return problems


def seal(manifest: dict[str, Any]) -> str:
    """The sha256 over all that a manifest says, but for this sum, which it holds itself."""
    said = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Target:
    """What a RUN on a command line means.

    `base` and `tokenizer` are folders, GGUF files or hub ids; `adapter` is a folder or None; `run` and `step` say where
    it came from, if from a run; `folder` is what was named, where that is a folder of its own. `why` is one line for
    the user: what was taken, why, and how to get another.
    """

    base: str
    adapter: Path | None
    tokenizer: str
    run: Path | None
    step: int | None
    why: str
    folder: Path | None = None

    def template(self) -> dict[str, Any] | None:
        """How conversations were written in training: text, thinking, system and so on; None where nothing says so.

        A checkpoint that was copied out of its run keeps it. RunError where the record is damaged.
        """
        if self.run is not None:
            kept, place = record(self.run).get("template"), self.run / RUN
        elif self.folder is not None and (self.folder / ORIGIN).is_file():
            place = self.folder / ORIGIN
            kept = _read_json(place).get("template")
            if kept is None:  # only its base is recorded
                return None
            if isinstance(kept, dict) and (self.folder / TEMPLATE).is_file():
                kept = kept | {"text": (self.folder / TEMPLATE).read_text(encoding="utf-8")}
        else:
            return None
        if not isinstance(kept, dict) or not isinstance(kept.get("text"), str) or not kept["text"]:
            raise RunError(_("records no chat template: it is damaged."), place=str(place))
        return kept


def record(run: Path) -> dict[str, Any]:
    """run.json. Raises RunError where there is none, or none that can be read."""
    return _read_json(run / RUN)


def checkpoints(run: Path) -> list[Checkpoint]:
    """The complete checkpoints of a run, oldest first. One without a manifest was never finished and is none; one whose
    manifest can't be read has no numbers, and does not pass `verify`."""
    found = []
    for path in run.glob("checkpoint-*"):
        if re.fullmatch(r"checkpoint-(0|[1-9][0-9]*)", path.name) and (path / MANIFEST).is_file():
            try:
                manifest = _read_json(path / MANIFEST)
            except RunError:
                manifest = {}
            numbers: dict[str, Any] = {name: _number(manifest.get(name)) for name in ("eval_loss", "loss", "epoch")}
            figure: dict[str, Any] = {"metric": str(manifest.get("metric", "eval_loss"))}
            figure["value"] = _number(manifest.get("value", numbers["eval_loss"]))
            figure["greater_is_better"] = bool(manifest.get("greater_is_better"))
            found.append(Checkpoint(path, int(path.name.removeprefix("checkpoint-")), **numbers, **figure))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) else None


def settle(run: Path) -> None:
    """Ends what a crash broke off: half-written files, and half-written and half-removed checkpoints, are gone."""
    for path in run.glob(".*.tmp-*"):
        if path.is_file():
            path.unlink()
    for name in {re.sub(r"^\.(checkpoint-\d+)\..*", r"\1", path.name) for path in run.glob(".checkpoint-*.*")}:
        clear(run / name)


def latest(run: Path) -> Checkpoint | None:
    return next(reversed(checkpoints(run)), None)


def best(run: Path) -> Checkpoint | None:
    """The checkpoint with the best figure (of equal ones the oldest), or the newest if none was measured."""
    return _best(checkpoints(run))


def _best(known: list[Checkpoint]) -> Checkpoint | None:
    measured = [c for c in known if c.measured]
    alike = [c for c in measured if c.metric == measured[-1].metric]  # a resume may have chosen another one
    newest = known[-1] if known else None
    return max(alike, key=lambda c: (c.value or 0.0) * (1 if c.greater_is_better else -1), default=newest)


def metrics(run: Path, name: str = METRICS) -> list[dict[str, Any]]:
    """The records of metrics.jsonl, or of samples.jsonl. A line that a crash cut short is left out."""
    path = run / name
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError, RecursionError):
            records.append(json.loads(line))
    return [record for record in records if isinstance(record, dict) and isinstance(record.get("step"), int)]


def runs(root: Path) -> list[Path]:
    """The run folders in and below `root`, newest first. Hidden folders and the insides of runs are not searched."""
    return sorted(_walk(root, _DEPTH), key=lambda run: (-(run / RUN).stat().st_mtime, run))


def find(
    run: str,
    *,
    checkpoint: str = "best",
    base: bool = False,
    model: str | None = None,
    tokenizer: str | None = None,
) -> Target:
    """What RUN means: a run folder, a checkpoint in it, a peft adapter, a model folder, a GGUF file or a hub id.

    `checkpoint` is best, last or a step; `base` leaves out what was trained; `model` and `tokenizer` replace the
    recorded ones. Raises RunError, which lists what exists and what to type.
    """
    path = Path(run).expanduser()
    if (path / RUN).is_file():
        return _from_run(path, checkpoint, base, model, tokenizer)
    if checkpoint != "best":
        problem = _("is not a run folder; --checkpoint {name} has nothing to choose from.")
        raise RunError(problem.format(name=checkpoint), run)
    if (path / MANIFEST).is_file() and (path.absolute().parent / RUN).is_file():
        return _from_run(path.absolute().parent, path.absolute().name, base, model, tokenizer)
    if (path / ADAPTER).is_file():
        return _from_adapter(path, base, model, tokenizer)
    if model is not None:
        problem = _("is not an adapter; --model {model} has nothing to be the base of.")
        raise RunError(problem.format(model=model), run)
    if (path / MODEL).is_file() or (path.is_file() and path.suffix.lower() == ".gguf"):
        folder = path if path.is_dir() else None
        return Target(str(path), None, tokenizer or str(path), None, None, _as_it_is(run), folder)
    if is_hub_id(run):
        return Target(run, None, tokenizer or run, None, None, _as_it_is(run))
    raise _nothing_there(run, path)


def _from_run(run: Path, asked: str, base: bool, model: str | None, tokenizer: str | None) -> Target:
    known = record(run)
    origin = model or known.get("base")
    if not isinstance(origin, str) or not origin:
        raise RunError(_("names no base model. Give it with --model."), str(run / RUN))
    tokenizer = tokenizer or known.get("tokenizer") or origin
    if base:
        why = _("Base model {base}, without what was trained; leave out --base for the trained one.")
        return Target(origin, None, tokenizer, run, None, why.format(base=origin))
    chosen, passed = _choose(run, asked)
    why = " ".join([*passed, _why(run, chosen, asked)])
    if (chosen.path / ADAPTER).is_file():
        return Target(origin, chosen.path, tokenizer, run, chosen.step, why)
    return Target(str(chosen.path), None, tokenizer, run, chosen.step, why)


def _from_adapter(path: Path, base: bool, model: str | None, tokenizer: str | None) -> Target:
    origin = model or _read_json(path / ADAPTER).get("base_model_name_or_path")
    if not isinstance(origin, str) or not origin:
        raise RunError(_("names no base model. Give it with --model."), str(path / ADAPTER))
    own = str(path) if (path / "tokenizer.json").is_file() else origin
    if base:
        why = _("Base model {base}, without the adapter; leave out --base for both.").format(base=origin)
        return Target(origin, None, tokenizer or own, None, None, why, path)
    why = _("Adapter {path} on the base model {base}; --model takes another base.").format(path=path, base=origin)
    return Target(origin, path, tokenizer or own, None, None, why, path)


def _choose(run: Path, asked: str) -> tuple[Checkpoint, list[str]]:
    """The checkpoint that `asked` (best, last, 140, checkpoint-140) means, and what is wrong with those that would have
    come first: a damaged one is never used unseen."""
    known = checkpoints(run)
    if not known:
        raise RunError(_("has no complete checkpoint yet. Go on with train --resume, or take --base."), str(run))
    passed: list[str] = []
    while known:
        named = {str(checkpoint.step): checkpoint for checkpoint in known} if not passed else {}
        named |= {"last": known[-1], "best": _best(known) or known[-1]}
        chosen = named.get(asked.removeprefix("checkpoint-"))
        if chosen is None:
            problem = _("has no checkpoint {name}. --checkpoint takes best, last or one of: {steps}.")
            steps = ", ".join(str(checkpoint.step) for checkpoint in known)
            raise RunError(problem.format(name=asked, steps=steps), str(run))
        problems = chosen.verify(state=False)
        if not problems:
            return chosen, passed
        passed += [*problems, _("{name} is damaged and passed over.").format(name=chosen.path.name)]
        known.remove(chosen)
        if asked not in ("best", "last"):
            break
    raise RunError([Problem("", each) for each in passed])


def _why(run: Path, chosen: Checkpoint, asked: str) -> str:
    if asked not in ("best", "last"):
        why = _("{name}: as you named it; --checkpoint best takes the best of the run.")
    elif asked == "last" and chosen.metric == "eval_loss":
        why = _("{name}: newest of {count}; --checkpoint best takes the one with the lowest evaluation loss.")
    elif asked == "last":
        why = _("{name}: newest of {count}; --checkpoint best takes the one with the best {figure}.")
    elif chosen.measured and chosen.metric == "eval_loss":
        why = _("{name}: lowest evaluation loss ({value:.3f}) of {count}; --checkpoint last takes the newest.")
    elif chosen.measured:
        why = _("{name}: best {figure} ({value:.3f}) of {count}; --checkpoint last takes the newest.")
    else:
        why = _("{name}: newest of {count}, none has an evaluation loss; --checkpoint N takes step N.")
    told = {"name": chosen.path.name, "figure": chosen.figure, "value": chosen.value or 0.0}
    return why.format(count=len(checkpoints(run)), **told)


def _as_it_is(model: str) -> str:
    return _("Model {model}, as it is.").format(model=model)


def is_hub_id(name: str) -> bool:
    """OWNER/NAME, unless OWNER is a folder here: then a path was meant; or the model that comes as a package."""
    if name == PACKAGED:
        return not Path(name).exists()
    if name.startswith(MODELSCOPE):
        return bool(_HUB_ID.fullmatch(name.removeprefix(MODELSCOPE)))
    return bool(_HUB_ID.fullmatch(name)) and not Path(name).exists() and not Path(name).parent.is_dir()


def _nothing_there(run: str, path: Path) -> RunError:
    if path.exists():
        problem = _("is neither a run, a checkpoint, an adapter, a model folder nor a GGUF file.")
    else:
        problem = _("does not exist. A model of the hub is written OWNER/NAME.")
    root = next((folder for folder in (path, *path.parents) if folder.is_dir()), Path())
    nearby = runs(root)[:10]
    found = [Problem("", _("There is the run {run}.").format(run=known)) for known in nearby]
    return RunError([Problem(run, problem), *found])


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / RUN).is_file():
        yield folder
    elif depth:
        try:
            inside = [entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
        except OSError:  # unreadable folders hold no run of ours
            return
        for entry in inside:
            if not entry.is_symlink():
                yield from _walk(entry, depth - 1)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(_("cannot be read: {reason}.").format(reason=error.strerror), str(path)) from None
    except (ValueError, RecursionError) as error:
        raise RunError(_("is damaged: {reason}.").format(reason=error), str(path)) from None
    if not isinstance(value, dict):
        raise RunError(_("is damaged: an object is expected."), str(path))
    return value
