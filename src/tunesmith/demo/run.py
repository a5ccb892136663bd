"""The main job from end to end on a small real model: data, check, preview, training, evaluation, charts, merging.

Every step is the action of the command that a user would type, and that command is said before it runs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tunesmith.actions import check
from tunesmith.actions.all import Outcome, everything, step
from tunesmith.actions.voice import Voice
from tunesmith.config.load import Loaded, load
from tunesmith.demo import task
from tunesmith.errors import RunError
from tunesmith.i18n import _
from tunesmith.model.packaged import base_model


@dataclass(frozen=True)
class Summary:
    """What came out, and the seconds in all."""

    outcome: Outcome
    seconds: float

    def lines(self) -> list[str]:
        return [*self.outcome.lines(), _("It took {minutes:.1f} minutes.").format(minutes=self.seconds / 60)]


def demo(folder: Path, voice: Voice, *, overwrite: bool = False, overrides: tuple[str, ...] = ()) -> Summary:
    """Runs it all in `folder`. RunError if something lies there already, unless it may be replaced."""
    started = time.monotonic()
    if (folder / "run").exists() and not overwrite:
        raise RunError(_("A demo lies there already. Replace it with --overwrite."), place=str(folder))
    base = base_model(progress=voice.say)
    loaded = _write_inputs(folder, base, overrides)
    step(voice, f"tunesmith check {folder}/run.yaml")
    check.check(loaded, voice)
    step(voice, f"tunesmith preview {folder}/run.yaml --html {folder}/preview.html")
    page = check.preview_html(loaded.config, voice, folder / "preview.html")
    outcome = everything(loaded, voice, overwrite=overwrite)
    given = {_("data"): folder / "data", _("settings"): folder / "run.yaml", _("what is trained"): page}
    outcome.paths = given | outcome.paths
    return Summary(outcome, time.monotonic() - started)


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
