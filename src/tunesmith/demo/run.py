"""The main job from end to end on a small real model: data, check, preview, training, evaluation, charts, merging.

Every step is the action of the command that a user would type, and that command is said before it runs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tunesmith.actions import after, check
from tunesmith.actions.compare import compare
from tunesmith.actions.opening import open_run
from tunesmith.actions.train import train
from tunesmith.actions.voice import Voice
from tunesmith.config.load import Loaded, load
from tunesmith.demo import task
from tunesmith.errors import RunError
from tunesmith.i18n import _
from tunesmith.model.packaged import base_model


@dataclass(frozen=True)
class Summary:
    """What came out: accuracies (0 to 1) on the same `rows` test rows, where everything lies, seconds in all."""

    base: float
    tuned: float
    rows: int
    checkpoint: int | None
    paths: dict[str, Path]
    seconds: float

    def lines(self) -> list[str]:
        gained = _("Accuracy on {n} test rows: {base:.1%} before, {tuned:.1%} after ({gain:+.0f} points).")
        head = gained.format(n=self.rows, base=self.base, tuned=self.tuned, gain=100 * (self.tuned - self.base))
        width = max(map(len, self.paths))
        took = _("It took {minutes:.1f} minutes.").format(minutes=self.seconds / 60)
        return [head, *(f"  {name:{width}}  {path}" for name, path in self.paths.items()), took]


def demo(folder: Path, voice: Voice, *, overwrite: bool = False, overrides: tuple[str, ...] = ()) -> Summary:
    """Runs it all in `folder`. RunError if something lies there already, unless it may be replaced."""
    started = time.monotonic()
    if (folder / "run").exists() and not overwrite:
        raise RunError(_("A demo lies there already. Replace it with --overwrite."), place=str(folder))
    base = base_model(progress=voice.say)
    loaded = _write_inputs(folder, base, overrides)
    run = folder / "run"

    _step(voice, f"tunesmith check {folder}/run.yaml")
    check.check(loaded, voice)
    _step(voice, f"tunesmith preview {folder}/run.yaml --html {folder}/preview.html")
    page = check.preview_html(loaded.config, voice, folder / "preview.html")
    _step(voice, f"tunesmith train {folder}/run.yaml")
    train(loaded, voice, overwrite=overwrite)
    _step(voice, f"tunesmith eval {run} --base")
    before, before_folder = after.evaluate(open_run(str(run), voice, base=True), voice)
    _step(voice, f"tunesmith eval {run}")
    opened = open_run(str(run), voice)
    tuned, tuned_folder = after.evaluate(opened, voice)
    _step(voice, f"tunesmith compare {run}")
    comparison = compare([before_folder, tuned_folder]).folder / "report.html"
    _step(voice, f"tunesmith merge {run}")
    for line in after.merge(opened, run / "merged", overwrite=True).describe():
        voice.say(line)
    return Summary(
        base=before.accuracy,
        tuned=tuned.accuracy,
        rows=tuned.totals["n"],
        checkpoint=opened.target.step,
        paths={
            _("data"): folder / "data",
            _("settings"): folder / "run.yaml",
            _("what is trained"): page,
            _("loss"): run / "loss.png",
            _("before"): before_folder / "report.html",
            _("after"): tuned_folder / "report.html",
            _("comparison"): comparison,
            _("merged model"): run / "merged",
        },
        seconds=time.monotonic() - started,
    )


def _write_inputs(folder: Path, base: Path, overrides: tuple[str, ...]) -> Loaded:
    """The raw rows, one file a subtype, and the settings: what a user would bring."""
    task.write(folder / "data")
    settings: dict[str, Any] = {
        "preset": "demo",
        "model": {"name_or_path": str(base)},
        "data": {
            "train": str(folder / "data"),
            "prompt_template": task.PROMPT_TEMPLATE,
            "answer_template": task.ANSWER_TEMPLATE,
        },
        "training": {"output_dir": str(folder / "run")},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return load(path, overrides)


def _step(voice: Voice, command: str) -> None:
    voice.say("")
    voice.say(f"$ {command}")
