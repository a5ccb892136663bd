"""What follows training: chat, evaluation, merging, and the list of runs. Each takes a RUN (see rundir)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith import rundir
from tunesmith.actions.base import tokenizer_folder
from tunesmith.actions.rows import data_files, digest, encode, read_rows
from tunesmith.actions.voice import Voice
from tunesmith.config.load import load
from tunesmith.conversation import Conversation, Message
from tunesmith.errors import ConfigError, DataError, Problem, RunError, TemplateError
from tunesmith.i18n import _
from tunesmith.tokens.encode import Encoder

if TYPE_CHECKING:
    from tunesmith.config.schema import Config
    from tunesmith.evaluate.results import Report
    from tunesmith.export.merge import Certificate
    from tunesmith.generate.engine import Generated
    from tunesmith.generate.session import Session
    from tunesmith.rundir import Target

SHOWN = 5  # rows left out that are named

ACTIVE = ("model.dtype", "model.device", "model.trust_remote_code")  # what loading a model still asks


@dataclass(frozen=True)
class Opened:
    """A RUN with its settings, ready to be loaded; `config` is the run's own, or the defaults with the overrides."""

    target: Target
    encoder: Encoder
    config: Config

    def model(self) -> Any:
        from tunesmith.model.load import load_target

        section = self.config.model
        given: dict[str, Any] = {
            "dtype": section.dtype,
            "device": section.device,
            "trust_remote_code": section.trust_remote_code,
        }
        return load_target(self.target, **given)[0]


def open_run(
    run: str,
    voice: Voice,
    *,
    checkpoint: str = "best",
    base: bool = False,
    model: str | None = None,
    tokenizer: str | None = None,
    overrides: Sequence[str] = (),
) -> Opened:
    """Finds out what RUN means and says so. The encoder is the one with which it was trained."""
    from tunesmith.config.schema import TemplateSection

    _refuse_idle(overrides)
    target = rundir.find(run, checkpoint=checkpoint, base=base, model=model, tokenizer=tokenizer)
    voice.say(target.why)
    path = target.run / "config.yaml" if target.run else None
    config = load(path, overrides, files=False).config
    template, text = config.template, None
    if target.run is not None:
        kept = rundir.record(target.run).get("template")
        if not isinstance(kept, dict) or not kept.get("text"):
            raise RunError(_("records no chat template: it is damaged."), place=str(target.run / rundir.RUN))
        text = kept["text"]
        same = {name: kept.get(name) for name in ("thinking", "system", "date")}
        template = TemplateSection(**same, kwargs=kept.get("kwargs") or {})
    return Opened(target, Encoder.load(tokenizer_folder(target.tokenizer), template, text), config)


def _refuse_idle(overrides: Sequence[str]) -> None:
    """Settings that a finished run can't follow any more are refused, not swallowed."""
    names = [word.partition("=")[0] for word in overrides]
    idle = [
        name for name in names if not name.startswith(("generation.", "evaluation.", "data.")) and name not in ACTIVE
    ]
    if idle:
        text = _("This belongs to training; of a run that is there, only generation, evaluation and data can be set.")
        raise ConfigError([Problem(name, text) for name in idle])


def chat(opened: Opened, system: str | None) -> Session:
    """A dialogue under this system prompt; an empty one is none; None leaves it to what the run was trained with."""
    from tunesmith.generate.session import Session

    if system is not None:
        opened.encoder.system = None
    return Session(opened.model(), opened.encoder, opened.config.generation, system)


def respond(opened: Opened, voice: Voice) -> Callable[[Sequence[Conversation]], Iterable[Generated]]:
    """Conversations to answers, with a bar. The model is loaded when the first is wanted."""

    def answers(conversations: Sequence[Conversation]) -> Iterable[Generated]:
        if not conversations:
            return
        from tunesmith.generate.engine import generate

        model = opened.model()
        with voice.progress(_("Answering")) as advance:
            done = 0

            def moved(rows: int) -> None:
                nonlocal done
                done += rows
                advance(done, len(conversations), "")

            yield from generate(model, opened.encoder, conversations, opened.config.generation, progress=moved)

    return answers


def evaluate(
    opened: Opened, voice: Voice, *, data: Path | None = None, out: Path | None = None, overwrite: bool = False
) -> tuple[Report, Path]:
    """Answers the test rows, scores them, writes results, chart and page; returns the report and its folder."""
    from tunesmith.evaluate import plot, report, run

    config = opened.config
    out = out or _evaluation_folder(opened.target)
    rows = _test_rows(opened, data, voice)[: config.evaluation.limit]
    section = config.evaluation
    found = run.evaluate(
        rows,
        respond(opened, voice),
        out=out,
        metrics=section.metrics,
        answer_template=config.data.answer_template,
        label=section.label,
        group_by=section.group_by or config.data.stratify_by,
        settings=_identity(opened) | {"best_by": _chosen_by(opened.target)},
        overwrite=overwrite,
    )
    if found.totals["groups"]:
        plot.subtype_accuracy(found, out / "subtype_accuracy.png")
    report.write(found, out / "report.html")
    return found, out


