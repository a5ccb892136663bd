"""`all`: train, evaluate the base and the result, draw, merge. What is finished is not done again, so the same command
goes on wherever it broke off.

Each step is the action of a command that a user could type, and that command is said before it runs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import east_asian_width

from tunesmith import rundir
from tunesmith.actions.after import evaluate, evaluation_folder, identity, merge
from tunesmith.actions.compare import compare
from tunesmith.actions.opening import Opened, open_run
from tunesmith.actions.record import whole_paths, write_settings
from tunesmith.actions.resume import changes, content, date_of, longer
from tunesmith.actions.rows import data_files, digest
from tunesmith.actions.train import train
from tunesmith.actions.voice import Voice
from tunesmith.errors import ConfigError, Problem, RunError
from tunesmith.i18n import _
from tunesmith.train.world import World

if TYPE_CHECKING:
    from tunesmith.config.load import Loaded
    from tunesmith.evaluate.results import Report

MERGED = "merged"


@dataclass
class Outcome:
    """What came out: the run, the accuracies where there were test rows, and where everything lies."""

    run: Path
    step: int | None = None
    base: Report | None = None
    tuned: Report | None = None
    paths: dict[str, Path] = field(default_factory=dict)

    def lines(self) -> list[str]:
        said = []
        if self.base is not None and self.tuned is not None:
            text = _("Accuracy on {n} test rows: {base:.1%} before, {tuned:.1%} after ({gain:+.0f} points).")
            before, after = self.base.accuracy, self.tuned.accuracy
            said = [text.format(n=self.tuned.totals["n"], base=before, tuned=after, gain=100 * (after - before))]
        width = max(map(_columns, self.paths), default=0)
        return said + [f"  {name}{' ' * (width - _columns(name))}  {path}" for name, path in self.paths.items()]


def _columns(text: str) -> int:
    """How wide a terminal shows it: a Chinese character takes two columns."""
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


def everything(loaded: Loaded, voice: Voice, *, overwrite: bool = False) -> Outcome:
    """Runs every step that is not finished. Raises what `train`, `evaluate` and `merge` raise."""
    if World.of_environment().several:
        raise ConfigError(_("Several processes train together and do nothing else: tunesmith train."))
    run = _trained(loaded, voice, overwrite)
    outcome = Outcome(run, paths={_("loss"): run / "loss.png"})
    tested = "test" in json.loads((run / "ledger.json").read_text(encoding="utf-8"))["parts"]
    if tested:
        step(voice, f"tunesmith eval {run} --base")
        base, before = _evaluated(open_run(str(run), voice, base=True), voice)
        step(voice, f"tunesmith eval {run}")
        opened = open_run(str(run), voice)
        tuned, after = _evaluated(opened, voice)
        outcome.base, outcome.tuned = base, tuned
        outcome.paths |= {_("before"): before / "report.html", _("after"): after / "report.html"}
        step(voice, f"tunesmith compare {run}")
        outcome.paths[_("comparison")] = compare([before, after], overwrite=True).folder / "report.html"
        step(voice, f"tunesmith merge {run}")
    else:
        voice.say(_("There are no test rows, so nothing is evaluated; data.test_ratio=0.2 would split some off."))
        step(voice, f"tunesmith merge {run}")
        opened = open_run(str(run), voice)
    outcome.step = opened.target.step
    outcome.paths[_("merged model")] = _merged(opened, run / MERGED, voice)
    return outcome


def _trained(loaded: Loaded, voice: Voice, overwrite: bool) -> Path:
    config = whole_paths(loaded.config)
    run = config.training.output_dir
    step(voice, f"tunesmith train {loaded.path or run or ''}".rstrip())
    if run is None or overwrite or not (run / rundir.RUN).is_file():
        return train(loaded, voice, overwrite=overwrite)
    if not rundir.record(run).get("finished") or longer(run, config):
        return train(loaded, voice, resume=rundir.latest(run) is not None)
    config.template.date = date_of(run)
    problems = content(run, data=digest(data_files(config.data))) + changes(run, config)
    if problems:
        advice = _("Go on with what the run began with, or choose another folder with -o DIR.")
        raise RunError([*problems, Problem("", advice)])
    write_settings(run, config, loaded)  # how to generate and what to evaluate may be other than it was
    _done(voice)
    return run


def _evaluated(opened: Opened, voice: Voice) -> tuple[Report, Path]:
    """The report, as it lies there where it was made by the same model under the same settings."""
    from tunesmith.evaluate.results import Report

    folder = evaluation_folder(opened.target)
    try:
        report = Report.read(folder)
    except RunError:
        return evaluate(opened, voice, out=folder, overwrite=True)
    wanted = json.loads(json.dumps(identity(opened), default=str))
    section = opened.config.evaluation
    wanted |= {"limit": section.limit, "group_by": section.group_by or opened.config.data.stratify_by}
    wanted |= {"label": section.label, "answer_template": opened.config.answer_template}
    wanted |= {"metrics": section.metrics} if section.metrics else {}
    if any(report.settings.get(name) != value for name, value in wanted.items()):
        return evaluate(opened, voice, out=folder, overwrite=True)
    _done(voice)
    return report, folder


def _merged(opened: Opened, out: Path, voice: Voice) -> Path:
    """The model in one folder; where all weights were trained, that is the checkpoint."""
    adapter = opened.target.adapter
    if adapter is None:
        voice.say(_("All weights were trained: the checkpoint is the whole model."))
        return Path(opened.target.base)
    from tunesmith.export.merge import CERTIFICATE

    try:
        proof: dict[str, Any] = json.loads((out / CERTIFICATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        proof = {}
    if proof.get("adapter") == str(adapter):
        _done(voice)
        return out
    for line in merge(opened, out, overwrite=out.exists()).describe():
        voice.say(line)
    return out


def step(voice: Voice, command: str) -> None:
    """Says the command that a user would type for what comes now."""
    voice.say("")
    voice.say(f"$ {command}")


def _done(voice: Voice) -> None:
    voice.say(_("Done already."))
