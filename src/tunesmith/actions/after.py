"""What follows training: evaluation, merging, and the list of runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith import rundir
from tunesmith.actions.model import proof_rows
from tunesmith.actions.opening import Opened, respond, supply_system
from tunesmith.actions.record import PACKAGES
from tunesmith.actions.rows import data_files, digest, open_sources, read_rows
from tunesmith.actions.voice import Voice
from tunesmith.conversation import Conversation
from tunesmith.errors import DataError, RunError, TemplateError
from tunesmith.i18n import _
from tunesmith.model.folder import locate
from tunesmith.model.quantize import Quantization

if TYPE_CHECKING:
    from tunesmith.evaluate.metrics import Metric
    from tunesmith.evaluate.results import Report
    from tunesmith.export.merge import Certificate
    from tunesmith.rundir import Target

SHOWN = 5  # rows left out that are named


def evaluate(
    opened: Opened, voice: Voice, *, data: Path | None = None, out: Path | None = None, overwrite: bool = False
) -> tuple[Report, Path]:
    """Answers the test rows, scores them, writes results, chart and page; returns the report and its folder."""
    from tunesmith.evaluate import run

    config = opened.config
    out = out or evaluation_folder(opened.target)
    rows = supply_system(opened, _test_rows(opened, data, voice)[: config.evaluation.limit], voice)
    section = config.evaluation
    load = cache(opened.model)
    found = run.evaluate(
        rows,
        respond(opened, voice, load),
        out=out,
        metrics=section.metrics,
        answer_template=config.answer_template,
        label=section.label,
        group_by=section.group_by or config.data.stratify_by,
        settings=_circumstances(opened, data),
        overwrite=overwrite,
        measure=lambda metric, conversations: _measured(opened, load, metric, conversations, voice),
        show=lambda report: _show(report, out),
    )
    opened.note(f"evaluated ({opened.target.why}): {json.dumps(found.totals, ensure_ascii=False)} in {out}")
    return found, out


def _show(found: Report, out: Path) -> None:
    from tunesmith.evaluate import plot, report

    if found.totals["groups"]:
        plot.subtype_accuracy(found, out / "subtype_accuracy.png")
    report.write(found, out / "report.html")


def _circumstances(opened: Opened, data: Path | None) -> dict[str, Any]:
    """What is kept with the results: all that decides the answers, the files of the rows, and the versions."""
    config = opened.config
    files = [data or config.data.test] if data or config.data.test else data_files(config.data)
    return identity(opened) | {
        "best_by": _chosen_by(opened.target),
        "limit": config.evaluation.limit,
        "data": [{"path": str(file), "sha256": digest([file])} for file in files if file and file.exists()],
        "versions": {name: version(name) for name in ("tunesmith", *PACKAGES)},
    }


def _measured(
    opened: Opened, load: Callable[[], Any], metric: Metric, conversations: Sequence[Conversation], voice: Voice
) -> list[dict[str, Any]]:
    """What a metric finds with the model itself, which answers have loaded already; rows as they were trained."""
    from tunesmith.train.plan import Row

    assert metric.measure is not None
    length, overflow = opened.config.data.max_length, opened.config.data.overflow
    rows = [Row(opened.encoder.encode(row, length, overflow).answers, str(row.origin)) for row in conversations]
    found = []
    with voice.progress(_("Measuring")) as advance:
        for score in metric.measure(load(), rows, opened.encoder.pad_id):
            found.append(score)
            advance(len(found), len(rows), "")
    return found


def identity(opened: Opened) -> dict[str, Any]:
    """All that decides an answer but the question: kept with the results; other answers are never taken for these."""
    from tunesmith.model.weights import fingerprint

    target, encoder = opened.target, opened.encoder
    adapter = target.adapter and rundir.digest(target.adapter / "adapter_model.safetensors")["sha256"]
    packed = Quantization.of(opened.config.model)
    return {
        "base": target.base,
        "base_fingerprint": fingerprint(locate(target.base)),
        "adapter": str(target.adapter) if target.adapter else None,
        "adapter_sha256": adapter,
        "step": target.step,
        "generation": opened.config.generation.model_dump(),
        "template_sha256": encoder.template.sha256,
        "bits": packed.bits if packed else None,
        "template": {
            "thinking": encoder.ready.thinking,
            "enable_thinking": encoder.ready.enable_thinking,
            "system": encoder.ready.system,
            "date": encoder.template.date,
        },
    }


def evaluation_folder(target: Target) -> Path:
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
    part = read_rows(config, open_sources(config, opened.encoder, voice), voice).parts["test"]
    return [*filter(None, map(asked, part.conversations()))]


def asked(conversation: Conversation) -> Conversation | None:
    """The conversation through its last trained answer, the one to be judged; None where there is none."""
    turns = conversation.trained_turns()
    return replace(conversation, messages=conversation.messages[: turns[-1] + 1]) if turns else None


def _rows_of(file: Path, opened: Opened, voice: Voice) -> list[Conversation]:
    """Every row of a file that can be asked; what can't is said. The file may hold conversations where the rows of
    training were made by templates."""
    from tunesmith.data import dataset

    section = opened.config.data.model_copy(update={"drop_duplicates": False})
    found = dataset.load(file, section)
    if section.prompt_template and not found.conversations:
        converted = section.model_copy(update={"prompt_template": None, "answer_template": None})
        with suppress(DataError):
            found = dataset.load(file, converted)
    left_out = [f"{row.origin}  {row.reason}" for row in found.rejected]
    usable = []
    for conversation in filter(None, map(asked, found.conversations)):
        try:
            refused = opened.refusal(replace(conversation, messages=conversation.messages[:-1]))
        except TemplateError as error:
            refused = str(error)
        if refused:
            left_out.append(f"{conversation.origin}  {refused}")
        else:
            usable.append(conversation)
    for line in [*found.notices, *left_out[:SHOWN]]:
        voice.say(line)
    if left_out:
        voice.say(_("{n} of {rows} rows can't be evaluated and are left out.").format(n=len(left_out), rows=found.rows))
    return usable


def merge(opened: Opened, out: Path | None, *, overwrite: bool = False) -> Certificate:
    from tunesmith.export.merge import merge as merge_target
    from tunesmith.model.quantize import Quantization

    certificate = merge_target(
        opened.target,
        out,
        overwrite=overwrite,
        rows=proof_rows(opened),
        stop_ids=opened.encoder.stop_ids,
        trained_on=Quantization.of(opened.config.model),
        trust_remote_code=opened.config.model.trust_remote_code,
    )
    told = {name: value for name, value in (opened.target.template() or {}).items() if name != "text"}
    if told:  # the merged model is asked as the run was
        rundir.write_json(Path(certificate.path) / rundir.ORIGIN, {"format": 1, "template": told})
    opened.note("merged: " + " ".join(certificate.describe()))
    return certificate


@dataclass(frozen=True)
class RunSummary:
    """One run of `runs`: its checkpoints, oldest first, with what was measured of each.

    `base` is the base model as the run names it, `started` a day; `damage` says why nothing is known.
    """

    path: Path
    base: str = ""
    started: str = ""
    finished: bool = False
    checkpoints: tuple[rundir.Checkpoint, ...] = ()
    best: int | None = None
    accuracy: dict[int, float] = field(default_factory=dict)
    damage: str = ""

    def asked(self, checkpoint: str) -> list[rundir.Checkpoint]:
        """What --checkpoint leaves to choose from: all of them for best, that one first; else the one it names."""
        if checkpoint == "best":
            return sorted(self.checkpoints, key=lambda c: (c.step != self.best, -c.step))
        name = checkpoint.removeprefix("checkpoint-")
        return [c for c in self.checkpoints if name == str(c.step)] or list(self.checkpoints[-1:])


def runs(root: Path) -> list[RunSummary]:
    """Every run in and below a folder, newest first; a damaged one is in the list with what is wrong."""
    return [_summary(path) for path in rundir.runs(root)]


def _summary(path: Path) -> RunSummary:
    try:
        record, best, checkpoints = rundir.record(path), rundir.best(path), rundir.checkpoints(path)
    except RunError as error:
        return RunSummary(path, damage=str(error))
    measured = {checkpoint.step: _accuracy(path, checkpoint.step) for checkpoint in checkpoints}
    return RunSummary(
        path,
        base=str(record.get("base") or ""),
        started=str(record.get("started") or "")[:10],
        finished=bool(record.get("finished")),
        checkpoints=tuple(checkpoints),
        best=best.step if best else None,
        accuracy={step: value for step, value in measured.items() if value is not None},
    )


def _accuracy(run: Path, step: int) -> float | None:
    from tunesmith.evaluate.results import Report

    try:
        return Report.read(run / "evaluation" / f"checkpoint-{step}").accuracy
    except RunError:
        return None