def _identity(opened: Opened) -> dict[str, Any]:
    """All that decides an answer but the question: kept with the results; other answers are never taken for these."""
    from tunesmith.model.load import locate
    from tunesmith.model.weights import fingerprint

    target, encoder = opened.target, opened.encoder
    adapter = target.adapter and rundir.digest(target.adapter / "adapter_model.safetensors")["sha256"]
    return {
        "base": target.base,
        "base_fingerprint": fingerprint(locate(target.base)),
        "adapter": str(target.adapter) if target.adapter else None,
        "adapter_sha256": adapter,
        "step": target.step,
        "generation": opened.config.generation.model_dump(),
        "template_sha256": encoder.template.sha256,
        "template": {"thinking": encoder.thinking, "system": encoder.system, "date": encoder.template.date},
    }


def _evaluation_folder(target: Target) -> Path:
    if target.run is None:
        raise RunError(_("Name the folder for the results with -o DIR."), place=target.base)
    return target.run / "evaluation" / ("base" if target.step is None else f"checkpoint-{target.step}")


def _chosen_by(target: Target) -> str | None:
    """The rows whose loss chose the best checkpoint: validation, test, or none."""
    return rundir.record(target.run).get("best_by") if target.run else None


def _test_rows(opened: Opened, data: Path | None, voice: Voice) -> list[Conversation]:
    """The given file's rows, else the run's own test rows, split off again as they were for training."""
    config, run = opened.config, opened.target.run
    if data is not None:
        return _rows_of(data, opened, voice)
    if run is None:
        raise DataError(_("Name the test rows with --data FILE."))
    if not (config.data.test or config.data.test_ratio):
        raise DataError(_("The run split no test rows off. Name some with --data FILE."))
    if _chosen_by(opened.target) == "test" and opened.target.step is not None:
        voice.say(_("These test rows also chose the best checkpoint, so the result on them flatters."))
    if config.data.test is not None:
        return _rows_of(config.data.test, opened, voice)
    files = data_files(config.data)
    if digest([file for file in files if file.exists()]) != rundir.record(run)["data_sha256"]:
        text = _("The data changed since training, so its test rows are unknown. Name them with --data FILE.")
        raise DataError(text, place=str(files[0]))
    part = read_rows(config).parts["test"]
    for _step in encode(part, opened.encoder, config.data):
        pass
    return [asked for asked in map(_asked, part.conversations) if asked]


def _asked(conversation: Conversation) -> Conversation | None:
    """The conversation through its last trained answer, the one to be judged; None where there is none."""
    turns = conversation.trained_turns()
    return replace(conversation, messages=conversation.messages[: turns[-1] + 1]) if turns else None


def _rows_of(file: Path, opened: Opened, voice: Voice) -> list[Conversation]:
    """Every row of a file that can be asked; what can't is said."""
    from tunesmith.data import dataset

    found = dataset.load(file, opened.config.data.model_copy(update={"drop_duplicates": False}))
    left_out = [f"{row.origin}  {row.reason}" for row in found.rejected]
    usable = []
    for conversation in filter(None, map(_asked, found.conversations)):
        try:
            opened.encoder.context(replace(conversation, messages=conversation.messages[:-1]))
            usable.append(conversation)
        except TemplateError as error:
            left_out.append(f"{conversation.origin}  {error}")
    for line in [*found.notices, *left_out[:SHOWN]]:
        voice.say(line)
    if left_out:
        voice.say(_("{n} of {rows} rows can't be evaluated and are left out.").format(n=len(left_out), rows=found.rows))
    return usable


def merge(opened: Opened, out: Path | None, *, overwrite: bool = False) -> Certificate:
    from tunesmith.export.merge import merge as merge_target

    question = Conversation((Message("user", "Hello"),))
    rows = [opened.encoder.context(question)]
    given: dict[str, Any] = {"overwrite": overwrite, "trust_remote_code": opened.config.model.trust_remote_code}
    return merge_target(opened.target, out, rows=rows, stop_ids=opened.encoder.stop_ids, **given)


@dataclass(frozen=True)
class RunSummary:
    """One run of `runs`: its checkpoints with what was measured of each."""

    path: Path
    finished: bool
    checkpoints: list[rundir.Checkpoint]
    best: int | None
    accuracy: dict[int, float]


def runs(root: Path) -> list[RunSummary]:
    found = []
    for path in rundir.runs(root):
        best = rundir.best(path)
        checkpoints = rundir.checkpoints(path)
        measured = {checkpoint.step: _accuracy(path, checkpoint.step) for checkpoint in checkpoints}
        accuracy = {step: value for step, value in measured.items() if value is not None}
        finished = bool(rundir.record(path).get("finished"))
        found.append(RunSummary(path, finished, checkpoints, best.step if best else None, accuracy))
    return found


def _accuracy(run: Path, step: int) -> float | None:
    from tunesmith.evaluate.results import Report

    try:
        return Report.read(run / "evaluation" / f"checkpoint-{step}").accuracy
    except RunError:
        return None
