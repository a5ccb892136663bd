"""What follows training: chat, batch, evaluation, merging, and the list of runs. Each takes a RUN (see rundir)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith import rundir
from tunesmith.actions.prepare import digest, prepare, tokenizer_folder
from tunesmith.actions.voice import Voice
from tunesmith.config.load import load
from tunesmith.conversation import Conversation, Message
from tunesmith.errors import DataError, RunError
from tunesmith.i18n import _
from tunesmith.tokens.encode import Encoder

if TYPE_CHECKING:
    from tunesmith.config.schema import Config
    from tunesmith.evaluate.results import Report
    from tunesmith.export.merge import Certificate
    from tunesmith.generate.engine import Generated
    from tunesmith.generate.session import Session
    from tunesmith.rundir import Target


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

    target = rundir.find(run, checkpoint=checkpoint, base=base, model=model, tokenizer=tokenizer)
    voice.say(target.why)
    path = target.run / "config.yaml" if target.run else None
    config = load(path, overrides, files=False).config
    template, text = config.template, None
    if target.run is not None:
        kept = rundir.record(target.run)["template"]
        text = kept["text"]
        same = {name: kept.get(name) for name in ("thinking", "system", "date")}
        template = TemplateSection(**same, kwargs=kept.get("kwargs") or {})
    return Opened(target, Encoder.load(tokenizer_folder(target.tokenizer), template, text), config)


def chat(opened: Opened, system: str | None) -> Session:
    from tunesmith.generate.session import Session

    return Session(opened.model(), opened.encoder, opened.config.generation, system)


def batch(opened: Opened, source: Path, out: Path, voice: Voice, *, overwrite: bool = False) -> int:
    """Answers every row of `source` into `out` (.json a list, else one JSON a line), in order. Returns their number."""
    from tunesmith.data.prompts import read_prompts

    if out.exists() and not overwrite:
        raise RunError(_("The file exists. Replace it with --overwrite."), place=str(out))
    rows, notices = read_prompts(source, opened.config.data)
    for notice in notices:
        voice.say(notice)
    answers = iter(respond(opened, voice)([row.conversation for row in rows if row.conversation]))
    records = []
    for row in rows:
        record = dict(row.value)
        if row.conversation is None:
            records.append(record | {"prediction": None, "error": row.error})
            continue
        answer = next(answers)
        if row.reference is not None:
            record["reference"] = row.reference
        record["prediction"] = answer.message.content
        if answer.message.reasoning:
            record["prediction_thinking"] = answer.message.reasoning
        records.append(record)
    _write_records(out, records)
    return len(records)


def _write_records(out: Path, records: list[dict[str, Any]]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        if out.suffix == ".json":
            json.dump(records, file, ensure_ascii=False, indent=1)
            file.write("\n")
        else:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    unfinished.replace(out)


def respond(opened: Opened, voice: Voice) -> Callable[[Sequence[Conversation]], Iterable[Generated]]:
    """Conversations to answers, with a bar."""
    from tunesmith.generate.engine import generate

    model = opened.model()

    def answers(conversations: Sequence[Conversation]) -> Iterable[Generated]:
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

    config, target = opened.config, opened.target
    rows = _test_rows(opened, data, voice)[: config.evaluation.limit]
    out = out or _evaluation_folder(target)
    section = config.evaluation
    found = run.evaluate(
        rows,
        respond(opened, voice),
        out=out,
        metrics=section.metrics,
        answer_template=config.data.answer_template,
        label=section.label,
        group_by=section.group_by or config.data.stratify_by,
        settings={
            "base": target.base,
            "adapter": str(target.adapter) if target.adapter else None,
            "step": target.step,
            "generation": config.generation.model_dump(),
            "template_sha256": opened.encoder.template.sha256,
        },
        overwrite=overwrite,
    )
    if found.totals["groups"]:
        plot.subtype_accuracy(found, out / "subtype_accuracy.png")
    report.write(found, out / "report.html")
    return found, out


def _evaluation_folder(target: Target) -> Path:
    if target.run is None:
        raise RunError(_("Name the folder for the results with -o DIR."), place=target.base)
    return target.run / "evaluation" / ("base" if target.step is None else f"checkpoint-{target.step}")


def _test_rows(opened: Opened, data: Path | None, voice: Voice) -> list[Conversation]:
    """The given file's rows, else the run's own test rows, split off again as they were for training."""
    from tunesmith.data import dataset

    config = opened.config
    if data is not None:
        return dataset.load(data, config.data).conversations
    if opened.target.run is None:
        raise DataError(_("Name the test rows with --data FILE."))
    if config.data.test is not None:
        return dataset.load(config.data.test, config.data).conversations
    if not config.data.test_ratio:
        raise DataError(_("The run split no test rows off. Name some with --data FILE."))
    config.model.tokenizer = str(opened.encoder.tokenizer.folder)
    prepared = prepare(config, voice)
    train = config.data.train if isinstance(config.data.train, list) else [config.data.train]
    if digest([p for p in (*train, config.data.validation) if p]) != rundir.record(opened.target.run)["data_sha256"]:
        raise DataError(_("The data changed since training, so its test rows are unknown. Name them with --data FILE."))
    return prepared.test.conversations


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
        accuracy = {}
        for checkpoint in rundir.checkpoints(path):
            result = path / "evaluation" / f"checkpoint-{checkpoint.step}" / "evaluation_results.json"
            if result.is_file():
                accuracy[checkpoint.step] = json.loads(result.read_text(encoding="utf-8"))["totals"]["accuracy"]
        finished = bool(rundir.record(path).get("finished"))
        best_step = best.step if best else None
        found.append(RunSummary(path, finished, rundir.checkpoints(path), best_step, accuracy))
    return found
